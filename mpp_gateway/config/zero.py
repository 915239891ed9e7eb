"""A whole configuration out of four words: one upstream, one price, one recipient, one network."""

import difflib
import json
import os
import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mpp_gateway.config.load import load_text
from mpp_gateway.config.model import GatewayConfig
from mpp_gateway.config.report import did_you_mean
from mpp_gateway.errors import ConfigError, Mistake

SERVICE = "api"
FILE = "<options>"
PREFIX = "gateway_"
FILE_OPTION = "gateway_config"
ALIKE = 0.8
SECRET_BYTES = 32
KEY_FILE = "gateway.secret"
GAS_KEY_VARIABLE = "MPP_GAS_KEY"
DOCUMENTS = ("/openapi.json", "/llms.txt")
MOUNT = "/.well-known/mpp-gateway"


@dataclass(frozen=True, slots=True)
class Network:
    """A chain and its dollar token, with the public services that need no account."""

    chain_id: int
    token: str | Mapping[str, str | int]
    """As in a configuration: the symbol of a well-known one, or the whole of it."""
    rpc_url: str | None
    facilitator: str | None


NETWORKS: Mapping[str, Network] = {
    "base-sepolia": Network(
        84532,
        "USDC",
        "https://sepolia.base.org",
        "https://x402.org/facilitator",
    ),
    "base": Network(
        8453,
        "USDC",
        "https://mainnet.base.org",
        None,
    ),
    # The chain of `mpp-gateway demo`: its token always has this address.
    "demo": Network(
        31337,
        {
            "address": "0x53BB4307817EaFc53054107a7CA1A5bF4fe73b72",
            "name": "Demo Dollar",
            "version": "1",
            "decimals": 6,
        },
        None,
        None,
    ),
}
DEFAULT_NETWORK = "base-sepolia"


class ZeroConfigError(ValueError):
    """An option that is missing or cannot be; the text names it and what would do."""


@dataclass(frozen=True, slots=True)
class ZeroOptions:
    """The options as the user gave them; empty text where there was none."""

    upstream: str
    charge: str
    recipient: str
    network: str = DEFAULT_NETWORK
    rpc_url: str = ""
    facilitator: str = ""
    store: str = "gateway.db"
    public_url: str = ""
    listen: str = "127.0.0.1:8080"


def refuse_unread(given: Collection[str], strange: Iterable[str], known: Collection[str]) -> None:
    """Refuse options that nothing would read; what they were to change might be the price.

    `given` are those of ours that differ from their defaults, `strange` are names that no script
    has declared.
    """
    for name in strange:
        near = difflib.get_close_matches(name, known, n=1, cutoff=ALIKE)
        if near or name.startswith(PREFIX):
            raise ZeroConfigError(f"{name}: unknown option; {did_you_mean(name, known)}")
    if FILE_OPTION in given and len(given) > 1:
        names = ", ".join(name for name in given if name != FILE_OPTION)
        raise ZeroConfigError(f"{names}: not read beside {FILE_OPTION}, whose file has it all")


def zero_config(options: ZeroOptions, environ: Mapping[str, str]) -> GatewayConfig:
    """Return the configuration that sells `options.upstream` as it stands, without a prefix.

    The upstream's own `/openapi.json` and `/llms.txt` stay free. Errors: `ZeroConfigError`, OSError
    for the secret's file.
    """
    network = NETWORKS.get(options.network)
    if network is None:
        raise ZeroConfigError(f"gateway_network: one of {', '.join(NETWORKS)}")
    if not options.recipient:
        raise ZeroConfigError("gateway_recipient: the 0x address that gets the money is missing")
    if options.store in {"", ":memory:"} or "?" in options.store:
        raise ZeroConfigError("gateway_store: the path of a file, without a question mark")
    rpc_url = options.rpc_url or network.rpc_url
    gas_key = environ.get(GAS_KEY_VARIABLE, "")
    facilitator = options.facilitator or ("" if gas_key else network.facilitator or "")
    if not facilitator and not gas_key:
        raise ZeroConfigError(
            f"gateway_facilitator: {options.network} has no free one; name one, or put a key with"
            f" gas into the environment variable {GAS_KEY_VARIABLE}"
        )
    if not facilitator and not rpc_url:
        raise ZeroConfigError(f"gateway_rpc_url: {options.network} has no public node; name one")
    submit = {"facilitator": facilitator} if facilitator else {"private_key": "${GAS_KEY}"}
    method = {
        "kind": "evm",
        "chain_id": network.chain_id,
        "token": network.token,
        "recipient": options.recipient,
        "submit": submit,
    }
    if rpc_url:
        method["rpc_url"] = rpc_url
    document = {
        "secret_key": "${SECRET}",
        "store": f"sqlite:///{options.store}",
        "listen": options.listen,
        # A listener of mitmproxy's own: whoever opened it to the world has decided about TLS.
        "allow_insecure": True,
        "methods": {options.network: method},
        "services": {SERVICE: _service(options)},
    }
    if options.public_url:
        document["public_url"] = options.public_url
    secret = read_or_make_secret(Path(options.store))
    values = {**environ, "SECRET": secret, "GAS_KEY": gas_key}
    try:
        return load_text(json.dumps(document, indent=1), FILE, values)
    except ConfigError as error:
        raise ZeroConfigError("\n".join(map(_of_option, error.mistakes))) from None


def _of_option(mistake: Mistake) -> str:
    """Return a mistake under the name of what the user gave: there is no file with lines."""
    path = mistake.path
    name = next((option for option, end in _SOURCES.items() if path.endswith(end)), path)
    return str(replace(mistake, path=name)).partition(": ")[2]


_SOURCES: Mapping[str, str] = {
    "gateway_charge": ".charge",
    "gateway_recipient": ".recipient",
    "gateway_rpc_url": ".rpc_url",
    "gateway_facilitator": ".facilitator",
    "gateway_store": "store",
    "gateway_public_url": "public_url",
    "mode": ".base_url",
    f"the environment variable {GAS_KEY_VARIABLE}": ".private_key",
    f"{KEY_FILE}, beside gateway_store": "secret_key",
}
"""By what the user gave: the end of its path in the document that is made of it."""


def _service(options: ZeroOptions) -> dict[str, object]:
    free = {f"{method} {path}": "free" for path in DOCUMENTS for method in ("GET",)}
    return {
        "base_url": options.upstream,
        "routes": {**free, "/*": {"charge": options.charge}},
    }


def read_or_make_secret(store: Path) -> str:
    """Return the secret that signs challenges; made at the first run beside the store, mode 0600.

    It must outlive a restart: with a new one every challenge that was handed out is void.
    """
    path = store.with_name(KEY_FILE)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text(encoding="ascii").strip()
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        secret = secrets.token_hex(SECRET_BYTES)
        file.write(secret + "\n")
    return secret
