"""What `mpp-gateway pay` pays with: the wallets that environment and options make."""

import argparse
from collections.abc import Mapping

from mpp_gateway.cli.exits import USAGE
from mpp_gateway.cli.output import CommandFailed
from mpp_gateway.crypto.secp256k1 import ORDER
from mpp_gateway.rails.evm.wallet import EvmWallet
from mpp_gateway.rails.tempo.wallet import TempoWallet
from mpp_gateway.rails.wallet import Wallet

KEY_VARIABLE = "MPP_PRIVATE_KEY"
_KEY_WANTED = f"set {KEY_VARIABLE} to the key that pays (32 bytes in hex); it is used to sign only"
_WANTED = {"evm": _KEY_WANTED, "tempo": _KEY_WANTED}
METHODS = tuple(_WANTED)
"""The payment methods that this command knows."""


def wallets_of(
    options: argparse.Namespace, environ: Mapping[str, str], *, signs: bool
) -> tuple[Wallet, ...]:
    """Return a wallet for each method, those without a key or token too: they can still read.

    Unless it `signs`, what would pay is not looked at. Errors: `CommandFailed`.
    """
    key = _private_key(environ) if signs else None
    return (EvmWallet(key, options.rpc_url, options.nonce), TempoWallet(key, options.rpc_url))


def what_is_wanted(method: str) -> str:
    """Return what has to be set to pay by `method`."""
    return _WANTED[method]


def _private_key(environ: Mapping[str, str]) -> bytes | None:
    text = environ.get(KEY_VARIABLE, "")
    if not text:
        return None
    try:
        key = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        key = b""
    if len(key) != 32 or not 0 < int.from_bytes(key) < ORDER:
        raise CommandFailed(_KEY_WANTED, USAGE)
    return key
