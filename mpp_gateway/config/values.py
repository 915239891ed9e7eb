"""The kinds of scalar a configuration is made of, each with its check and its wording.

A check raises `wrong("…")`; the text completes "found …, expected …" and holds no value.
"""

import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
)
from pydantic_core import PydanticCustomError

from mpp_gateway.crypto.addresses import checksum, parse_address
from mpp_gateway.protocol.money import parse_minor

MIN_SECRET_BYTES = 32
GWEI_DECIMALS = 9
DECIMAL = re.compile(r"(?:0|[1-9][0-9]{0,77})(?:\.[0-9]{1,36})?\Z")
WHOLE = re.compile(r"(?:0|[1-9][0-9]{0,77})\Z")
VISIBLE_ASCII = re.compile(r"[!-~](?:[ -~]*[!-~])?\Z")
HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}\Z")
HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?\Z")
URL_PATH = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*\Z")
UNIT = re.compile(r"[a-z][a-z0-9]{1,15}\Z")
LOOPBACK_NAMES = frozenset({"localhost"})
OWN_HEADERS = frozenset(
    {
        "connection", "content-length", "expect", "host", "keep-alive", "proxy-authenticate",
        "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
"""Fields that frame a message or belong to one connection: never ours to configure."""


class Strict(BaseModel):
    """Frozen, without conversions, and without room for a key that nothing reads."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, allow_inf_nan=False
    )


def wrong(expected: str) -> PydanticCustomError:
    """Return the error that completes "found …, expected …"."""
    return PydanticCustomError("expected", "{expected}", {"expected": expected})


def _decimal(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        value = str(value)
    if isinstance(value, float):
        # A YAML float is binary: 0.1 of it is not 0.1 of money.
        raise PydanticCustomError("unquoted", "a decimal string")
    if not isinstance(value, str) or not DECIMAL.match(value):
        raise wrong('a decimal string such as "0.05"')
    return value


def _whole(value: Any) -> int:
    if isinstance(value, str) and WHOLE.match(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise wrong('a whole number of base units such as "50000"')
    return value


def _gwei(value: Any) -> str:
    text = _decimal(value)
    try:
        wei = parse_minor(text, GWEI_DECIMALS)
    except ValueError:
        wei = 0
    if not wei:
        raise wrong(f'more than zero gwei with at most {GWEI_DECIMALS} decimals, such as "0.5"')
    return text


def _rate(value: Any) -> str:
    text = _decimal(value)
    if not text.strip("0."):
        raise wrong('a rate above zero, such as "1.08"')
    return text


def _number_from_text(value: Any) -> Any:
    """Take digits for a number: what comes from the environment is always text."""
    return int(value) if isinstance(value, str) and WHOLE.match(value) else value


def _seconds(value: Any) -> Any:
    if isinstance(value, str) and DECIMAL.match(value):
        return float(value)
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _flag_from_text(value: Any) -> Any:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


def one_or_more(value: Any) -> Any:
    """Take a single string for a list of one."""
    return (value,) if isinstance(value, str) else value


def on_secret(check: Callable[[str], None]) -> AfterValidator:
    """Return a check of a secret's clear text that keeps it wrapped."""

    def checked(value: SecretStr) -> SecretStr:
        check(value.get_secret_value())
        return value

    return AfterValidator(checked)


def _header_name(text: str) -> str:
    if not HEADER_NAME.match(text):
        raise wrong("a header name such as X-Api-Key")
    if text.lower() in OWN_HEADERS:
        raise wrong("that of a field which the gateway does not set itself")
    return text


def _header_value(text: str) -> None:
    # A line break here would write header fields of its own into the upstream's request.
    if not VISIBLE_ASCII.match(text):
        raise wrong("a value of visible ASCII characters without spaces or line breaks around it")


def _signing_key(text: str) -> None:
    if len(text.encode()) < MIN_SECRET_BYTES:
        raise wrong(f"a secret of at least {MIN_SECRET_BYTES} bytes (openssl rand -base64 32)")


def _private_key(text: str) -> None:
    digits = text.removeprefix("0x")
    if not re.fullmatch(r"[0-9a-fA-F]{64}", digits) or not 0 < int(digits, 16) < CURVE_ORDER:
        raise wrong("a private key: 64 hexadecimal digits, optionally after 0x")


CURVE_ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
"""Order of the group of secp256k1 (SEC 2 section 2.4.1)."""


def read_address(text: str) -> str:
    """Return an account address in its EIP-55 form; ValueError says what is expected instead."""
    try:
        address = parse_address(text)
    except ValueError:
        raise ValueError("an address: 0x and 40 hexadecimal digits") from None
    if not any(address):
        raise ValueError("an address other than zero, where money would be lost")
    digits = text[2:]
    if digits not in {digits.lower(), digits.upper()} and text != checksum(address):
        # One mistyped digit sends every payment to an account that nobody has the key of.
        raise ValueError("an address whose capitals match its checksum (EIP-55)")
    return checksum(address)


def _address(text: str) -> str:
    try:
        return read_address(text)
    except ValueError as error:
        raise wrong(str(error)) from None


def split_url(text: str) -> SplitResult:
    """Check an absolute http(s) URL without user information; ValueError says what is missing."""
    if not re.fullmatch(r"[!-~]+", text) or "\\" in text:
        raise ValueError("a URL of visible ASCII characters")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("a URL such as https://api.example.com") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("a URL that starts with https:// (or http://) and a host")
    if "@" in parts.netloc:
        raise ValueError("a URL without user name or password: give them under `auth`")
    if port == 0 or not is_host(parts.hostname):
        raise ValueError("a URL with a valid host and port")
    return parts


def is_host(text: str) -> bool:
    """Tell whether a text is a host name or an IP address (IPv6 without brackets)."""
    return bool(HOST.match(text)) or is_ip(text)


def is_ip(text: str) -> bool:
    """Tell whether a text is an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine, by address or by the name `localhost`."""
    if is_ip(host):
        return ip_address(host).is_loopback
    return host.lower() in LOOPBACK_NAMES


def read_url(text: str) -> str:
    """Return an absolute http(s) URL as it stands; raises `wrong` for any other text."""
    try:
        parts = split_url(text)
    except ValueError as error:
        raise wrong(str(error)) from None
    if parts.fragment or "#" in text:
        raise wrong("a URL without a fragment")
    return text


def _check_url(text: str) -> None:
    read_url(text)


def _plain_url(text: str) -> str:
    parts = urlsplit(read_url(text))
    if "?" in text:
        raise wrong("a URL without a query")
    segments = parts.path.lower().replace("%2e", ".").split("/")
    if not URL_PATH.match(parts.path) or {".", ".."} & set(segments) or "//" in parts.path:
        raise wrong("a URL whose path needs no clean-up: no '.', '..' or empty segments")
    return text.rstrip("/")


def _network(value: Any) -> IPv4Network | IPv6Network:
    try:
        return ip_network(value if isinstance(value, str) else "")
    except ValueError:
        raise wrong("a network such as 10.0.0.0/8 or an address, with no host bits set") from None


def _base_path(text: str) -> str:
    path = text.rstrip("/")
    if path and not path.startswith("/"):
        path = f"/{path}"
    if not re.fullmatch(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*", path):
        raise wrong("a path such as /payments")
    return path


def _unit(text: str) -> str:
    if not UNIT.match(text.lower()):
        raise wrong("a currency such as usd")
    return text.lower()


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\\\s]+\Z")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def _origin(text: str) -> str:
    """Return an origin as browsers write it: in small letters, without the scheme's own port."""
    if text == "*":
        return text
    origin = text.lower()
    if not _ORIGIN.match(origin):
        raise wrong('`"*"`, or a scheme and a host such as https://app.example.com')
    return origin.removesuffix(_DEFAULT_PORTS.get(origin.partition(":")[0], "/"))


CHAIN_ID_MAX = 2**53 - 1
"""Chain ids travel as JSON numbers, which are exact up to here."""

Text = Annotated[str, StringConstraints(min_length=1, max_length=10_000)]
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Decimal = Annotated[str, BeforeValidator(_decimal)]
Rate = Annotated[str, BeforeValidator(_rate)]
Gwei = Annotated[str, BeforeValidator(_gwei)]
BaseUnits = Annotated[int, BeforeValidator(_whole)]
Flag = Annotated[bool, BeforeValidator(_flag_from_text)]
Count = Annotated[int, BeforeValidator(_number_from_text)]
Seconds = Annotated[float, Field(gt=0, le=3600), BeforeValidator(_seconds)]
Url = Annotated[str, AfterValidator(read_url)]
PlainUrl = Annotated[str, AfterValidator(_plain_url)]
SecretUrl = Annotated[SecretStr, on_secret(_check_url)]
Address = Annotated[str, AfterValidator(_address)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
HeaderValue = Annotated[SecretStr, on_secret(_header_value)]
SigningKey = Annotated[SecretStr, on_secret(_signing_key)]
PrivateKey = Annotated[SecretStr, on_secret(_private_key)]
Origin = Annotated[str, AfterValidator(_origin)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
BasePath = Annotated[str, AfterValidator(_base_path)]
Unit = Annotated[str, AfterValidator(_unit)]
