"""The demo as its visitors meet it: what it prints can be run, and what it leaves is no key."""

import os
import re
import shlex
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from mpp_gateway.demo.shop import SELLER_KEY
from mpp_gateway.demo.show import BUYER_KEY, GAS_KEY
from tests.support.command import Done, environ, run
from tests.support.process import BIN, ROOT, START_S, free_port, process

KEYS = [key.hex().encode() for key in (BUYER_KEY, GAS_KEY, SELLER_KEY)]


def shell(command: str, home: Path) -> Done:
    """Run a line as it was printed, in a shell that has the environment activated."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env=environ(home, PATH=f"{BIN}:{os.environ['PATH']}"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def temp(tmp_path):
    """A folder for temporary files of the test's own."""
    folder = tmp_path / "temp"
    folder.mkdir()
    return folder


def printed(text: str, start: str) -> list[str]:
    """Return the printed commands that start so, without what is said beside them."""
    return re.findall(rf"^   (?:\S*/)?({start} .*?)(?:   #.*)?$", text, re.MULTILINE)


def test_the_printed_commands_sell_and_buy_on_the_chain_of_the_demo(tmp_path, temp):
    with process(
        "mpp-gateway", "demo", "--port", str(free_port()), environ={"TMPDIR": str(temp)}
    ) as demo:
        demo.wait_for_text("in another terminal")
        exports = printed(demo.output(), "export")
        (serve,) = printed(demo.output(), "mpp-gateway serve")
        stream, city = printed(demo.output(), "mpp-gateway pay")
        variables = dict(w.split("=", 1) for line in exports for w in shlex.split(line)[1:])
        with process(*shlex.split(serve), environ=variables) as gateway:
            gateway.wait_for_text("serving on http://127.0.0.1:")

            bought = shell("; ".join([*exports, city]), tmp_path)

            assert (bought.code, bought.out) == (0, '{"city": "Oslo", "celsius": 14}')
            assert "price:     0.020000" in bought.err
            assert "receipt: " in bought.err
            assert "sold " in gateway.output()
        assert shell("; ".join([*exports, stream]), tmp_path).code == 0
        assert demo.stop() == 0
    assert list(temp.iterdir()) == []


def test_a_killed_demo_leaves_no_key_behind(temp):
    with process(
        "mpp-gateway", "demo", "--port", str(free_port()), environ={"TMPDIR": str(temp)}
    ) as demo:
        demo.wait_for_text("in another terminal")
        demo.popen.kill()
        demo.popen.wait()

    left = [path for path in temp.rglob("*") if path.is_file()]
    assert "gateway.yaml" in {path.name for path in left}
    for path in left:
        content = path.read_bytes()
        assert b"PRIVATE KEY" not in content, path
        assert not [key for key in KEYS if key in content.lower()], path
    assert not [path for path in left if path.suffix in {".pem", ".p12", ".key"}]


def test_the_demo_stops_at_a_signal_and_leaves_nothing(temp):
    with process(
        "mpp-gateway", "demo", "--port", str(free_port()), environ={"TMPDIR": str(temp)}
    ) as demo:
        demo.wait_for_text("in another terminal")
        demo.popen.send_signal(signal.SIGINT)

        assert demo.popen.wait(START_S) == 0
        assert "Traceback" not in demo.output()
    assert list(temp.iterdir()) == []


def test_the_demo_says_on_stderr_that_its_port_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("demo", "--once", "--port", port, home=tmp_path)

    reason = "Address already in use (--port names another)"
    assert done.code == 4
    assert done.err == f"mpp-gateway: cannot listen on 127.0.0.1:{port}: {reason}\n"
    assert "in use" not in done.out


def test_a_demo_that_does_not_add_up_says_so_on_stderr_and_fails(tmp_path):
    """As when the payee's balance is not what it should be: here the price is another."""
    code = (
        "import sys; from mpp_gateway.demo import show; from mpp_gateway.cli.main import main;"
        f"show.PRICE = '0.02'; sys.exit(main(['demo', '--once', '--port', '{free_port()}']))"
    )
    done = subprocess.run(
        [BIN / "python", "-c", code],
        cwd=ROOT,
        env=environ(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr == (
        "mpp-gateway: the payee did not get exactly 0.02 for an answer with a receipt\n"
    )
