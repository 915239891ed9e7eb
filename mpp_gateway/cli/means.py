"""What `mpp-gateway pay` pays with: the wallets that environment and options make."""

import argparse
from collections.abc import Mapping

from yarl import URL

from mpp_gateway.cli.exits import USAGE
from mpp_gateway.cli.output import CommandFailed
from mpp_gateway.config.stripe import API_BASE
from mpp_gateway.config.values import is_loopback
from mpp_gateway.crypto.secp256k1 import ORDER
from mpp_gateway.rails.evm.wallet import EvmWallet
from mpp_gateway.rails.stripe.request import is_spt
from mpp_gateway.rails.stripe.wallet import StripeWallet, TestMode
from mpp_gateway.rails.tempo.wallet import TempoWallet
from mpp_gateway.rails.wallet import Wallet

KEY_VARIABLE = "MPP_PRIVATE_KEY"
SPT_VARIABLE = "MPP_SPT"
STRIPE_KEY_VARIABLE = "MPP_STRIPE_SECRET_KEY"
STRIPE_BASE_VARIABLE = "MPP_STRIPE_API_BASE"
_KEY_WANTED = f"set {KEY_VARIABLE} to the key that pays (32 bytes in hex); it is used to sign only"
_WANTED = {
    "evm": _KEY_WANTED,
    "tempo": _KEY_WANTED,
    "stripe": f"set {SPT_VARIABLE}, or --spt, to a shared payment token for this seller; or"
    f" {STRIPE_KEY_VARIABLE} to a test key of yours (sk_test_…) to have one made",
}


def wallets_of(
    options: argparse.Namespace, environ: Mapping[str, str], *, signs: bool
) -> tuple[Wallet, ...]:
    """Return a wallet for each method, those without a key or token too: they can still read.

    Unless it `signs`, what would pay is not looked at. Errors: `CommandFailed`.
    """
    if not signs:
        environ = {}
    key = _private_key(environ)
    return (
        EvmWallet(key, options.rpc_url, options.nonce),
        TempoWallet(key, options.rpc_url),
        _stripe_wallet(options, environ) if signs else StripeWallet(),
    )


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


def _stripe_wallet(options: argparse.Namespace, environ: Mapping[str, str]) -> StripeWallet:
    spt = options.spt or environ.get(SPT_VARIABLE) or None
    if spt is not None and not is_spt(spt):
        source = "--spt" if options.spt else SPT_VARIABLE
        raise CommandFailed(f"{source} is no shared payment token (spt_…)", USAGE)
    secret_key = environ.get(STRIPE_KEY_VARIABLE, "")
    if spt is not None or not secret_key:
        return StripeWallet(spt)
    api_base = environ.get(STRIPE_BASE_VARIABLE) or API_BASE
    try:
        url = URL(api_base)
        is_safe = url.scheme == "https" or (url.scheme == "http" and is_loopback(url.host or ""))
    except ValueError:
        is_safe = False
    if not is_safe:  # whoever is on the way would have the key
        raise CommandFailed(f"{STRIPE_BASE_VARIABLE} is no https:// URL", USAGE)
    return StripeWallet(None, TestMode(secret_key, options.payment_method, api_base))
