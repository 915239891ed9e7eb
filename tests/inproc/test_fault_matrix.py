"""The fault matrix of the settle path: for each fault at each step, who has the money and the word.

Each row is a payment of its own on a real chain, over real HTTP, through a real gateway. Whatever
goes wrong, at most one price moves, and who has paid it gets the upstream's answer for it.
"""

import queue
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Self

import pytest

from mpp_gateway.gateway import serving
from tests.support.faults import (
    ASKED,
    BEFORE,
    BLIND,
    KEY,
    ON_SUCCESS,
    X402,
    Expected,
    Lane,
    Row,
    Seen,
    lanes,
)
from tests.support.paid import refused
from tests.support.stores import in_memory

SPENT = "402 invalid-challenge"
OPEN = "503 settlement-unknown"

# Nothing moved; the same credential is as good as before.
UNTRIED = Expected(
    "released", 503, "rail-unavailable", retry_after=True, challenge=False, receipt=False,
    moved=0, again="served",
)  # fmt: skip
# The same, but that somebody else had submitted the payment, and it could not be seen.
UNTRIED_MOVED = replace(UNTRIED, moved=1)
# Somebody says for certain that this payment is no good; nobody has moved it.
DECLINED = Expected(
    "released", 402, "verification-failed", retry_after=False, challenge=True, receipt=False,
    moved=0, again="served",
)  # fmt: skip
POOR = replace(DECLINED, slug="payment-insufficient")
# The fault was of no matter, or somebody else has submitted the payment for its buyer.
SERVED = Expected(
    "settled", 200, "", retry_after=False, challenge=False, receipt=True, moved=1, again=SPENT
)
# The facilitator's word, believed where no chain can be asked.
LIED_TO = replace(SERVED, moved=0)
# It may have moved: it has not, and will, or it has, and the chain tells later.
UNMOVED = Expected(
    "unknown", 503, "settlement-unknown", retry_after=True, challenge=False, receipt=False,
    moved=0, again="served as credit",
)  # fmt: skip
MOVED = replace(UNMOVED, moved=1)
# It may still move, until the authorization ends.
UNMOVED_OPEN = replace(UNMOVED, again=OPEN)
# It has moved, and without `rpc_url` nobody can ever see it: docs/concepts/money.md, "Limits".
MOVED_OPEN = replace(MOVED, again=OPEN)
# It had moved before it was shown, and the chain does not say yet what for.
EARLY = replace(UNTRIED_MOVED, slug="settlement-unknown")

BOTH = (ON_SUCCESS, BEFORE)
CALL = "eth_call transferWithAuthorization"
USED, BALANCE = "eth_call authorizationState", "eth_call balanceOf"
BLOCK, TIP = "eth_getBlockByNumber", "eth_maxPriorityFeePerGas"
GAS_LEFT, COUNT = "eth_getBalance", "eth_getTransactionCount"
ESTIMATE, SEND = "eth_estimateGas", "eth_sendRawTransaction"
RECEIPT, LOGS = "eth_getTransactionReceipt", "eth_getLogs"
VERIFY, SETTLE = "/verify", "/settle"

DEAD = ("refuse",)
HANG = ("hang",)
ERROR = ("error: overloaded",)
GARBLED = ("500", "garbage", "no-result", "reset")
SHAPE = ("shape",)
WRONG = (*GARBLED, *SHAPE)
NODE = (*DEAD, *HANG, *ERROR, *WRONG)
"""Every way in which a node can fail at any question."""
REVERT = ("error: execution reverted",)
UNSENT = ("error: insufficient funds for gas", "error: transaction underpriced")
UNCLEAR = ("error: nonce too low", "error: already known", "swallow")
"""What a node can say of a transaction that is in no block, and need not be true."""
DONE = ("lost",)
"""It has done what was asked, and its word is lost; only a transaction is something to do."""
NEVER = ("null",)
RUN = ("front-run",)

