"""One Ethereum node in memory: py-evm blocks, a small mempool, JSON values out. Synchronous.

Made for demos and tests. What it leaves out: consensus, peers, reorganisations, gas markets.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from eth._utils.address import generate_contract_address
from eth.constants import CREATE_CONTRACT_ADDRESS
from eth.exceptions import OutOfGas, PyEVMError, Revert, VMError
from eth.vm.forks.shanghai import ShanghaiVM
from eth_keys.exceptions import BadSignature
from eth_tester.backends import PyEVMBackend
from eth_typing import Address
from eth_utils.exceptions import ValidationError
from rlp.exceptions import RLPException  # type: ignore[import-untyped]

CALL_GAS = 30_000_000
GENESIS_GAS_LIMIT = 60_000_000
TIP_WEI = 10**9
REPLACEMENT_PERCENT = 110
"""A transaction that takes a pending one's place pays a tenth more, as geth has it."""
REVERT_REASON_SELECTOR = bytes.fromhex("08c379a0")  # Error(string)


UNREADABLE = (
    RLPException, BadSignature, PyEVMError, ValidationError,
    ValueError, TypeError, IndexError,
)  # fmt: skip
"""What the libraries raise for bytes that are no signed transaction."""


class RpcError(Exception):
    """What a JSON-RPC answer says instead of a result (JSON-RPC 2.0 section 5.1)."""

    def __init__(self, code: int, message: str, data: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class DemoVm(ShanghaiVM):
    """Shanghai, except that several blocks may share a second."""

    @classmethod
    def validate_header(cls, header: Any, parent_header: Any) -> None:
        """Accept what this node mined itself.

        The rule that time moves a second per block would run ahead of the wall clock under load,
        and authorizations would expire early.
        """


@dataclass(frozen=True, slots=True)
class Pending:
    """A transaction that waits: for a lower nonce, or for a block when automine is off."""

    transaction: Any
    sender: bytes
    fee_wei: int


class Node:
    """A chain of one process. Block time follows `clock` (unix seconds) and never runs backwards.

    Calls at `latest` see the time of the next block, so a window that is open by the wall clock is
    open here too, however long ago the last block was.
    """

    def __init__(
        self,
        chain_id: int,
        funded: Mapping[bytes, int],
        clock: Callable[[], int],
        contracts: Mapping[bytes, bytes] = MappingProxyType({}),
    ) -> None:
        """Begin a chain; `contracts` have their code, by address, from the first block on."""
        state = {
            address: {
                "balance": funded.get(address, 0),
                "nonce": 0,
                "code": contracts.get(address, b""),
                "storage": {},
            }
            for address in {**funded, **contracts}
        }
        genesis = PyEVMBackend.generate_genesis_params(
            {"timestamp": clock() - 1, "gas_limit": GENESIS_GAS_LIMIT}
        )
        backend = PyEVMBackend(genesis, state, ((0, DemoVm),))
        self._chain = backend.chain
        self._chain.chain_id = chain_id
        self._clock = clock
        self._pool: dict[tuple[bytes, int], Pending] = {}
        self._receipts: dict[str, dict[str, Any]] = {}
        self._transactions: dict[str, dict[str, Any]] = {}
        self._logs: list[dict[str, Any]] = []
        self._block_hashes: dict[str, int] = {}
        self.chain_id = chain_id
        self.automine = True

    # What the chain says

    @property
    def height(self) -> int:
        """Number of the latest block."""
        return int(self._chain.header.block_number) - 1

    def now_s(self) -> int:
        """Return the time of the block to come: the clock, or the last block's if that is later."""
        last = self._chain.get_canonical_block_header_by_number(self.height).timestamp
        return max(int(last), self._clock())

    def balance(self, address: bytes, block: str = "latest") -> int:
        return int(self._vm(block).state.get_balance(address))

    def code(self, address: bytes, block: str = "latest") -> bytes:
        return bytes(self._vm(block).state.get_code(address))

    def nonce(self, address: bytes, block: str = "latest") -> int:
        """Return the next nonce; with `pending`, after the unbroken run in the pool."""
        nonce = int(self._vm(block).state.get_nonce(address))
        while block == "pending" and (address, nonce) in self._pool:
            nonce += 1
        return nonce

    def gas_price(self) -> int:
        return int(self._chain.header.base_fee_per_gas) + TIP_WEI

    def receipt(self, tx_hash: str) -> dict[str, Any] | None:
        return self._receipts.get(tx_hash.lower())

    def transaction(self, tx_hash: str) -> dict[str, Any] | None:
        """Return a mined or a waiting transaction, or None."""
        mined = self._transactions.get(tx_hash.lower())
        if mined is not None:
            return mined
        for pending in self._pool.values():
            if data(pending.transaction.hash) == tx_hash.lower():
                return transaction_json(pending.transaction, pending.sender, self.gas_price())
        return None

    def logs(self, where: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the logs that an `eth_getLogs` filter object selects."""
        if "blockHash" in where:
            first = last = self._block_hashes.get(str(where["blockHash"]).lower(), -1)
        else:
            first = self.number_of(where.get("fromBlock") or "latest")
            last = self.number_of(where.get("toBlock") or "latest")
        address = where.get("address") or []
        wanted = {a.lower() for a in ([address] if isinstance(address, str) else address)}
        topics = where.get("topics") or []
        return [
            log
            for log in self._logs
            if first <= int(log["blockNumber"], 16) <= last
            and (not wanted or log["address"].lower() in wanted)
            and _topics_match(topics, log["topics"])
        ]

    def block(self, tag: str, *, full: bool = False) -> dict[str, Any] | None:
        """Return a block by number or name; by hash see `block_by_hash`."""
        number = self.number_of(tag)
        if not 0 <= number <= self.height:
            return None
        block = self._chain.get_canonical_block_by_number(number)
        hashes = [data(transaction.hash) for transaction in block.transactions]
        shown: list[Any] = [self._transactions[h] for h in hashes] if full else list(hashes)
        return block_json(block, shown)

    def block_by_hash(self, block_hash: str, *, full: bool = False) -> dict[str, Any] | None:
        number = self._block_hashes.get(block_hash.lower())
        return None if number is None else self.block(hex(number), full=full)

    def number_of(self, tag: str) -> int:
        """Return the height a block tag means."""
        if tag in ("latest", "pending", "safe", "finalized"):
            return self.height
        if tag == "earliest":
            return 0
        return int(tag, 16)

    # What can be done with it

    def call(
        self, sender: bytes, to: bytes, payload: bytes, value: int, block: str, gas: int = CALL_GAS
    ) -> bytes:
        """Run a call that changes nothing; a revert raises `RpcError` 3 with its data.

        Of `gas`, as of a transaction's, a base is gone before anything runs.
        """
        left = gas - (21_000 + 16 * len(payload))
        if left < 0:
            raise RpcError(-32000, "intrinsic gas too low")
        return bytes(self._execute(sender, to, payload, value, block, left).output)

    def estimate_gas(self, sender: bytes, to: bytes | None, payload: bytes, value: int) -> int:
        """Return enough gas for a transaction: what it burns now, a quarter more, and its base."""
        base = 21_000 + 16 * len(payload)
        if to is None:
            done = self._execute(sender, None, payload, value, "latest")
            base += 32_000 + 202 * len(done.output)
        else:
            done = self._execute(sender, to, payload, value, "latest")
        burned = CALL_GAS - int(done.get_gas_remaining())
        return base + burned + burned // 4

    def send(self, raw: bytes) -> str:
        """Take a signed transaction into the pool, mine what is ready, return its hash.

        Errors are those of geth, word for word where clients look for words.
        """
        try:
            transaction = self._chain.get_vm().get_transaction_builder().decode(raw)
            sender = bytes(transaction.sender)
        except UNREADABLE as error:
            raise RpcError(-32000, f"rlp: {type(error).__name__}") from error
        tx_hash = data(transaction.hash)
        fee = int(getattr(transaction, "max_fee_per_gas", getattr(transaction, "gas_price", 0)))
        self._check(transaction, sender, tx_hash, fee)
        self._pool[sender, int(transaction.nonce)] = Pending(transaction, sender, fee)
        if self.automine:
            self.mine()
        return tx_hash

    def mine(self) -> int:
        """Put every transaction that is ready into one block; return how many.

        Without a ready transaction nothing is mined, unless automine is off: then an empty block.
        """
        self._chain.set_header_timestamp(self.now_s())
        mined: list[tuple[Pending, Any]] = []
        ready = True
        while ready:
            ready = False
            for (sender, nonce), pending in sorted(self._pool.items(), key=lambda item: item[0][1]):
                if nonce != int(self._chain.get_vm().state.get_nonce(sender)):
                    continue
                if pending.fee_wei < int(self._chain.header.base_fee_per_gas):
                    continue
                del self._pool[sender, nonce]
                try:
                    _, receipt, _ = self._chain.apply_transaction(pending.transaction)
                except ValidationError:
                    continue  # no longer affordable: dropped, as a mempool drops it
                mined.append((pending, receipt))
                ready = True
        if mined or not self.automine:
            self._seal(mined)
        return len(mined)

    def mine_empty(self) -> None:
        """Mine a block without transactions, so that the clock shows on the chain."""
        self._chain.set_header_timestamp(self.now_s())
        self._seal([])

    def pending(self) -> list[dict[str, Any]]:
        """Return the waiting transactions."""
        return [
            transaction_json(pending.transaction, pending.sender, self.gas_price())
            for pending in self._pool.values()
        ]

    # Inside

    def _vm(self, block: str) -> Any:
        if block in ("latest", "pending", "safe", "finalized"):
            return self._chain.get_vm(self._chain.header.copy(timestamp=self.now_s()))
        number = self.number_of(block)
        if not 0 <= number <= self.height:
            raise RpcError(-32000, "header not found")
        return self._chain.get_vm(self._chain.get_canonical_block_header_by_number(number))

    def _execute(
        self,
        sender: bytes,
        to: bytes | None,
        payload: bytes,
        value: int,
        block: str,
        gas: int = CALL_GAS,
    ) -> Any:
        vm = self._vm(block)
        code = payload if to is None else vm.state.get_code(to)
        done = vm.execute_bytecode(
            origin=sender,
            gas_price=0,
            gas=gas,
            to=CREATE_CONTRACT_ADDRESS if to is None else to,
            sender=sender,
            value=value,
            data=b"" if to is None else payload,
            code=code,
        )
        if done.is_error:
            raise revert(done.error)
        return done

    def _check(self, transaction: Any, sender: bytes, tx_hash: str, fee: int) -> None:
        if getattr(transaction, "chain_id", None) not in (None, self.chain_id):
            raise RpcError(-32000, "invalid sender: wrong chain id")
        if int(transaction.nonce) < self.nonce(sender):
            raise RpcError(-32000, f"nonce too low: next nonce {self.nonce(sender)}")
        if self.transaction(tx_hash) is not None:
            raise RpcError(-32000, "already known")
        cost = fee * int(transaction.gas) + int(transaction.value)
        if cost > self.balance(sender):
            raise RpcError(-32000, "insufficient funds for gas * price + value")
        waiting = self._pool.get((sender, int(transaction.nonce)))
        if waiting is not None and fee * 100 < waiting.fee_wei * REPLACEMENT_PERCENT:
            raise RpcError(-32000, "replacement transaction underpriced")

    def _seal(self, mined: list[tuple[Pending, Any]]) -> None:
        block = self._chain.mine_block(mix_hash=secrets.token_bytes(32))
        block_hash = data(block.hash)
        self._block_hashes[block_hash] = int(block.number)
        place = {"blockHash": block_hash, "blockNumber": quantity(block.number)}
        base_fee = int(block.header.base_fee_per_gas)
        burned_before = 0
        log_index = 0
        for index, (pending, receipt) in enumerate(mined):
            transaction = pending.transaction
            tx_hash = data(transaction.hash)
            here = place | {"transactionIndex": quantity(index)}
            shown = transaction_json(transaction, pending.sender, base_fee + TIP_WEI)
            self._transactions[tx_hash] = shown | here
            logs = []
            for log in receipt.logs:
                logs.append(
                    {
                        "address": address(log.address),
                        "topics": [data(int(topic).to_bytes(32)) for topic in log.topics],
                        "data": data(log.data),
                        "transactionHash": tx_hash,
                        "logIndex": quantity(log_index),
                        "removed": False,
                    }
                    | here
                )
                log_index += 1
            self._logs.extend(logs)
            burned = int(receipt.gas_used) - burned_before
            self._receipts[tx_hash] = receipt_json(transaction, pending.sender, receipt) | {
                "gasUsed": quantity(burned),
                "effectiveGasPrice": shown["gasPrice"],
                "logs": logs,
                **here,
            }
            burned_before = int(receipt.gas_used)


def revert(error: BaseException | None) -> RpcError:
    """Return the JSON-RPC error of a failed execution, in geth's form."""
    if isinstance(error, Revert):
        payload = bytes(error.args[0]) if error.args else b""
        message = "execution reverted"
        if payload[:4] == REVERT_REASON_SELECTOR:
            length = int.from_bytes(payload[36:68])
            message += ": " + payload[68 : 68 + length].decode("utf-8", "replace")
        return RpcError(3, message, data(payload))
    if isinstance(error, OutOfGas):
        return RpcError(-32000, "out of gas")
    name = type(error).__name__ if isinstance(error, VMError) else "execution failed"
    return RpcError(-32000, name)


def quantity(number: int) -> str:
    """Return a JSON-RPC quantity: hex without leading zeros."""
    return hex(int(number))


def data(value: bytes) -> str:
    """Return JSON-RPC unformatted data: two hex digits a byte."""
    return "0x" + bytes(value).hex()


def address(value: bytes) -> str:
    """Return an address in lower case, as nodes write it."""
    return data(value)


def transaction_json(transaction: Any, sender: bytes, market_wei: int) -> dict[str, Any]:
    """Return a transaction as `eth_getTransactionByHash` shows it, without its place in a block."""
    kind = int(getattr(transaction, "type_id", 0) or 0)
    max_fee = getattr(transaction, "max_fee_per_gas", None)
    price = transaction.gas_price if max_fee is None else min(int(max_fee), market_wei)
    parity = int(transaction.v if kind == 0 else transaction.y_parity)
    shown: dict[str, Any] = {
        "hash": data(transaction.hash),
        "type": quantity(kind),
        "nonce": quantity(transaction.nonce),
        "from": address(sender),
        "to": address(transaction.to) if transaction.to else None,
        "value": quantity(transaction.value),
        "gas": quantity(transaction.gas),
        "gasPrice": quantity(price),
        "input": data(transaction.data),
        "v": quantity(parity),
        "r": quantity(transaction.r),
        "s": quantity(transaction.s),
        "blockHash": None,
        "blockNumber": None,
        "transactionIndex": None,
    }
    if kind > 0:
        shown |= {
            "chainId": quantity(transaction.chain_id),
            "accessList": [],
            "yParity": quantity(parity),
        }
    if max_fee is not None:
        shown["maxFeePerGas"] = quantity(max_fee)
        shown["maxPriorityFeePerGas"] = quantity(transaction.max_priority_fee_per_gas)
    return shown


def receipt_json(transaction: Any, sender: bytes, receipt: Any) -> dict[str, Any]:
    """Return the part of a receipt that does not depend on its block."""
    return {
        "transactionHash": data(transaction.hash),
        "type": quantity(getattr(transaction, "type_id", 0) or 0),
        "from": address(sender),
        "to": address(transaction.to) if transaction.to else None,
        "status": quantity(int.from_bytes(receipt.state_root)),
        "cumulativeGasUsed": quantity(receipt.gas_used),
        "contractAddress": None if transaction.to else contract_address(sender, transaction.nonce),
        "logsBloom": data(int(receipt.bloom).to_bytes(256)),
    }


def contract_address(sender: bytes, nonce: int) -> str:
    """Return where a creation lands: the last 20 bytes of keccak(rlp(sender, nonce))."""
    return address(generate_contract_address(Address(sender), nonce))


def block_json(block: Any, transactions: list[Any]) -> dict[str, Any]:
    """Return a block as `eth_getBlockByNumber` shows it."""
    header = block.header
    return {
        "number": quantity(header.block_number),
        "hash": data(header.hash),
        "parentHash": data(header.parent_hash),
        "nonce": data(header.nonce),
        "sha3Uncles": data(header.uncles_hash),
        "logsBloom": data(int(header.bloom).to_bytes(256)),
        "transactionsRoot": data(header.transaction_root),
        "stateRoot": data(header.state_root),
        "receiptsRoot": data(header.receipt_root),
        "miner": address(header.coinbase),
        "mixHash": data(header.mix_hash),
        "difficulty": quantity(header.difficulty),
        "totalDifficulty": quantity(0),
        "extraData": data(header.extra_data),
        "size": quantity(0),
        "gasLimit": quantity(header.gas_limit),
        "gasUsed": quantity(header.gas_used),
        "baseFeePerGas": quantity(header.base_fee_per_gas),
        "timestamp": quantity(header.timestamp),
        "withdrawals": [],
        "withdrawalsRoot": data(header.withdrawals_root),
        "transactions": transactions,
        "uncles": [],
    }


def _topics_match(wanted: list[Any], topics: list[str]) -> bool:
    if len(wanted) > len(topics):
        return False
    for want, topic in zip(wanted, topics, strict=False):
        if want is None:
            continue
        choices = [want] if isinstance(want, str) else want
        if topic not in {choice.lower() for choice in choices}:
            return False
    return True
