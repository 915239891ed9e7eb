"""A small Tempo chain in a process of its own: anvil, as npm has it, with Tempo's rules."""

import atexit
import functools
import http.client
import itertools
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.crypto.keccak import keccak256
from mpp_gateway.crypto.secp256k1 import address_of
from mpp_gateway.rails.tempo.tip20 import BALANCE_OF, Movement, address_word
from tests.support.components import ANVIL, need
from tests.support.process import Process, free_port

CHAIN_ID = 42431
PATH_USD = bytes.fromhex("20c0000000000000000000000000000000000000")
BANK = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
"""Holds as much pathUSD as anybody could want; the node signs for it."""
ASK_S = 20

_numbers = itertools.count()


class Anvil:
    """The chain. It makes a block for each transaction, and one a second: what is checked against
    the time of the last block would otherwise fail on a chain that sleeps."""

    def __init__(self) -> None:
        need("anvil")
        self.port = free_port()
        command = [str(ANVIL), "--network", "tempo", "--hardfork", "T4", "--silent"]
        command += ["--chain-id", str(CHAIN_ID), "--port", str(self.port)]
        command += ["--block-time", "1", "--mixed-mining"]
        log = Path(tempfile.mkdtemp(prefix="anvil-")) / "log"
        self._process = Process(command, dict(os.environ), log)
        self._process.wait_for_port(self.port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, *params: Any) -> Any:
        """Return the result; asserts that the node did not refuse."""
        answer = json.loads(self.answer({"method": method, "params": params}))
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def answer(self, asked: dict[str, Any]) -> bytes:
        """Return the node's answer as it came."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ASK_S)
        try:
            body = json.dumps({"jsonrpc": "2.0", "id": 1, **asked})
            connection.request("POST", "/", body, {"Content-Type": "application/json"})
            return connection.getresponse().read()
        finally:
            connection.close()

    def balance(self, owner: bytes) -> int:
        data = "0x" + (BALANCE_OF + address_word(owner)).hex()
        return int(self.ask("eth_call", {"to": "0x" + PATH_USD.hex(), "data": data}, "latest"), 16)

    def fund(self, owner: bytes, minor: int) -> None:
        """Let the bank pay, and see that it has."""
        data = "0x" + Movement(b"", owner, minor).data.hex()
        before = self.balance(owner)
        self.ask("eth_sendTransaction", {"from": BANK, "to": "0x" + PATH_USD.hex(), "data": data})
        end = time.monotonic() + ASK_S
        while self.balance(owner) != before + minor:
            assert time.monotonic() < end, "the bank does not pay"

    def receipt(self, tx_hash: str) -> dict[str, Any] | None:
        return self.ask("eth_getTransactionReceipt", tx_hash)

    def close(self) -> None:
        self._process.stop()


@functools.cache
def anvil() -> Anvil:
    """Return the one Tempo chain of this test process; every test has its own accounts on it."""
    chain = Anvil()
    atexit.register(chain.close)
    return chain


def new_key() -> bytes:
    """Return a key that nothing else has used."""
    return keccak256(f"tempo {os.getpid()} {next(_numbers)} {time.time_ns()}".encode())


def address(key: bytes) -> str:
    return checksum(address_of(key))
