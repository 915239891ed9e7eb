"""What members of a credential's payload say: each read by its form, or `InvalidPayload`.

Numbers are decimal strings, bytes are hex with `0x`, as in the drafts of all chain methods.
"""

import re
from collections.abc import Mapping
from typing import Any, NoReturn

from mpp_gateway.crypto.addresses import parse_address
from mpp_gateway.crypto.eip712 import UINT256_MAX
from mpp_gateway.protocol.problems import InvalidPayload

type Members = Mapping[str, Any]

_UINT = re.compile(r"[0-9]{1,78}")


def mapping(members: Members, name: str) -> Members:
    """Return the object that member `name` is."""
    value = members.get(name)
    return value if isinstance(value, Mapping) else refuse(name)


def text(members: Members, name: str, form: re.Pattern[str]) -> str:
    """Return the string that member `name` is, all of which is of that `form`."""
    value = members.get(name)
    return value if isinstance(value, str) and form.fullmatch(value) else refuse(name)


def octets(members: Members, name: str, form: re.Pattern[str]) -> bytes:
    """Return the bytes of a hex string of that `form`, which begins with `0x`."""
    return bytes.fromhex(text(members, name, form)[2:])


def uint256(members: Members, name: str) -> int:
    """Return the number that 256 bits hold."""
    value = int(text(members, name, _UINT))
    return value if value <= UINT256_MAX else refuse(name)


def address(members: Members, name: str) -> bytes:
    """Return the 20 bytes of an address, in whatever case it is written."""
    value = members.get(name)
    try:
        return parse_address(value) if isinstance(value, str) else refuse(name)
    except ValueError:
        refuse(name)


def refuse(name: str) -> NoReturn:
    """Say that member `name` is not what belongs there."""
    raise InvalidPayload(f"The payload's {name} is missing or malformed.")
