"""HTTP messages as values: what the rules of payment look at, free of any host or socket."""

from dataclasses import dataclass, field
from functools import cached_property

type Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class RequestHead:
    """The head of one request as the client sent it (RFC 9112 section 3, RFC 9113 section 8.3.1).

    `target` is the request target byte for byte, decoded as latin-1; header names keep their case.
    """

    method: str
    target: str
    headers: Headers
    content_length: int | None = None
    has_body: bool = False
    client: str = ""
    """Who asks, as limits count it; empty: not counted."""

    @cached_property
    def _fields(self) -> dict[str, list[str]]:
        fields: dict[str, list[str]] = {}
        for name, value in self.headers:
            fields.setdefault(name.lower(), []).append(value)
        return fields

    def get_all(self, name: str) -> tuple[str, ...]:
        """Return every value of the field `name` (any case), in the order sent."""
        return tuple(self._fields.get(name.lower(), ()))

    def get(self, name: str) -> str | None:
        """Return the first value of the field `name`, or None."""
        values = self._fields.get(name.lower())
        return values[0] if values else None


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that we write ourselves: refusals, challenges, documents."""

    status: int
    headers: Headers = ()
    body: bytes = b""
    reason: str = field(default="", kw_only=True)