MUTE = ("reset", "500", "garbage", "shape")
NO_ENTRY = ("401",)
VAGUE = ("error:unexpected_settle_error", "error:invalid_exact_evm_nonce_already_used")
DEFINITE = ("error:transaction_failed", "error:invalid_exact_evm_payload_signature")
NO_FUNDS = ("error:insufficient_funds",)
SETTLED = ("lost", "pending")
LIE = ("lie",)
TAKES = ("takes",)
FACILITATOR = (*DEAD, *HANG, *MUTE, *NO_ENTRY, *VAGUE, *DEFINITE, *NO_FUNDS, *SETTLED, *LIE,
               *TAKES, *RUN)  # fmt: skip
"""Every way in which a facilitator can fail, or do wrong; `lost` and `pending` have settled."""
SHOWN_ONCE = {*HANG, *WRONG, *MUTE, *NO_ENTRY} - {"500"}
"""Faults that have rows for both routes only from where their ways part: when the money is about to
move. Before that and after it the steps are the same."""

# With what, at which routes, when, what is asked, how it fails: what comes of it.
LINES: list[tuple[str, tuple[str, ...], str, tuple[str, ...], tuple[str, ...], Expected]] = [
    (KEY, BOTH, "check", (USED, BALANCE, BLOCK, GAS_LEFT, COUNT), NODE, UNTRIED),
    (KEY, BOTH, "check", (CALL,), (*DEAD, *HANG, *ERROR, *GARBLED), UNTRIED),
    (KEY, BOTH, "check", (CALL,), SHAPE, SERVED),  # what a transfer returns is nothing to read
    (KEY, BOTH, "check", (TIP,), (*DEAD, *HANG, *WRONG), UNTRIED),
    (KEY, BOTH, "check", (TIP,), ERROR, SERVED),
    (KEY, BOTH, "check", (CALL,), REVERT, DECLINED),
    (KEY, BOTH, "check", (CALL,), RUN, SERVED),
    (KEY, BOTH, "early", (LOGS, RECEIPT), (*HANG, *ERROR, *WRONG), EARLY),
    (KEY, BOTH, "early", (RECEIPT,), NEVER, EARLY),
    (KEY, BOTH, "early", (USED,), NODE, UNTRIED_MOVED),
    (KEY, BOTH, "early", (BLOCK,), DEAD, UNTRIED_MOVED),
    (KEY, BOTH, "early", (BLOCK,), (*HANG, *ERROR, *WRONG), EARLY),
    (KEY, BOTH, "settle", (ESTIMATE,), (*DEAD, *HANG, *ERROR, *WRONG), UNTRIED),
    (KEY, (ON_SUCCESS,), "settle", (BLOCK, TIP), (*DEAD, *HANG, *WRONG), UNTRIED),
    (KEY, (ON_SUCCESS,), "settle", (BLOCK,), ERROR, UNTRIED),
    (KEY, (ON_SUCCESS,), "settle", (TIP,), ERROR, SERVED),
    (KEY, BOTH, "settle", (ESTIMATE,), REVERT, DECLINED),
    (KEY, BOTH, "settle", (ESTIMATE,), RUN, SERVED),
    (KEY, BOTH, "settle", (SEND,), (*DEAD, *UNSENT), UNTRIED),
    (KEY, BOTH, "settle", (SEND,), DONE, SERVED),
    (KEY, BOTH, "settle", (SEND,), (*HANG, *ERROR, *WRONG, *UNCLEAR), UNMOVED),
    (KEY, BOTH, "settle", (RECEIPT,), (*NODE, *NEVER), MOVED),
    (KEY, BOTH, "judge", (USED, BLOCK, LOGS), (*HANG, *ERROR, *WRONG), MOVED),
    (KEY, BOTH, "judge", (USED,), DEAD, UNTRIED_MOVED),

    (ASKED, BOTH, "check", (USED, BALANCE), NODE, UNTRIED),
    (ASKED, BOTH, "check", (VERIFY,), (*DEAD, *HANG, *MUTE, *NO_ENTRY), UNTRIED),
    (ASKED, BOTH, "check", (VERIFY,), (*VAGUE, *DEFINITE), DECLINED),
    (ASKED, BOTH, "check", (VERIFY,), NO_FUNDS, POOR),
    (ASKED, BOTH, "check", (VERIFY,), (*TAKES, *RUN), SERVED),
    (ASKED, BOTH, "early", (BLOCK, LOGS, RECEIPT), (*HANG, *ERROR, *WRONG), EARLY),
    (ASKED, BOTH, "early", (RECEIPT,), NEVER, EARLY),
    (ASKED, BOTH, "early", (USED,), NODE, UNTRIED_MOVED),
    (ASKED, BOTH, "settle", (SETTLE,), (*DEAD, *NO_ENTRY), UNTRIED),
    (ASKED, BOTH, "settle", (SETTLE,), DEFINITE, DECLINED),
    (ASKED, BOTH, "settle", (SETTLE,), NO_FUNDS, POOR),
    (ASKED, BOTH, "settle", (SETTLE,), (*SETTLED, *RUN), SERVED),
    (ASKED, BOTH, "settle", (SETTLE,), (*HANG, *MUTE, *VAGUE, *LIE), UNMOVED_OPEN),
    (ASKED, BOTH, "settle", (RECEIPT,), (*NODE, *NEVER), MOVED),
    (ASKED, BOTH, "judge", (USED, BLOCK, LOGS, RECEIPT), NODE, MOVED),
    (ASKED, BOTH, "judge", (RECEIPT,), NEVER, MOVED),

    (BLIND, BOTH, "check", (VERIFY,), (*DEAD, *HANG, *MUTE, *NO_ENTRY), UNTRIED),
    (BLIND, BOTH, "check", (VERIFY,), (*VAGUE, *DEFINITE), DECLINED),
    (BLIND, BOTH, "check", (VERIFY,), NO_FUNDS, POOR),
    (BLIND, BOTH, "check", (VERIFY,), (*TAKES, *RUN), MOVED_OPEN),
    (BLIND, BOTH, "settle", (SETTLE,), (*DEAD, *NO_ENTRY), UNTRIED),
    (BLIND, BOTH, "settle", (SETTLE,), DEFINITE, DECLINED),
    (BLIND, BOTH, "settle", (SETTLE,), NO_FUNDS, POOR),
    (BLIND, BOTH, "settle", (SETTLE,), (*HANG, *MUTE, *VAGUE), UNMOVED_OPEN),
    (BLIND, BOTH, "settle", (SETTLE,), (*SETTLED, *RUN), MOVED_OPEN),
    (BLIND, BOTH, "settle", (SETTLE,), LIE, LIED_TO),
]  # fmt: skip

