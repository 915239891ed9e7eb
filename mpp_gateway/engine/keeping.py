"""What of a call is kept for a buyer who may come back for its answer."""

import hashlib

from mpp_gateway.engine.record import BodyRecord


class Keeping:
    """The digest of one request's body, and the body of its answer while that is short enough."""

    def __init__(
        self, limit_bytes: int, announced_bytes: int | None, *, outlives_client: bool
    ) -> None:
        self.outlives_client = outlives_client
        """Whether the answer is read to its end when the client has left."""
        self._limit_bytes = limit_bytes
        self._announced_bytes = announced_bytes
        self._asked = hashlib.sha256()
        self._asked_bytes = 0
        self._has_asked = False
        self._answer = BodyRecord(limit_bytes)

    def asked(self, data: bytes) -> None:
        """Take in a piece of the request's body; it is not held."""
        self._asked_bytes += len(data)
        self._asked.update(data)

    def asked_all(self) -> None:
        """Note that the request is complete."""
        self._has_asked = True

    def answered(self, data: bytes) -> None:
        """Take in a piece of the answer's body."""
        self._answer.add(data)

    @property
    def is_possible(self) -> bool:
        """Whether the call can be kept, as far as it has come."""
        # A longer request could not be compared when it comes again: nobody would get the answer.
        # In HTTP/2 an upstream may answer the last byte before the end of the stream is heard of.
        has_asked = self._has_asked or self._asked_bytes == self._announced_bytes
        fits = has_asked and self._asked_bytes <= self._limit_bytes
        return fits and self._answer.is_whole

    @property
    def request_digest(self) -> str:
        """The SHA-256 of the request's body, in hex."""
        return self._asked.hexdigest()

    def take_answer(self) -> bytes | None:
        """Return the answer's body, or None where the call cannot be kept."""
        return self._answer.take() if self.is_possible else None
