"""Credentials: `Authorization: Payment <token>`, read as if an enemy wrote it.

Wire form: MPP core draft, section "Credentials". Whatever a client sends, reading it returns a
Credential or raises MalformedCredential, whose text repeats nothing of what was sent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self

from mpp_gateway.protocol import authparams, jcs
from mpp_gateway.protocol.challenge import (
    REQUEST_CHARS_MAX,
    SCHEME,
    Challenge,
    is_flat,
    is_intent,
    is_method,
)
from mpp_gateway.protocol.problems import MalformedCredential, ParseError

TOKEN_CHARS_MAX = authparams.FIELD_CHARS_MAX
_REQUIRED = ("id", "realm", "method", "intent", "request")
_OPTIONAL = ("expires", "digest", "description", "header")


@dataclass(frozen=True, slots=True)
class Credential:
    """The echo of a challenge, the method's proof, and who says that they paid.

    Nothing in it is checked yet but its shape; `payload` and `source` stay out of `repr`.
    """

    challenge: Challenge
    payload: Mapping[str, Any] = field(repr=False)
    source: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, token: str) -> Self:
        """Return the credential that `token` (what follows the scheme) carries.

        Members that we do not know are ignored, at any level. Raises MalformedCredential.
        """
        try:
            members = jcs.decode_object(token, size_max=TOKEN_CHARS_MAX)
        except ParseError as error:
            raise MalformedCredential(
                "The credential is not base64url of a JSON object.", private=str(error)
            ) from error
        payload = members.get("payload")
        if not isinstance(payload, dict):
            _refuse("The credential's payload is missing or not an object.")
        source = members.get("source")
        if source is not None and not isinstance(source, str):
            _refuse("The credential's source is not a string.")
        return cls(_echo(members.get("challenge")), payload, source or None)

    def format(self) -> str:
        """Return the field value, `Payment <token>`; raises ValueError for what JCS refuses."""
        challenge = self.challenge
        echo = {name: getattr(challenge, name) for name in _REQUIRED}
        for name in (*_OPTIONAL, "opaque"):
            if value := getattr(challenge, name):
                echo[name] = value
        members: dict[str, Any] = {"challenge": echo, "payload": self.payload}
        if self.source is not None:
            members["source"] = self.source
        return f"{SCHEME} {jcs.encode_object(members)}"


def payment_tokens(values: Sequence[str]) -> list[str]:
    """Return the token of every Payment credential in a field's lines, lists of schemes included.

    More than one is for the caller to refuse. Raises MalformedCredential above 64 KiB.
    """
    if not values:
        return []
    try:
        found = authparams.split(values, SCHEME)
    except ParseError as error:
        raise MalformedCredential(
            "The credential's field cannot be read.", private=str(error)
        ) from error
    return [
        elements[0].strip(" \t") if len(elements) == 1 else ",".join(elements) for elements in found
    ]


def _echo(members: Any) -> Challenge:
    if not isinstance(members, dict):
        _refuse("The credential's challenge is missing or not an object.")
    values: dict[str, str] = {}
    for name in _REQUIRED:
        value = members.get(name)
        if not isinstance(value, str) or not value:
            _refuse(f"The credential's challenge lacks {name}.")
        values[name] = value
    optional: dict[str, str] = {}
    for name in _OPTIONAL:
        # Absent, null and empty are one value under the HMAC, so they are one value here.
        if value := members.get(name):
            if not isinstance(value, str):
                _refuse(f"The credential's challenge has a {name} that is not a string.")
            optional[name] = value
    if len(values["request"]) > REQUEST_CHARS_MAX:
        _refuse("The credential's challenge has a request that is too long.")
    if not is_method(values["method"]) or not is_intent(values["intent"]):
        _refuse("The credential names no valid method or intent.")
    return Challenge(**values, **optional, opaque=_opaque(members.get("opaque")))


def _opaque(value: Any) -> str | None:
    if not value:
        return None
    if isinstance(value, str):
        return value
    if not isinstance(value, dict) or not is_flat(value):
        _refuse("The credential's opaque is neither text nor a map of strings.")
    # Older clients sent the decoded object back; its canonical form is what was issued.
    return jcs.encode_object(value)


def _refuse(detail: str) -> NoReturn:
    raise MalformedCredential(detail)