# Where, when, what, how: why there is no row. An empty part stands for every one.
REASONS: list[tuple[str, tuple[str, ...], str, tuple[str, ...], tuple[str, ...], str]] = [
    (KEY, (BEFORE,), "settle", (BLOCK, TIP), NODE, "asked once a second: the check has just done"),
    (KEY, BOTH, "early", (LOGS, RECEIPT), DEAD, "a node that is gone fails at the check"),
    (KEY, BOTH, "judge", (BLOCK, LOGS), DEAD, "a node that is gone fails at the first question"),
    (ASKED, BOTH, "early", (BLOCK, LOGS, RECEIPT), DEAD, "a node that is gone fails at the check"),
    (ASKED, BOTH, "check", (VERIFY,), (*SETTLED, *LIE), "nothing is settled when it is asked that"),
    (ASKED, BOTH, "settle", (SETTLE,), TAKES, "that is what it is asked for"),
    (BLIND, BOTH, "check", (VERIFY,), (*SETTLED, *LIE), "nothing is settled when it is asked that"),
    (BLIND, BOTH, "settle", (SETTLE,), TAKES, "that is what it is asked for"),
]

PATHS: dict[tuple[str, str], tuple[str, ...]] = {
    (KEY, "check"): (CALL, USED, BALANCE, BLOCK, TIP, GAS_LEFT, COUNT),
    (KEY, "early"): (USED, BLOCK, LOGS, RECEIPT),
    (KEY, "settle"): (ESTIMATE, BLOCK, TIP, SEND, RECEIPT),
    (KEY, "judge"): (USED, BLOCK, LOGS),
    (ASKED, "check"): (USED, BALANCE, VERIFY),
    (ASKED, "early"): (USED, BLOCK, LOGS, RECEIPT),
    (ASKED, "settle"): (SETTLE, RECEIPT),
    (ASKED, "judge"): (USED, BLOCK, LOGS, RECEIPT),
    (BLIND, "check"): (VERIFY,),
    (BLIND, "settle"): (SETTLE,),
}
"""What is asked when; `test_the_matrix_has_a_row_for_every_question_of_the_path` compares it with
what a gateway does ask. What judges a payment is asked of a transaction's receipt as well, whose
row for an own key is that of `settle`."""

