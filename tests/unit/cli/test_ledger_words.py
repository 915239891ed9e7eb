"""What the ledger's commands say: times that are asked for, what happens next, how far it is."""

import argparse
import dataclasses
import io
import sys

import pytest

from mpp_gateway.cli import ledger_views as views
from mpp_gateway.cli.ledger_export import exported
from mpp_gateway.cli.ledger_verbs import since_s
from mpp_gateway.cli.ledger_words import next_step
from mpp_gateway.cli.progress import EVERY_S, PATIENCE_S, Line, keep_showing, progress
from mpp_gateway.config import load_text
from mpp_gateway.ledger.inquiry import LAPSED, Balance, JournalLine, Purse
from mpp_gateway.ledger.states import State
from tests.support.ledger import ASSET
from tests.support.proxy import config_text
from tests.support.toy_rail import TOY_METHOD
from tests.unit.gateway.test_reconciliation import record

NOW_S = 1_700_000_000
CREDIT_S = 60
AT = "2023-11-14T22:13:21Z"
"""A second after `NOW_S`."""


@pytest.mark.parametrize(
    ("text", "unix_s"),
    [
        ("2023-11-14T22:13:20Z", NOW_S),
        ("2023-11-14T22:13:20", NOW_S),
        ("2023-11-14T23:13:20+01:00", NOW_S),
        ("2023-11-14", NOW_S - 80_000),
        ("30m", NOW_S - 1_800),
        ("24h", NOW_S - 86_400),
        ("7d", NOW_S - 604_800),
    ],
)
def test_a_time_is_a_day_a_moment_or_how_long_ago_in_utc(text, unix_s, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert since_s(text, NOW_S) == unix_s


@pytest.mark.parametrize("text", ["", "0d", "-1d", "7", "7w", "yesterday", "2023-13-01", "1e3d"])
def test_a_time_that_is_none_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is no time such as"):
        since_s(text, NOW_S)


@pytest.mark.parametrize(
    ("state", "changes", "said"),
    [
        (State.CLAIMED, {"due_s": NOW_S + 1}, f"its call is under way until {AT}; otherwise"),
        (
            State.VERIFIED,
            {"due_s": NOW_S - 1},
            "its process was to be done by 2023-11-14T22:13:19Z",
        ),
        (State.SETTLING, {"due_s": NOW_S + 1}, "otherwise it is unknown, and the rail is asked"),
        (State.SETTLED, {"due_s": NOW_S + 1}, f"paid; its answer is being made until {AT}."),
        (State.SETTLED, {}, "nothing: it was paid and handed over."),
        (State.RELEASED, {"valid_until_s": NOW_S + 1}, f"the payment can be made until {AT}."),
        (State.RELEASED, {"valid_until_s": NOW_S}, "the gateway forgets it"),
        (State.RELEASED, {"valid_until_s": 2**40}, "the payment can be made until for ever."),
        (State.CREDITED, {"updated_s": NOW_S + 1 - CREDIT_S}, f"credential again until {AT}, and"),
        (State.CREDITED, {"updated_s": NOW_S - CREDIT_S}, "nothing: the credit ended at 2023-11-"),
        (State.UNKNOWN, {}, "asks the rail what became of the payment"),
        (State.REFUNDING, {}, "sends the money back to the buyer, once"),
        (State.REFUNDED, {}, "the money went back to the buyer"),
    ],
)
def test_what_happens_next_is_told_with_its_time(state, changes, said):
    assert said in next_step(record("a", state, **changes), NOW_S, CREDIT_S)


def test_every_state_has_a_next_step_and_an_unknown_one_says_so():
    told = {next_step(record("a", state), NOW_S, CREDIT_S) for state in State}
    assert "this version does not know the state." not in told
    lost = dataclasses.replace(record("a"), state="lost")
    assert next_step(lost, NOW_S, CREDIT_S) == "this version does not know the state."


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def waits(*answers: bool):
    """A clock that says each time whether the work is done by then, and how long was asked."""
    left, asked = list(answers), []

    def wait(seconds: float) -> bool:
        asked.append(seconds)
        return left.pop(0)

    return wait, asked


@pytest.mark.parametrize(
    ("answers", "shown"),
    [
        ([True], ""),
        ([False, True], "\rread: 1,000"),
        ([False, False, True], "\rread: 1,000\rread: 1,000"),
    ],
)
def test_what_takes_long_says_how_far_it_is_and_wipes_that_out(answers, shown, monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    line, (wait, asked) = Line("read"), waits(*answers)
    line.tick(1_000)
    keep_showing(line, wait)
    assert terminal.getvalue() == shown
    assert asked == [PATIENCE_S, *[EVERY_S] * (len(answers) - 1)]
    line.wipe()
    assert terminal.getvalue() == shown + (f"\r{' ' * 11}\r" if shown else "")


def test_what_cannot_say_how_far_it_is_says_that_it_goes_on(monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    Line("read").show()
    assert terminal.getvalue() == "\rread ..."


def test_what_is_soon_done_says_nothing_on_a_terminal(monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with progress("read") as tick:
        tick(1)
    assert terminal.getvalue() == ""


def test_nothing_of_it_goes_into_a_pipe(monkeypatch):
    monkeypatch.setattr("sys.stderr", pipe := io.StringIO())
    monkeypatch.setattr("mpp_gateway.cli.progress.keep_showing", lambda line, _: line.show())
    with progress("read") as tick:
        tick(1)
    assert pipe.getvalue() == ""


def test_an_export_that_is_interrupted_leaves_what_was_there(tmp_path):
    target = tmp_path / "books.csv"
    target.write_text("of yesterday")
    with pytest.raises(KeyboardInterrupt), exported(target) as out:
        interrupted_after(out)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("books.csv", "of yesterday")]


def interrupted_after(out) -> None:
    out.write("half of to")
    raise KeyboardInterrupt


def test_an_export_to_stdout_waits_until_the_store_is_let_go(capfdbinary):
    with exported(None) as out:
        out.write("a\r\n")
        assert capfdbinary.readouterr().out == b""
    sys.stdout.flush()
    assert capfdbinary.readouterr().out == b"a\r\n"


@pytest.fixture
def assets(tmp_path):
    services = '  api:\n    base_url: http://127.0.0.1:1\n    routes: {"GET /free": free}'
    return views.Assets(
        load_text(config_text(services, TOY_METHOD, store=tmp_path / "x.db"), "x.yaml", {})
    )


@pytest.mark.parametrize(("columns", "widest"), [("80", 80), ("100", 100), ("200", 100)])
def test_a_list_of_exchanges_fits_the_terminal(columns, widest, assets, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    long = record(
        "0x" + "ab" * 32,
        State.REFUNDING,
        "0x" + "cd" * 32,
        exchange_id="ef" * 16,
        rail="a-rail-of-a-very-long-name",
        asset=ASSET,
        account=f"{ASSET}/0x{'12' * 20}",
        amount_minor=123_456_789,
    )
    lines = views.exchanges_text([long], assets).splitlines()
    assert max(map(len, lines)) <= widest
    assert ("reference" in lines[0]) == (widest == 100)


def test_exchanges_of_one_millisecond_have_names_of_their_own_in_a_list(assets, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    ids = ["019a4b6c1f2e" + f"{chance:04x}" + "0" * 8 for chance in range(3)]
    found = [record("", State.SETTLED, exchange_id=name, asset=ASSET) for name in ids]
    shown = {line.split()[0] for line in views.exchanges_text(found, assets).splitlines()[1:]}
    assert shown == {name[:16] for name in ids}


def test_an_asset_that_the_configuration_does_not_know_is_in_minor_units(assets):
    found = [Balance(Purse("default", "gone", "old"), "settled", 1, 12)]
    assert "settled  1      12 minor units" in views.balances_text(found, assets)
    (balance,) = views.balances_json(found, assets)["balances"]
    assert (balance["amount_minor"], balance["amount"], balance["decimals"]) == ("12", None, None)


def test_tenants_are_told_apart_where_there_are_several(assets):
    one, two = (Balance(Purse(t, "toy", ASSET), "settled", 1, 1) for t in ("default", "acme"))
    assert "tenant" not in views.balances_text([one], assets)
    text = views.balances_text([one, two], assets)
    assert text.startswith("tenant ")
    assert "\nacme toy USDC\n" in text


def test_every_state_but_a_release_is_in_one_total():
    counted = [state for states in views.TOTALS.values() for state in states]
    assert sorted(counted) == sorted({*State, LAPSED} - {State.RELEASED})


def test_a_terminal_obeys_nothing_that_the_books_have_of_a_stranger(assets):
    wicked = record("a\x1b[2J", account="\x1b]52;c;x\x07", reference="r\x1b[1A")
    story = views.Story(wicked, (), (), None, NOW_S, CREDIT_S)
    shown = views.story_text(story, assets) + views.exchanges_text([wicked], assets)
    assert "\x1b" not in shown
    assert "\x07" not in shown


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\t=1", "\r=1"])
def test_a_formula_is_text_in_csv(text):
    out = io.StringIO()
    views.write_csv(out, ("name",), [{"name": text}], lambda _: None)
    assert "'" + text in out.getvalue()


def test_the_columns_of_an_export_are_those_of_the_json(assets):
    move = JournalLine(1, "x", 1, "", "claimed", 1, NOW_S, "")
    assert tuple(views.record_json(record("a"), assets)) == views.RECORD_NAMES
    assert tuple(views.move_json(move)) == views.MOVE_NAMES
