"""A gateway that takes payments on a real Tempo chain, a buyer, and a node that misbehaves."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mpp_gateway.crypto.secp256k1 import address_of, sign
from mpp_gateway.protocol import attribution, tempo_proof
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.tempo_transaction import (
    EXPIRING_NONCE_KEY,
    Call,
    TempoTransaction,
    Unsigned,
)
from mpp_gateway.rails.tempo.tip20 import Movement
from tests.support import upstream as upstreams
from tests.support.anvil import CHAIN_ID, PATH_USD, Anvil, address, anvil, new_key
from tests.support.evm import FaultyNode, now
from tests.support.paid import ROUTES, WAIT_S, ChainThread, Gatekeeper, Paid, serve, wait_until
from tests.support.proxy import config_text
from tests.support.stores import SqlitePlace

PRICE = 10_000
PURSE = 1_000_000
LIFE_S = 25
MAX_FEE_WEI = 25_000_000_000
GAS = 1_000_000


class TempoNode(FaultyNode):
    """Passes questions on to anvil; the faults are those of `FaultyNode`."""

    async def _ask(self, asked: dict[str, Any], name: str) -> bytes:
        answer = await asyncio.to_thread(self.chain.answer, asked)
        if name in self.then:
            happened = self.then.pop(name)()
            if asyncio.iscoroutine(happened):
                await happened
        return answer


class TempoThread(ChainThread):
    """A loop for what stands before the chain, and the chain's balances."""

    def __init__(self, chain: Anvil) -> None:
        self.anvil = chain
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def balance(self, owner: str) -> int:
        return self.anvil.balance(bytes.fromhex(owner[2:]))

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(WAIT_S)


def source_of(key: bytes, chain_id: int = CHAIN_ID) -> str:
    return f"did:pkh:eip155:{chain_id}:{address(key)}"


def moves(challenge: Challenge, key: bytes, **changes: Any) -> tuple[Movement, ...]:
    """Return what an honest buyer moves for a challenge; `changes` are of the main movement."""
    request = challenge.request_object
    splits = request["methodDetails"].get("splits", [])
    total = int(request["amount"])
    shares = [
        Movement(address_of(key), bytes.fromhex(split["recipient"][2:]), int(split["amount"]))
        for split in splits
    ]
    main = Movement(
        address_of(key),
        bytes.fromhex(request["recipient"][2:]),
        total - sum(share.amount_minor for share in shares),
        attribution.memo_of(challenge.id, challenge.realm),
    )
    return (replace(main, **changes), *shares)


def signed(
    key: bytes, moved: tuple[Movement, ...], *, token: bytes = PATH_USD, **changes: Any
) -> TempoTransaction:
    """Return a transaction of these transfers; `changes` are of its fields."""
    unsigned = Unsigned(
        chain_id=CHAIN_ID,
        max_priority_fee=1,
        max_fee=MAX_FEE_WEI,
        gas_limit=GAS,
        calls=tuple(Call(token, 0, movement.data) for movement in moved),
        nonce_key=EXPIRING_NONCE_KEY,
        nonce=0,
        valid_before=now() + LIFE_S,
        fee_token=PATH_USD,
    )
    unsigned = replace(unsigned, **changes)
    return TempoTransaction.decode(unsigned.signed(sign(unsigned.digest, key)))


def pull(challenge: Challenge, key: bytes, **changes: Any) -> Credential:
    """Return a credential with a signed transaction."""
    raw = signed(key, moves(challenge, key), **changes).raw
    payload = {"type": "transaction", "signature": "0x" + raw.hex()}
    return Credential(challenge, payload, source_of(key))


def push(challenge: Challenge, key: bytes, tx_hash: str) -> Credential:
    """Return a credential with the hash of a transaction."""
    return Credential(challenge, {"type": "hash", "hash": tx_hash}, source_of(key))


def zero(challenge: Challenge, key: bytes, version: str = "3") -> Credential:
    """Return a credential that pays nothing."""
    digest = tempo_proof.digest(version, CHAIN_ID, address_of(key), challenge.id, challenge.realm)
    payload = {"type": "proof", "signature": "0x" + sign(digest, key).hex()}
    return Credential(challenge, payload, source_of(key))


@dataclass
class TempoShop(Paid):
    """`Paid`, with a Tempo buyer. `buy` signs a transaction for the gateway to send."""

    @property
    def anvil(self) -> Anvil:
        return self.chain.anvil

    def buy(self, target: str = "/api/paid", **changes: Any) -> Credential:
        return pull(self.challenge(target), self.key, **changes)

    def transfer(self, challenge: Challenge, key: bytes | None = None, **changes: Any) -> str:
        """Let the buyer send the payment itself; return the transaction."""
        key = key or self.key
        return self.broadcast(signed(key, moves(challenge, key, **changes)))

    def broadcast(self, transaction: TempoTransaction) -> str:
        """Send it, and wait for its block."""
        tx_hash = self.anvil.ask("eth_sendRawTransaction", "0x" + transaction.raw.hex())
        assert tx_hash == transaction.tx_hash
        wait_until(lambda: self.anvil.receipt(tx_hash), "the block")
        return tx_hash


@contextmanager
def tempo_parts(
    tmp_path: Path, *, timeouts: str = "", method: str = "", routes: str = ROUTES
) -> Iterator[TempoShop]:
    """Run everything but the gateway; `TempoShop.config` is the file that it would serve."""
    chain = anvil()
    key, payee = new_key(), address(new_key())
    chain.fund(address_of(key), PURSE)
    thread = TempoThread(chain)
    node = TempoNode(chain)
    keeper = Gatekeeper()
    with ExitStack() as stack:
        stack.callback(thread.close)
        node.url = serve(stack, thread, node.serve)
        up = stack.enter_context(upstreams.upstream(keeper))
        place = SqlitePlace(tmp_path / "gateway.db")
        text = config_text(
            f"  api:\n    base_url: {up.url}\n    routes:{routes}",
            f'  tempo: {{chain_id: {CHAIN_ID}, rpc_url: "{node.url}", currency:'
            f' "0x{PATH_USD.hex()}", recipient: "{payee}"{method}}}\n',
            store=place.url,
            more=f"timeouts: {{{timeouts}}}" if timeouts else "",
        )
        shop = TempoShop(thread, node, up, keeper, place, payee, key, text)
        stack.callback(keeper.opened.set)
        yield shop


@contextmanager
def tempo_shop(tmp_path: Path, **options: Any) -> Iterator[TempoShop]:
    """Run a gateway that sells for pathUSD."""
    with tempo_parts(tmp_path, **options) as shop:
        shop.start()
        try:
            yield shop
        finally:
            shop.keeper.opened.set()
            shop.node.faults.clear()
            shop.node.lies.clear()
            shop.stack.close()


def later(shop: TempoShop, seconds: int) -> None:
    """Let the gateway's clock go on; the chain's stays."""
    later_s = now() + seconds
    assert shop.proxy is not None
    assert shop.proxy.runtime.serving is not None
    shop.proxy.runtime.serving.executor.clock = lambda: later_s