BEFOREHAND = {"early": "check", "judge": "settle"}
"""What is asked before, in the same breath."""

SLOW_AT = {("settle", SEND), ("settle", RECEIPT)}
"""Where a fault that stays is waited out."""


def _is_slow(at: str, name: str, kind: str) -> bool:
    is_over = kind in (*DONE, *UNSENT) or (name == SEND and kind in DEAD)
    return kind in (*HANG, *LIE) or ((at, name) in SLOW_AT and not is_over)


ROWS = [
    Row(setup, target, at, name, kind, expected, is_slow=_is_slow(at, name, kind))
    for setup, targets, at, names, kinds, expected in LINES
    for target, name, kind in product(targets, names, kinds)
    if target == ON_SUCCESS or at == "settle" or kind not in SHOWN_ONCE
]
COPIED = "402 verification-failed"


def _of_x402(row: Row) -> Expected:
    """Return what comes of the fault where the payment names neither seller nor call.

    What moved before the gateway had seen it may have moved for somebody else: it buys nothing.
    """
    is_seen_late = row.at == "early" or (row.at == "check" and row.kind == "front-run")
    if row.setup == BLIND or not is_seen_late:
        return row.expected
    if row.expected is SERVED:
        return replace(DECLINED, moved=1, again=COPIED)
    return replace(row.expected, again=COPIED)


def _one_of_each(rows: list[Row]) -> Iterator[Row]:
    """Yield a row for each outcome of each question, and for each way to be paid unasked."""
    seen = set()
    for row in rows:
        own = row.kind if row.kind in (*RUN, *TAKES, *LIE, *SETTLED) else ""
        what = row.setup, row.at, row.name, row.expected, own
        if row.target == ON_SUCCESS and what not in seen and (not row.is_slow or own):
            seen.add(what)
            yield replace(row, wire=X402, expected=_of_x402(row))


X402_ROWS = list(_one_of_each(ROWS))
LANES_EACH = 12
"""Slow rows wait side by side."""


class Players:
    """Plays rows, each when it is its turn; who asks for one waits for that one only."""

    def __init__(self, rows: list[Row]) -> None:
        self.played: dict[str, Future[Seen]] = {str(row): Future() for row in rows}
        self._rows = rows
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._play_all, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _play_all(self) -> None:
        try:
            self._play([row for row in self._rows if not row.is_slow], settle_s=30, each=1)
            self._play([row for row in self._rows if row.is_slow], settle_s=2, each=LANES_EACH)
        except BaseException as error:  # noqa: BLE001 - told to whoever waits
            for future in self.played.values():
                if not future.done():
                    future.set_exception(error)

    def _play(self, rows: list[Row], *, settle_s: int, each: int) -> None:
        if not rows:
            return
        free: dict[str, queue.SimpleQueue[Lane]] = {}
        with (
            tempfile.TemporaryDirectory(dir=in_memory()) as folder,
            lanes(Path(folder), [KEY, ASKED, BLIND] * each, settle_s) as opened,
            ThreadPoolExecutor(each) as pool,
        ):
            for lane in opened:
                free.setdefault(lane.setup, queue.SimpleQueue()).put(lane)
            for done in [pool.submit(self._play_one, row, free[row.setup]) for row in rows]:
                done.result()

    def _play_one(self, row: Row, free: queue.SimpleQueue[Lane]) -> None:
        future = self.played[str(row)]
        if self._stopped.is_set():
            future.cancel()
            return
        lane = free.get()
        try:
            future.set_result(lane.play(row))
        except BaseException as error:  # noqa: BLE001 - told to whoever waits
            future.set_exception(error)
        finally:
            free.put(lane)


