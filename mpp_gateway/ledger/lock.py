"""Which processes serve from a store: a lock that the kernel lets go of when its holder dies."""

import contextlib
import fcntl
import logging
import os
import re
import stat
from pathlib import Path
from typing import IO

from mpp_gateway.ledger.sql import Connection, StoreUnavailable

log = logging.getLogger(__name__)

MOUNTS = Path("/proc/self/mountinfo")
OWNER_MAX = 64
PRIVATE = 0o600
OTHERS = stat.S_IRWXG | stat.S_IRWXO

_OWNER = re.compile(rb"[0-9a-f]{32}")


def whole_store(given: Path, mounts: Path = MOUNTS) -> Path:
    """Return the one true path of the store; refuse a file that goes by several names.

    SQLite keeps the newest writes in a file beside the database, named after it. Two processes
    that use two names do not see each other's: one proof would be claimed, and served, by both.
    Symbolic links are followed, by us and by SQLite alike.
    """
    store = given.resolve()
    with contextlib.suppress(OSError):  # not there yet, or not ours to use: opening it says which
        if store.stat().st_nlink > 1:
            raise StoreUnavailable(f"the store {store} has another hard link; remove it")
    with contextlib.suppress(OSError):
        points = [line.split(" ")[4] for line in mounts.read_text().splitlines()]
        if str(store).replace(" ", "\\040") in points:
            raise StoreUnavailable(f"the store {store} is mounted by itself; mount its folder")
    return store


def keep_private(store: Path) -> None:
    """Make the store's files, where there are none, for our own user alone.

    They hold paid answers and signed transactions. SQLite gives the files that it makes beside the
    database the database's own mode.
    """
    for path in (store, _lock_file(store)):
        # One that is there is not even opened: closing it again would take away the locks that
        # SQLite has on it in this process, and two would write at once. Where none can be made,
        # opening it says why.
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE))


def warn_of_readers(store: Path) -> None:
    """Say which of the store's files are open to others; their mode is their owner's to change."""
    for path in (store, _lock_file(store)):
        with contextlib.suppress(OSError):  # deleted a moment ago: nobody reads it
            if path.stat().st_mode & OTHERS:
                log.warning("%s can be read by other users of this machine: chmod 600", path)


def _lock_file(store: Path) -> Path:
    return store.with_name(store.name + ".lock")


class StoreLock:
    """Our share in the lock file beside the store.

    `owner` is the random name in that file, and marks the rows of all who share it. Who has the
    file alone (`is_alone`) knows that all of those are gone, however they ended. It says nothing
    about the rows of any other name: a process may serve on under a lock file that was deleted.
    """

    def __init__(self, file: IO[bytes], owner: str, *, is_alone: bool) -> None:
        self.owner = owner
        self.is_alone = is_alone
        self._file = file

    @classmethod
    def take(cls, store: Path, fresh: str) -> "StoreLock":
        """Lock the file beside `store`; `fresh` (32 hex digits) names it if it has no name yet.

        Errors: `StoreUnavailable`.
        """
        try:
            file = _lock_file(store).open("a+b")
        except OSError as error:
            raise StoreUnavailable(f"cannot lock the store: {error}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(file, fcntl.LOCK_SH)
            # Emptied under those who use it: then ours is a name that nobody else has.
            return cls(file, _name_in(file) or fresh, is_alone=False)
        named = _name_in(file)
        if named is None:
            file.truncate(0)
            file.write(fresh.encode())
            file.flush()
            os.fsync(file.fileno())
        return cls(file, named or fresh, is_alone=True)

    def is_gone(self, _: Connection, owner: str) -> bool:
        """Tell whether nobody who marks rows with `owner` is left."""
        return self.is_alone and owner == self.owner

    def share(self) -> None:
        """Let others in beside us; from here on our own rows are under the name too."""
        self.is_alone = False
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def close(self) -> None:
        """Give up our share, as the end of the process would."""
        self._file.close()


def _name_in(file: IO[bytes]) -> str | None:
    file.seek(0)
    text = file.read(OWNER_MAX)
    return text.decode() if _OWNER.fullmatch(text) else None
