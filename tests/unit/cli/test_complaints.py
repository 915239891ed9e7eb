"""The package's own log under `serve`: one line each, and never what a hook was given."""

import logging

import pytest

from mpp_gateway.cli.complaints import told_on_stderr

log = logging.getLogger("mpp_gateway.anywhere")
SECRET = "sk-live-marked-0123456789abcdef"


class Unwritable:
    """A stderr whose reader has left."""

    def write(self, _):
        raise BrokenPipeError

    def isatty(self):
        return False

    def flush(self):
        pass


def quote(value: str) -> None:
    raise ValueError(f"cannot use {value}")


def test_warnings_and_errors_are_a_line_each_and_the_rest_is_silent(capsys):
    with told_on_stderr():
        log.debug("a")
        log.info("b")
        log.warning("the books could\nnot be %s", "swept")
        log.error("the node\x1b[31m is dead")
        logging.getLogger("mitmproxy.anything").error("somebody else's")
    assert capsys.readouterr().err == (
        "warning  the books could not be swept\nerror    the node\\x1b[31m is dead\n"
    )


def test_an_exception_says_where_and_not_with_what(capsys):
    with told_on_stderr():
        try:
            try:
                quote(SECRET)
            except ValueError as error:
                raise RuntimeError("no rewrite") from error
        except RuntimeError:
            log.exception("a hook failed")
    said = capsys.readouterr().err
    assert said.startswith("error    a hook failed\n")
    assert ", in quote\n" in said
    assert "  RuntimeError: no rewrite\n  after\n" in said
    assert said.endswith("  ValueError: cannot use [redacted]\n")
    assert SECRET not in said
    assert all(line.startswith("  ") for line in said.splitlines()[1:])


def test_nothing_is_said_once_serving_is_over(capsys):
    with told_on_stderr():
        log.warning("once")
    log.warning("never by us")
    assert capsys.readouterr().err.count("warning  ") == 1


def test_whoever_logs_goes_on_when_nobody_can_read_it(monkeypatch):
    """A hook that raised is refused after this line: the line must not raise in its place."""
    monkeypatch.setattr("sys.stderr", Unwritable())
    with told_on_stderr():
        log.error("unheard")


@pytest.mark.parametrize(("no_color", "styled"), [("", True), ("1", False)])
def test_colour_is_for_a_terminal_that_wants_it(no_color, styled, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    with told_on_stderr():
        log.warning("look")
    said = capsys.readouterr().err
    assert said == ("\x1b[33mwarning\x1b[0m  look\n" if styled else "warning  look\n")