@pytest.fixture(scope="module")
def players(request: pytest.FixtureRequest) -> Iterator[Players]:
    """What plays the rows that are asked for, in their order."""
    calls = [getattr(i, "callspec", None) for i in request.session.items if i.path == request.path]
    wanted = [call.params["row"] for call in calls if call is not None and "row" in call.params]
    with pytest.MonkeyPatch.context() as patch:
        # What is done every 15 seconds is told to hurry, or would end a question in between.
        patch.setattr(serving, "MAINTENANCE_S", 10**6)
        with Players(wanted) as playing:
            yield playing


@pytest.mark.parametrize("row", [*ROWS, *X402_ROWS], ids=str)
def test_a_fault_moves_at_most_one_price_and_who_paid_it_is_served(players, row):
    seen = players.played[str(row)].result()

    assert seen.first == row.expected
    assert not seen.leaked
    reaches_upstream = row.target == ON_SUCCESS and row.at in ("settle", "judge")
    is_late = row.expected in (UNMOVED_OPEN, MOVED_OPEN) and row.at == "check"
    assert seen.hits == int(
        reaches_upstream or seen.first.status == 200 or (is_late and row.target == ON_SUCCESS)
    )
    if row.expected.again == OPEN:
        assert (seen.served, seen.moved) == (0, row.expected.moved)
        refused(seen.spent, "settlement-unknown", 503)
        return
    if row.expected.again == COPIED:
        assert (seen.served, seen.moved) == (0, 1)
        refused(seen.spent, "verification-failed")
        return
    assert seen.served == 1
    assert seen.moved == (0 if row.expected is LIED_TO else 1)
    refused(seen.spent, "invalid-challenge")


def _cells(setup: str, at: str) -> set[tuple[str, str]]:
    """Return every fault of every question that is asked then."""
    return {
        (name, kind)
        for name in PATHS[setup, at]
        for kind in (FACILITATOR if name.startswith("/") else NODE)
    }


@pytest.mark.parametrize("target", BOTH)
@pytest.mark.parametrize(("setup", "at"), PATHS)
def test_the_matrix_has_a_row_or_a_reason_for_every_fault_of_every_question(setup, at, target):
    rows = {(r.name, r.kind) for r in ROWS if (r.setup, r.at, r.target) == (setup, at, target)}
    reasons = {
        cell
        for its_setup, targets, its_at, names, kinds, _ in REASONS
        if (its_setup, its_at) == (setup, at) and target in targets
        for cell in product(names, kinds)
    }
    shown = {
        (name, kind)
        for name, kind in _cells(setup, at)
        if target == BEFORE and at != "settle" and kind in SHOWN_ONCE
    }
    assert not rows & (reasons | shown)
    assert _cells(setup, at) - rows - reasons - shown == set()


def test_every_question_that_is_asked_about_an_x402_payment_has_a_row():
    asked = {(row.setup, row.at, row.name) for row in X402_ROWS}
    waited_out = {(KEY, "settle", RECEIPT), (ASKED, "settle", RECEIPT)}
    assert asked | waited_out == {
        (setup, at, name) for (setup, at), names in PATHS.items() for name in names
    }


def test_no_row_says_what_another_one_says_otherwise():
    assert len({str(row) for row in ROWS}) == len(ROWS)


def test_the_paths_of_the_matrix_are_what_a_gateway_asks(tmp_path):
    asked: dict[tuple[str, str], set[str]] = {}
    with lanes(tmp_path, [KEY, ASKED, BLIND], settle_s=30) as opened:
        for lane in opened:
            for part, names in lane.listen().items():
                asked[lane.setup, part] = names
    for (setup, at), names in asked.items():
        listed = set(PATHS.get((setup, at), ()))
        before = set(PATHS.get((setup, BEFOREHAND.get(at, "")), ()))
        if setup == BLIND:  # it cannot see what was paid early, and settles as ever
            before |= set(PATHS[setup, "settle"])
        assert names - before == listed - before, (setup, at)
        assert listed <= names
