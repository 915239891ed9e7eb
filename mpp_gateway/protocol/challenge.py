"""Challenges: what `WWW-Authenticate: Payment` says, and the id that binds all of it to us.

Wire form: MPP core draft, section "Challenge". The id is an HMAC over the fields as they travel, so
an echoed challenge is checked without a store and without decoding anything.
"""

import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from mpp_gateway.protocol import authparams, base64url, jcs
from mpp_gateway.protocol.problems import ParseError
from mpp_gateway.protocol.timestamps import parse_rfc3339

SCHEME = "Payment"
REQUEST_CHARS_MAX = 16 * 1024
SECRET_BYTES_MIN = 32

_METHOD = re.compile(r"[a-z][a-z0-9:_-]*")
_INTENT = re.compile(r"[A-Za-z0-9-]+")
_SEPARATORS = (6, 7)


def is_method(text: str) -> bool:
    """Say whether `text` is a payment method identifier, in the wide grammar that SDKs read."""
    return _METHOD.fullmatch(text) is not None


def is_intent(text: str) -> bool:
    """Say whether `text` is a payment intent identifier."""
    return _INTENT.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Challenge:
    """One offer of one 402, field by field as on the wire.

    `request` and `opaque` stay base64url text: the id is computed over exactly these characters.
    """

    id: str
    realm: str
    method: str
    intent: str
    request: str
    expires: str | None = None
    digest: str | None = None
    opaque: str | None = None
    description: str | None = None
    header: str | None = None
    """Request field that must carry the credential; None means `Authorization`."""

    @property
    def request_object(self) -> dict[str, Any]:
        """The decoded request; raises ParseError when it is not an object within bounds."""
        return jcs.decode_object(self.request, size_max=REQUEST_CHARS_MAX)

    @property
    def opaque_object(self) -> dict[str, str]:
        """The decoded opaque, or nothing; raises ParseError unless it maps strings to strings."""
        if not self.opaque:
            return {}
        members = jcs.decode_object(self.opaque, size_max=REQUEST_CHARS_MAX)
        if not is_flat(members):
            raise ParseError("opaque is not a map from string to string")
        return members

    def format(self) -> str:
        """Return the value of one `WWW-Authenticate` field.

        Raises ValueError for characters that could end the field or its quotes: control characters
        anywhere, and anything beyond ASCII except in `description`, where it is escaped.
        """
        if not self.id:
            raise ValueError("a challenge needs an id")
        if len(self.request) > REQUEST_CHARS_MAX:
            raise ValueError(f"request is longer than {REQUEST_CHARS_MAX} characters")
        quote = authparams.quote
        text = (
            f"{SCHEME} id={quote(self.id)}, realm={quote(self.realm)}, "
            f"method={quote(self.method)}, intent={quote(self.intent)}, "
            f"request={quote(self.request)}"
        )
        if self.digest:
            text += f", digest={quote(self.digest)}"
        if self.expires:
            text += f", expires={quote(self.expires)}"
        if self.description:
            text += f", description={authparams.quote_text(self.description)}"
        if self.opaque:
            text += f", opaque={quote(self.opaque)}"
        if header := other_header(self.header):
            text += f", header={quote(header)}"
        return text

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the one Payment challenge of a field value; raises ParseError unless it is one."""
        challenges = cls.parse_all([text])
        if len(challenges) != 1:
            raise ParseError(f"{len(challenges)} Payment challenges where one is expected")
        return challenges[0]

    @classmethod
    def parse_all(cls, values: Sequence[str]) -> list[Self]:
        """Return every Payment challenge of a response, in order, other schemes left out.

        Raises ParseError when one of them is broken: paying by a guess is worse than not paying.
        """
        return [
            cls._from_parameters(authparams.read_parameters(elements))
            for elements in authparams.split(values, SCHEME)
        ]

    @classmethod
    def _from_parameters(cls, parameters: Mapping[str, str | None]) -> Self:
        values: dict[str, str | None] = {}
        for name in _NAMES:
            if name in parameters:
                value = parameters[name]
                if value is None:
                    raise ParseError(f"{name} is a quoted string without end")
                values[name] = value or None
        for name in _REQUIRED:
            if values.get(name) is None:
                raise ParseError(f"{name} is missing or empty")
        challenge = cls(**values)  # type: ignore[arg-type]  # the required ones are not None now
        if not is_method(challenge.method) or not is_intent(challenge.intent):
            raise ParseError("method or intent is not an identifier")
        if challenge.expires is not None:
            parse_rfc3339(challenge.expires)
        if challenge.header is not None and not authparams.is_token(challenge.header):
            raise ParseError("header is not a field name")
        jcs.decode_object(challenge.request, size_max=REQUEST_CHARS_MAX)
        return challenge


_REQUIRED = ("id", "realm", "method", "intent", "request")
_NAMES = (*_REQUIRED, "expires", "digest", "opaque", "description", "header")


class ChallengeKeys:
    """The secrets that challenge ids are made with: the first signs, all of them verify.

    Several secrets let one be replaced while challenges issued under the old one are still open.
    """

    __slots__ = ("_keys",)

    def __init__(self, keys: Iterable[bytes]) -> None:
        self._keys = tuple(keys)
        if not self._keys:
            raise ValueError("at least one secret is needed")

    @classmethod
    def from_secrets(cls, secrets: Sequence[str]) -> Self:
        """Return keys from UTF-8 secrets; raises ValueError if one is shorter than 32 bytes."""
        keys = [secret.encode("utf-8") for secret in secrets]
        # Whoever guesses the secret writes their own prices.
        if any(len(key) < SECRET_BYTES_MIN for key in keys):
            raise ValueError(f"a challenge secret has at least {SECRET_BYTES_MIN} bytes")
        return cls(keys)

    @classmethod
    def unchecked(cls, secrets: Sequence[str]) -> Self:
        """Return keys from secrets of any length: for published test vectors, nothing else."""
        return cls([secret.encode("utf-8") for secret in secrets])

    def __repr__(self) -> str:
        return f"ChallengeKeys(<{len(self._keys)} secrets>)"

    def issue(
        self,
        *,
        realm: str,
        method: str,
        intent: str,
        request: str,
        expires: str | None = None,
        digest: str | None = None,
        opaque: str | None = None,
        description: str | None = None,
        header: str | None = None,
    ) -> Challenge:
        """Return a challenge whose id binds every argument but `description`.

        `request` and `opaque` are already encoded (`jcs.encode_object`). Raises ValueError for
        anything but printable ASCII, and for `|`, which separates the fields under the HMAC.
        """
        bound_header = other_header(header)
        message = _message(realm, method, intent, request, expires, digest, bound_header, opaque)
        if not (message.isascii() and message.isprintable()):
            raise ValueError("a challenge holds only printable ASCII")
        # `a|b` in one field hashes like `a` and `b` in two: an id would vouch for another offer.
        if message.count("|") != _SEPARATORS[bound_header is not None]:
            raise ValueError("a challenge field holds no '|'")
        if not (realm and is_method(method) and is_intent(intent) and request):
            raise ValueError("a challenge needs realm, method, intent and request")
        return Challenge(
            id=_challenge_id(self._keys[0], message),
            realm=realm,
            method=method,
            intent=intent,
            request=request,
            expires=expires,
            digest=digest,
            opaque=opaque,
            description=description,
            header=bound_header,
        )

    def verify(self, challenge: Challenge) -> bool:
        """Say whether we issued `challenge` with exactly these fields, in constant time.

        Every key is tried whatever the outcome, so that the time tells nothing about which matched.
        """
        header = other_header(challenge.header)
        message = _message(
            challenge.realm,
            challenge.method,
            challenge.intent,
            challenge.request,
            challenge.expires,
            challenge.digest,
            header,
            challenge.opaque,
        )
        if not message.isascii() or message.count("|") != _SEPARATORS[header is not None]:
            return False
        presented = challenge.id.encode("utf-8", "surrogatepass")
        matches = False
        for key in self._keys:
            expected = _challenge_id(key, message).encode("ascii")
            matches |= hmac.compare_digest(expected, presented)
        return matches


def other_header(header: str | None) -> str | None:
    """Return the credential's field name unless it is `Authorization`, the default, in any case."""
    return header if header and header.lower() != "authorization" else None


def is_flat(members: Mapping[str, Any]) -> bool:
    """Say whether every value is a string, as the members of `opaque` must be."""
    return all(isinstance(value, str) for value in members.values())


def _message(
    realm: str,
    method: str,
    intent: str,
    request: str,
    expires: str | None,
    digest: str | None,
    header: str | None,
    opaque: str | None,
) -> str:
    # Seven slots, an absent one empty, never dropped; a named header goes before the last.
    tail = f"{header}|{opaque or ''}" if header else opaque or ""
    return f"{realm}|{method}|{intent}|{request}|{expires or ''}|{digest or ''}|{tail}"


def _challenge_id(key: bytes, message: str) -> str:
    return base64url.encode(hmac.digest(key, message.encode("ascii"), "sha256"))
