"""What a wallet and its owner are told of well-known chains. Nothing of it comes from the config,
whose RPC addresses may hold keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain as `wallet_addEthereumChain` (EIP-3085) describes it."""

    name: str
    coin: str
    rpc_url: str
    explorer_url: str


CHAINS: Mapping[int, Chain] = MappingProxyType(
    {
        10: Chain(
            "OP Mainnet", "ETH", "https://mainnet.optimism.io", "https://optimistic.etherscan.io"
        ),
        137: Chain("Polygon", "POL", "https://polygon-rpc.com", "https://polygonscan.com"),
        8453: Chain("Base", "ETH", "https://mainnet.base.org", "https://basescan.org"),
        42161: Chain("Arbitrum One", "ETH", "https://arb1.arbitrum.io/rpc", "https://arbiscan.io"),
        43114: Chain(
            "Avalanche", "AVAX", "https://api.avax.network/ext/bc/C/rpc", "https://snowtrace.io"
        ),
        84532: Chain(
            "Base Sepolia", "ETH", "https://sepolia.base.org", "https://sepolia.basescan.org"
        ),
    }
)


def chain_name(chain_id: int) -> str:
    """Return what people call the chain."""
    chain = CHAINS.get(chain_id)
    return chain.name if chain else f"chain {chain_id}"
