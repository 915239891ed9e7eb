"""How long a client may take for a body that goes on to the upstream as it comes."""

from mpp_gateway.engine.limits import Limits


class UploadClock:
    """A grace, and more time for each byte: whoever drips bytes must not hold an upstream for ever.

    Runs while the body comes, except when the upstream is what its sender waits for.
    """

    def __init__(self) -> None:
        self._until_s: float | None = None
        self._held_since_s: float | None = None
        self._s_per_byte = 0.0

    def start(self, now_s: float, limits: Limits) -> None:
        """Expect a body from now on."""
        self._s_per_byte = 1 / limits.upload_bytes_per_s
        self._until_s = now_s + limits.body_s

    def stop(self) -> None:
        """Expect nothing more."""
        self._until_s = None

    def received(self, size: int) -> None:
        """Give the time that `size` bytes are worth."""
        if self._until_s is not None:
            self._until_s += size * self._s_per_byte

    @property
    def is_held(self) -> bool:
        """Whether the sender is made to wait."""
        return self._held_since_s is not None

    def hold(self, now_s: float) -> None:
        """Make the sender wait, at no cost to it."""
        self._held_since_s = now_s

    def go_on(self, now_s: float) -> None:
        """Let the sender go on, with all the time that it had left."""
        if self._until_s is not None and self._held_since_s is not None:
            self._until_s += now_s - self._held_since_s
        self._held_since_s = None

    @property
    def deadline_s(self) -> float | None:
        """When the client has taken too long; None while nobody waits for it."""
        return None if self.is_held else self._until_s
