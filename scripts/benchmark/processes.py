"""Processes, their readiness and the CPU they have used."""

import ctypes
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

START_S = 30
POLL_S = 0.05

_LIBC = ctypes.CDLL(None, use_errno=True)


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    command: Sequence[str | Path], log: Path, environ: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` for the length of the block; its output goes to `log`."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            list(map(str, command)),
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environ or {})},
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(START_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until_serving(process: subprocess.Popen[bytes], port: int, path: str, log: Path) -> None:
    """Poll `path` until it answers 200."""
    for _ in range(int(START_S / POLL_S)):
        if process.poll() is not None:
            break
        try:
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=START_S)
            client.request("GET", path)
            if client.getresponse().status == http.HTTPStatus.OK:
                return
        except OSError:
            pass
        finally:
            client.close()
        time.sleep(POLL_S)
    sys.exit(f"{process.args} does not serve: {log.read_text(errors='replace')[-2000:]}")


def cpu_ns(pid: int) -> int:
    """Return the CPU time that all threads of a process have used, user and system."""
    clock = ctypes.c_int()
    error = _LIBC.clock_getcpuclockid(pid, ctypes.byref(clock))
    if error:
        raise OSError(error, os.strerror(error))
    return time.clock_gettime_ns(clock.value)
