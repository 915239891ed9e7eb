"""What is kept of a streamed body for the inspection tools."""


class BodyRecord:
    """A body, if it is short enough to be kept whole; half of one would mislead."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._kept = bytearray()
        self._is_whole = True

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the body is missing so far."""
        return self._is_whole

    def add(self, data: bytes) -> None:
        """Keep `data` while all of it together stays within the limit."""
        if self._is_whole and len(self._kept) + len(data) <= self._limit_bytes:
            self._kept += data
        else:
            self._is_whole = False
            self._kept.clear()

    def take(self) -> bytes | None:
        """Return the body, or None where it was too long, and start anew."""
        whole, kept = self._is_whole, bytes(self._kept)
        self._kept.clear()
        self._is_whole = True
        return kept if whole else None
