"""The demo chain as foreign clients see it: web3.py speaks to it over HTTP and believes it."""

import asyncio
from contextlib import asynccontextmanager

import aiohttp
import pytest
from eth_account import Account
from web3 import AsyncHTTPProvider, AsyncWeb3
from web3.exceptions import ContractLogicError, Web3RPCError

from mpp_gateway.demo.chain import DemoChain, token_artifact
from tests.support.evm import address, now, settings_of
from tests.support.facilitator import submit

OWNER = Account.from_key(b"\x11" * 32)
OTHER = Account.from_key(b"\x12" * 32)


@asynccontextmanager
async def web3_on_a_chain(**options):
    async with DemoChain(**options) as chain:
        await chain.mint(OWNER.address, 1_000)
        await chain.fund_gas(OWNER.address)
        w3 = AsyncWeb3(AsyncHTTPProvider(chain.rpc_url))
        yield chain, w3, w3.eth.contract(chain.token_address, abi=token_artifact()["abi"])
        await w3.provider.disconnect()


def test_a_foreign_client_deploys_nothing_and_moves_tokens():
    async def story() -> None:
        async with web3_on_a_chain() as (chain, w3, token):
            assert await w3.eth.chain_id == chain.chain_id
            assert await token.functions.name().call() == "Demo Dollar"
            assert await token.functions.decimals().call() == 6
            call = token.functions.transfer(OTHER.address, 400)
            transaction = await call.build_transaction(
                {
                    "from": OWNER.address,
                    "nonce": await w3.eth.get_transaction_count(OWNER.address),
                }
            )
            raw = OWNER.sign_transaction(transaction).raw_transaction
            tx_hash = await w3.eth.send_raw_transaction(raw)
            receipt = await w3.eth.wait_for_transaction_receipt(tx_hash)
            assert receipt.status == 1
            (event,) = token.events.Transfer().process_receipt(receipt)
            assert (event.args["to"], event.args["value"]) == (OTHER.address, 400)
            assert await chain.balance_of(OTHER.address) == 400
            logs = await token.events.Transfer().get_logs(
                from_block=0, argument_filters={"to": OTHER.address}
            )
            assert [log.transactionHash for log in logs] == [tx_hash]
            mined = await w3.eth.get_transaction(tx_hash)
            assert (mined["from"], mined.blockNumber) == (OWNER.address, receipt.blockNumber)
            block = await w3.eth.get_block(receipt.blockHash)
            assert block.transactions == [tx_hash]
            assert (await w3.eth.fee_history(2, "latest", [50])).baseFeePerGas

    asyncio.run(story())


def test_the_tokens_domain_is_the_one_we_sign():
    async def story() -> None:
        async with web3_on_a_chain() as (chain, _, token):
            theirs = await token.functions.DOMAIN_SEPARATOR().call()
            assert theirs == settings_of(chain).domain.separator

    asyncio.run(story())


def test_a_revert_reaches_a_foreign_client_with_its_reason():
    async def story() -> None:
        async with web3_on_a_chain() as (_, __, token):
            with pytest.raises(ContractLogicError, match="exceeds balance"):
                await token.functions.transfer(OTHER.address, 10**9).call({"from": OWNER.address})
            with pytest.raises(ContractLogicError, match="not the minter"):
                await token.functions.mint(OWNER.address, 1).estimate_gas({"from": OWNER.address})

    asyncio.run(story())


def test_a_transaction_with_a_gap_before_it_waits_and_then_both_are_mined():
    async def story() -> None:
        async with web3_on_a_chain() as (chain, w3, _):
            later = await w3.eth.send_raw_transaction(_to_other(chain, 1))
            assert await w3.eth.get_transaction_count(OWNER.address, "pending") == 0
            sooner = await w3.eth.send_raw_transaction(_to_other(chain, 0))
            for tx_hash in (sooner, later):
                assert (await w3.eth.get_transaction_receipt(tx_hash)).status == 1
            with pytest.raises(Web3RPCError, match="nonce too low"):
                await w3.eth.send_raw_transaction(_to_other(chain, 0, wei=7))

    asyncio.run(story())


@pytest.mark.parametrize("chain_id", [1, 84532, 2**53 - 1])
def test_a_transaction_for_another_chain_is_refused(chain_id):
    async def story() -> None:
        async with web3_on_a_chain() as (_, w3, __):
            foreign = OWNER.sign_transaction(_plain(chain_id, 0)).raw_transaction
            with pytest.raises(Web3RPCError, match="chain"):
                await w3.eth.send_raw_transaction(foreign)

    asyncio.run(story())


def test_block_time_follows_the_clock_and_never_runs_ahead_of_it_under_load():
    async def story() -> None:
        async with web3_on_a_chain() as (chain, w3, _):
            await asyncio.gather(*(chain.mint(OTHER.address, 1) for _ in range(50)))
            head = await w3.eth.get_block("latest")
            assert head.number >= 50
            assert now() - 5 <= head.timestamp <= now()

    asyncio.run(story())


def test_a_clock_that_jumps_back_leaves_block_times_in_order():
    clock = [2_000_000_000]

    async def story() -> None:
        async with DemoChain(clock=lambda: clock[0]) as chain:
            clock[0] -= 1000
            await chain.mint(OTHER.address, 1)
            assert await chain.run(lambda node: node.now_s()) == 2_000_000_000

    asyncio.run(story())


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b"7", -32600),
        (b'{"id":1,"method":"eth_mining","params":[]}', -32601),
        (b'{"id":1,"method":"eth_getBalance","params":["0x12"]}', -32602),
        (b'{"id":1,"method":"eth_sendRawTransaction","params":["0x00"]}', -32000),
        (b'{"id":1,"method":"eth_sendRawTransaction","params":["0x02c0"]}', -32000),
    ],
)
def test_a_bad_question_gets_a_json_rpc_error(body, code):
    async def story() -> None:
        async with (
            DemoChain() as chain,
            aiohttp.ClientSession() as session,
            session.post(chain.rpc_url, data=body) as response,
        ):
            assert (await response.json())["error"]["code"] == code

    asyncio.run(story())


def test_a_batch_is_answered_in_order():
    async def story() -> None:
        async with DemoChain() as chain, aiohttp.ClientSession() as session:
            batch = [{"id": n, "method": "eth_chainId"} for n in range(3)]
            async with session.post(chain.rpc_url, json=batch) as response:
                answers = await response.json()
            assert [answer["id"] for answer in answers] == [0, 1, 2]
            assert answers[0]["result"] == hex(chain.chain_id)

    asyncio.run(story())


def test_only_the_deployer_mints():
    async def story() -> None:
        async with web3_on_a_chain() as (chain, _, __):
            from mpp_gateway.demo.node import RpcError
            from mpp_gateway.rails.evm import abi

            payload = abi.mint(bytes.fromhex(OWNER.address[2:]), 5)
            with pytest.raises(RpcError, match="not the minter"):
                await submit(chain, payload, b"\x11" * 32)
            assert address(b"\x11" * 32) == OWNER.address

    asyncio.run(story())


def _plain(chain_id: int, nonce: int, wei: int = 1) -> dict:
    return {
        "type": 2,
        "chainId": chain_id,
        "nonce": nonce,
        "to": OTHER.address,
        "value": wei,
        "gas": 21_000,
        "maxFeePerGas": 10**10,
        "maxPriorityFeePerGas": 10**9,
    }


def _to_other(chain: DemoChain, nonce: int, wei: int = 1) -> bytes:
    return bytes(OWNER.sign_transaction(_plain(chain.chain_id, nonce, wei)).raw_transaction)
