"""EVM networks and the stablecoins on them: names on the wire, contracts, and how these sign.

Addresses: developers.circle.com, "USDC Contract Addresses" and "EURC Contract Addresses", compared
with viem's and x402's tables. Signing names: as the contracts say, not as people call the token:
USDC is "USD Coin" on main networks and mostly "USDC" on test networks. What is not certain is left
out, for a wrong name makes every signature worthless.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mpp_gateway.crypto.addresses import parse_address


@dataclass(frozen=True, slots=True)
class KnownToken:
    """A token that takes EIP-3009 authorizations, with the name and version that it signs under."""

    symbol: str
    address: str
    """In EIP-55 form."""
    name: str
    version: str = "2"
    decimals: int = 6
    unit: str = "usd"
    """The currency that one unit of it is worth, at par."""


@dataclass(frozen=True, slots=True)
class KnownNetwork:
    """A chain, by each of the names that it goes by."""

    name: str
    """In configurations; the same as in version 1 of x402 where that has one."""
    title: str
    chain_id: int
    tokens: tuple[KnownToken, ...]

    def token(self, symbol: str) -> KnownToken | None:
        """Return the token of that symbol, in any case."""
        found = (token for token in self.tokens if token.symbol.lower() == symbol.lower())
        return next(found, None)


def _usdc(address: str, name: str = "USD Coin") -> KnownToken:
    return KnownToken("USDC", address, name)


def _eurc(address: str) -> KnownToken:
    return KnownToken("EURC", address, "EURC", unit="eur")


def _networks() -> Iterator[KnownNetwork]:
    usdc = _usdc("0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48")
    yield KnownNetwork("ethereum", "Ethereum", 1, (usdc,))
    usdc = _usdc("0x1c7D4B196Cb0C7B01d743Fbc6116a902379C7238", "USDC")
    yield KnownNetwork("sepolia", "Ethereum Sepolia", 11155111, (usdc,))
    usdc = _usdc("0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913")
    eurc = _eurc("0x60a3E35Cc302bFA44Cb288Bc5a4F316Fdb1adb42")
    yield KnownNetwork("base", "Base", 8453, (usdc, eurc))
    usdc = _usdc("0x036CbD53842c5426634e7929541eC2318f3dCF7e", "USDC")
    eurc = _eurc("0x808456652fdb597867f38412077A9182bf77359F")
    yield KnownNetwork("base-sepolia", "Base Sepolia", 84532, (usdc, eurc))
    usdc = _usdc("0x0b2C639c533813f4Aa9D7837CAf62653d097Ff85")
    yield KnownNetwork("optimism", "OP Mainnet", 10, (usdc,))
    usdc = _usdc("0x5fd84259d66Cd46123540766Be93DFE6D43130D7", "USDC")
    yield KnownNetwork("optimism-sepolia", "OP Sepolia", 11155420, (usdc,))
    usdc = _usdc("0xaf88d065e77c8cC2239327C5EDb3A432268e5831")
    yield KnownNetwork("arbitrum", "Arbitrum One", 42161, (usdc,))
    # A test network whose token has the long name, as on Fuji below.
    usdc = _usdc("0x75faf114eafb1BDbe2F0316DF893fd58CE46AA4d")
    yield KnownNetwork("arbitrum-sepolia", "Arbitrum Sepolia", 421614, (usdc,))
    usdc = _usdc("0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359")
    yield KnownNetwork("polygon", "Polygon", 137, (usdc,))
    usdc = _usdc("0x41E94Eb019C0762f9Bfcf9Fb1E58725BfB0e7582", "USDC")
    yield KnownNetwork("polygon-amoy", "Polygon Amoy", 80002, (usdc,))
    usdc = _usdc("0xB97EF9Ef8734C71904D8002F8b6Bc66Dd9c48a6E")
    yield KnownNetwork("avalanche", "Avalanche C-Chain", 43114, (usdc,))
    usdc = _usdc("0x5425890298aed601595a70AB815c96711a31Bc65")
    yield KnownNetwork("avalanche-fuji", "Avalanche Fuji", 43113, (usdc,))


NETWORKS: Mapping[str, KnownNetwork] = {n.name: n for n in _networks()}
"""By their names in configurations."""
BY_CHAIN: Mapping[int, KnownNetwork] = {n.chain_id: n for n in NETWORKS.values()}
_BY_CONTRACT = {
    (network.chain_id, parse_address(token.address)): token
    for network in NETWORKS.values()
    for token in network.tokens
}


def known_token(chain_id: int, address: bytes) -> KnownToken | None:
    """Return what is known of the contract at `address`; None if nothing is."""
    return _BY_CONTRACT.get((chain_id, address))
