"""For all tests: how much time a generated example may take is no claim of theirs, and neither is
how the suite itself was started."""

import signal

import pytest
from hypothesis import settings

settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def children_hear_ctrl_c():
    """What a shell started with `&` ignores SIGINT, and so would every child of it.

    A handler of ours is gone when a child becomes another program; the suite itself goes on
    ignoring it.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: None)
    yield
    signal.signal(signal.SIGINT, signal.SIG_IGN)
