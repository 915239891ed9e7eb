"""The commands of the page on bookkeeping, on the books that the page shows."""

import json
import shlex
import time

import pytest

from mpp_gateway.ledger.states import State
from tests.docs.pages import ROOT, commands, output_of
from tests.support.command import run, run_on_terminal
from tests.support.ledger import Keeper
from tests.support.stores import SqlitePlace

PAGE = ROOT / "docs" / "how-to" / "keep-the-books.md"
ID = "019a4b6c1f2e7d30"
CONFIG = """\
secret_key: test-secret-test-secret-test-secret-0123
store: sqlite:///STORE
methods:
  evm:
    chain_id: 84532
    token: {address: "0x036CbD53842c5426634e7929541eC2318f3dCF7e", name: USDC, decimals: 6}
    recipient: "0x00000000000000000000000000000000000000bb"
    submit: {facilitator: https://facilitator.example}
services:
  weather: {base_url: https://api.example.com, routes: {"GET /now": {charge: "0.01"}}}
"""


@pytest.fixture
def books(tmp_path):
    """A folder with a configuration and the books of the page."""
    (tmp_path / "gateway.yaml").write_text(CONFIG.replace("STORE", str(tmp_path / "gateway.db")))
    with Keeper(SqlitePlace(tmp_path / "gateway.db")) as keeper:
        keeper.sell(ID + "0" * 8)
        keeper.sell("a" * 32)
        keeper.sell("b" * 32, State.RELEASED)
        keeper.sell("c" * 32, State.CREDITED, now_s=int(time.time()))
    return tmp_path


@pytest.mark.parametrize(
    "command", sorted(c for c in commands(PAGE) if c.startswith("mpp-gateway ledger "))
)
def test_every_command_of_the_page_runs_as_it_stands(command, books):
    done = run(*shlex.split(command)[1:], home=books, cwd=books)

    # Without a node there is nothing to compare with.
    assert (done.code, done.err) == (7 if "reconcile" in command else 0, "")
    if "--output" in command:
        assert (books / "books.csv").read_text().count("\n") == 5
    elif "--format" in command:
        assert {line["to"] for line in map(json.loads, done.out.splitlines())} > {"settled"}
    else:
        assert json.loads(done.out)


def test_the_page_shows_what_the_command_prints(books):
    command = "mpp-gateway ledger balances --config gateway.yaml"
    words = [
        str(books / "gateway.yaml") if word == "gateway.yaml" else word
        for word in shlex.split(command)[1:]
    ]

    code, printed = run_on_terminal(*words, home=books, NO_COLOR="1")

    assert (code, printed) == (0, output_of(PAGE, command))
