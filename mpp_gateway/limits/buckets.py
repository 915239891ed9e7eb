"""Token buckets, one a client: how often each may ask for something that it has not paid."""

from itertools import islice

TOKEN = 60_000
"""One token in ticks. A bucket fills by `per_minute` ticks a millisecond: whole at every rate."""
CLIENTS_MAX = 65_536
SPARED = 16
"""One of so many places is free again once the table has been searched for room."""


class TokenBuckets:
    """Each bucket holds the tokens of one minute and fills up in one; 0 a minute: no limit.

    `now_ms` is any clock that does not go back.
    """

    def __init__(self, per_minute: int, clients_max: int = CLIENTS_MAX) -> None:
        self._per_minute = per_minute
        self._clients_max = clients_max
        self._full_at: dict[str, int] = {}
        """In ticks, when each bucket is full again; who was granted something last stands last."""

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, client: str, now_ms: int) -> int:
        """Take a token and return 0, or return in how many milliseconds there will be one."""
        if not self._per_minute:
            return 0
        now = now_ms * self._per_minute
        full_at = max(self._full_at.get(client, now), now) + TOKEN
        missing = full_at - now - self._per_minute * TOKEN
        if missing > 0:
            return -(-missing // self._per_minute)
        self._full_at.pop(client, None)
        self._full_at[client] = full_at
        if len(self._full_at) > self._clients_max:
            self._make_room(now)
        return 0

    def give_back(self, client: str, tokens: int = 1) -> None:
        """Put tokens back; what a bucket cannot hold is lost."""
        if client in self._full_at:
            self._full_at[client] -= tokens * TOKEN

    def _make_room(self, now: int) -> None:
        """Forget full buckets, which are as good as none; then who was last granted long ago.

        Many at once: else whoever comes from very many addresses has the table searched each time.
        """
        self._full_at = {client: at for client, at in self._full_at.items() if at > now}
        kept = self._clients_max - self._clients_max // SPARED
        for client in list(islice(self._full_at, max(0, len(self._full_at) - kept))):
            del self._full_at[client]
