"""Base Sepolia in small: its chain id, and at USDC's address a token that signs as USDC does.

x402 clients know USDC by its address, and pay nothing else before they are told to.
"""

from collections.abc import Mapping

from mpp_gateway.crypto.addresses import parse_address
from mpp_gateway.crypto.keccak import keccak256
from mpp_gateway.demo.chain import FUNDED_WEI, TOKEN_NAME, TOKEN_VERSION, DemoChain
from mpp_gateway.demo.node import Node

CHAIN_ID = 84_532
NAME, VERSION = "USDC", "2"
ADDRESS = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"


class UsdcChain(DemoChain):
    """The demo's chain and token under those names."""

    def __init__(self, more: Mapping[bytes, bytes] | None = None) -> None:
        """`more` is the code of other contracts, by address."""
        super().__init__(chain_id=CHAIN_ID)
        self._more = dict(more or {})

    def _create(self) -> None:
        super()._create()
        assert self._node is not None
        code = renamed(self._node.code(self.token))
        deployer = parse_address(self._deployer.address)
        self.token = parse_address(ADDRESS)
        contracts = {self.token: code, **self._more}
        self._node = Node(CHAIN_ID, {deployer: FUNDED_WEI}, self._clock, contracts)


def renamed(code: bytes) -> bytes:
    """Return the token's code with the EIP-712 name and version of USDC, which it has as hashes."""
    for old, new in ((TOKEN_NAME, NAME), (TOKEN_VERSION, VERSION)):
        assert code.count(keccak256(old.encode())) == 1
        code = code.replace(keccak256(old.encode()), keccak256(new.encode()))
    return code
