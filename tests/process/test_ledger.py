"""`mpp-gateway ledger` beside a gateway that has sold for real, on both stores and a real chain."""

import csv
import io
import json
import re
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from mpp_gateway.cli.ledger_views import MOVE_NAMES, RECORD_NAMES
from mpp_gateway.crypto.addresses import parse_address
from mpp_gateway.rails.evm import abi
from tests.support.command import Done, run, run_on_terminal
from tests.support.evm import address
from tests.support.facilitator import submit
from tests.support.paid import PRICE, Paid, fresh_key, paid_gateway, wait_until
from tests.support.stores import PostgresPlace, SqlitePlace

HASH = re.compile(r"0x[0-9a-f]{64}")


def ledger(paid: Paid, *words: str, **environ: str) -> Done:
    """Ask the books of a running gateway."""
    config = paid.folder / "gateway.yaml"
    config.write_text(paid.config)
    return run("ledger", *words, "--config", config, home=paid.folder, **environ)


def on_terminal(paid: Paid, *words: str, code: int = 0, **environ: str) -> str:
    """Ask on a terminal; return what is shown there."""
    config = paid.folder / "gateway.yaml"
    config.write_text(paid.config)
    found, text = run_on_terminal("ledger", *words, "--config", config, home=paid.folder, **environ)
    assert found == code, text
    return text


def asked(paid: Paid, *words: str) -> dict:
    done = ledger(paid, *words)
    assert (done.code, done.err) == (0, "")
    return json.loads(done.out)


def change(paid: Paid, statement: str, *values: str) -> None:
    """Change the store behind the gateway's back."""
    with closing(sqlite3.connect(paid.store, timeout=10)) as db, db:
        db.execute(statement, values)


@pytest.fixture
def paid(tmp_path):
    with paid_gateway(tmp_path) as paid:
        paid.folder = tmp_path
        yield paid


def sell(paid: Paid, target: str = "/api/paid") -> str:
    """Sell one call; return the transaction that paid for it."""
    before = {row["id"] for row in paid.rows()}
    status, _, _ = paid.send(paid.buy(target), target)
    assert status == 200
    (row,) = (row for row in paid.rows() if row["id"] not in before)
    return row["reference"]


def test_a_running_gateways_books_are_told_checked_and_found_on_the_chain(paid):
    references = {sell(paid), sell(paid)}
    paid.keeper.answers("500 Oops")
    paid.send(paid.buy("/api/first"), "/api/first")
    paid.send(paid.buy())
    paid.reaches(settled=2, credited=1, released=1)

    found = asked(paid, "balances")
    assert {b["state"]: (b["count"], b["amount"]) for b in found["balances"]} == {
        "settled": (2, "0.020000"),
        "credited": (1, "0.010000"),
        "released": (1, "0.010000"),
    }
    (total,) = found["totals"]
    assert total["received"] == {"amount_minor": "20000", "amount": "0.020000"}
    assert total["owed_to_buyers"]["amount_minor"] == "10000"
    # What the books say was paid is what the payee has on the chain.
    assert paid.balance() == 3 * PRICE

    rows = asked(paid, "exchanges")["exchanges"]
    assert [row["state"] for row in rows].count("settled") == 2
    assert references <= {row["reference"] for row in rows}
    assert asked(paid, "exchanges", "--state", "credited", "--limit", "5")["exchanges"]
    assert asked(paid, "exchanges", "--rail", "nobody")["exchanges"] == []
    assert len(asked(paid, "exchanges", "--since", "1h")["exchanges"]) == 4

    checked = asked(paid, "verify")
    assert (checked["sound"], checked["exchanges"], checked["faults"]) == (True, 4, [])

    compared = asked(paid, "reconcile")
    assert compared["agrees"] is True
    (rail,) = compared["compared"]
    assert (rail["rail"], rail["found"], rail["differences"]) == ("evm", 3, [])


def test_an_exchange_is_shown_with_its_journal_and_transactions_and_no_signature(paid):
    reference = sell(paid)
    (row,) = paid.rows()
    (signed,) = paid.place.rows("SELECT tx_hash, raw FROM broadcasts")

    for name in (row["id"], row["id"][:8], row["proof_id"], reference, reference[:20]):
        done = ledger(paid, "show", name)
        shown = json.loads(done.out)
        assert (done.code, shown["id"]) == (0, row["id"])
    assert [(line["from"], line["to"]) for line in shown["journal"]] == paid.journal()
    assert [sent["reference"] for sent in shown["transactions"]] == [signed["tx_hash"]]
    assert shown["receipt"][0]["name"] == "Payment-Receipt"
    assert shown["kept_answer"] is None
    assert shown["next"] == "nothing: it was paid and handed over."
    assert signed["raw"].hex() not in done.out
    text = on_terminal(paid, "show", row["id"], NO_COLOR="1")
    assert signed["raw"].hex() not in text
    assert "\nnext  nothing: it was paid and handed over.\n" in text


def test_a_kept_answer_is_told_and_never_shown(paid):
    paid.keeper.answers("200 OK", body=b"marked-answer")
    paid.send(paid.buy(), "/api/paid", "Idempotency-Key: key-1")
    (row,) = paid.rows()
    paid.stop()  # the answer is kept a moment after its last byte

    done = ledger(paid, "show", row["id"])

    answer = json.loads(done.out)["kept_answer"]
    assert (answer["status"], answer["bytes"]) == (200, len(b"marked-answer"))
    assert "marked-answer" not in done.out
    assert b"marked-answer".hex() not in done.out


@pytest.mark.parametrize("name", ["nobody-has-this", "0x", "%"])
def test_a_name_that_nothing_has_is_one_line_and_exit_code_1(name, paid):
    sell(paid)

    done = ledger(paid, "show", name)

    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("mpp-gateway: nothing in the ledger has an id")
    assert done.err.count("\n") == 1


# --- export --------------------------------------------------------------------------------------


def test_an_export_has_every_exchange_and_is_for_its_owner_alone(paid):
    reference = sell(paid)
    target = paid.folder / "books.csv"

    done = ledger(paid, "export", "--output", str(target))

    assert (done.code, done.out, done.err) == (0, "", "")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    raw = target.read_bytes()
    assert raw.count(b"\r\n") == raw.count(b"\n") == 2
    (row,) = csv.DictReader(io.StringIO(raw.decode()))
    assert tuple(row) == RECORD_NAMES
    assert (row["state"], row["amount_minor"], row["decimals"]) == ("settled", str(PRICE), "6")
    assert row["reference"] == reference
    assert row["created_at"].endswith("Z")
    assert [p.name for p in paid.folder.iterdir() if "books" in p.name] == ["books.csv"]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_the_journal_is_exported_line_by_line(form, paid):
    sell(paid)

    done = ledger(paid, "export", "--journal", "--format", form)

    rows = (
        [json.loads(line) for line in done.out.splitlines()]
        if form == "jsonl"
        else list(csv.DictReader(io.StringIO(done.out)))
    )
    assert {tuple(row) for row in rows} == {MOVE_NAMES}
    assert [(row["from"], row["to"]) for row in rows] == paid.journal()


def test_an_empty_ledger_has_a_line_of_names(paid):
    done = ledger(paid, "export")

    assert (done.code, done.out) == (0, ",".join(RECORD_NAMES) + "\n")


def test_what_a_stranger_named_is_no_formula_in_a_spreadsheet(paid):
    sell(paid)
    change(paid, "UPDATE exchanges SET account = '=HYPERLINK(1)', scope = '-1+1'")

    (row,) = csv.DictReader(io.StringIO(ledger(paid, "export").out))

    assert (row["account"], row["scope"]) == ("'=HYPERLINK(1)", "'-1+1")


@pytest.mark.parametrize(
    ("target", "code"), [("/dev/null", 2), (".", 2), ("no-folder/books.csv", 1)]
)
def test_an_export_replaces_no_device_and_no_folder(target, code, paid):
    before = Path(target).stat().st_rdev if target == "/dev/null" else 0

    done = ledger(paid, "export", "--output", target)

    assert (done.code, done.out) == (code, "")
    assert f"--output {target}: " in done.err
    if before:
        assert Path(target).stat().st_rdev == before


# --- verify --------------------------------------------------------------------------------------


def test_a_tampered_store_is_told_line_by_line_and_exit_code_1(paid):
    sell(paid)
    change(paid, "UPDATE exchanges SET state = 'credited'")

    done = ledger(paid, "verify")

    found = json.loads(done.out)
    assert (done.code, found["sound"]) == (1, False)
    (row,) = paid.rows()
    assert {
        "exchange_id": row["id"],
        "text": "the table says credited, the journal says settled",
    } in found["faults"]
    text = on_terminal(paid, "verify", code=1)
    assert f"{row['id']}  the table says credited, the journal says settled\n" in text


# --- reconcile -----------------------------------------------------------------------------------


def differences(paid: Paid, *words: str, code: int = 1) -> list[tuple[str, str]]:
    done = ledger(paid, "reconcile", *words)
    assert (done.code, done.err) == (code, ""), done
    found = json.loads(done.out)
    (rail,) = found["compared"]
    return [(d["kind"], d["reference"]) for d in rail["differences"]]


def test_a_payment_that_never_was_presented_is_extra(paid):
    sell(paid)
    tx_hash = paid.pay_early(paid.buy())

    assert differences(paid) == [("extra", tx_hash)]
    text = on_terminal(paid, "reconcile", code=1)
    assert "extra" in text
    assert "no exchange has this proof" in text
    assert "1 difference" in text


def test_money_of_a_released_payment_is_found(paid):
    """The buyer paid, and the books say that nothing was charged."""
    paid.keeper.answers("500 Oops")
    credential = paid.buy()
    paid.send(credential)
    paid.reaches(released=1)
    tx_hash = paid.pay_early(credential)

    assert differences(paid) == [("unrecorded", tx_hash)]
    # Once the buyer asks again the books know, and owe the call.
    paid.send(credential)
    paid.reaches(credited=1)
    assert differences(paid, code=0) == []


def test_a_settled_payment_that_no_block_has_is_missing(paid):
    sell(paid)
    nowhere = "0x" + "ab" * 32
    change(paid, "UPDATE exchanges SET reference = ?", nowhere)

    assert differences(paid) == [("missing", nowhere)]


def test_two_exchanges_cannot_show_the_same_payment(paid):
    first = sell(paid)
    second = sell(paid)
    change(paid, "UPDATE exchanges SET reference = ? WHERE reference = ?", first, second)

    assert differences(paid) == [("missing", first)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE exchanges SET amount_minor = '5'",
        "UPDATE exchanges SET payee = substr(payee, 1, length(payee) - 4) || 'abcd'",
    ],
)
def test_a_payment_of_another_amount_or_to_somebody_else_is_different(statement, paid):
    reference = sell(paid)
    change(paid, statement)

    assert differences(paid) == [("different", reference)]


def test_a_refund_that_the_chain_does_not_show_is_told(paid):
    sell(paid)
    nowhere = "0x" + "ab" * 32
    change(paid, "UPDATE exchanges SET state = 'refunded', refund = ?", nowhere)

    assert differences(paid) == [("refund", nowhere)]


REFUNDED = """
      "GET /first": {charge: "0.01", settle: before, on_failure: refund}
"""


@pytest.fixture
def refunding(tmp_path):
    """A gateway whose payee is its own gas key; one call was paid back."""
    with paid_gateway(tmp_path, routes=REFUNDED, pays_itself=True) as paid:
        paid.folder = tmp_path
        paid.keeper.answers("500 Oops")
        paid.send(paid.buy("/api/first"), "/api/first")
        wait_until(lambda: paid.states() == {"refunded": 1}, "it is paid back")
        yield paid


def test_refunds_are_found_on_the_chain_and_one_transfer_gives_back_one_payment(refunding):
    refunding.send(refunding.buy("/api/first"), "/api/first")
    wait_until(lambda: refunding.states() == {"refunded": 2}, "it is paid back too")
    first, second = (row["refund"] for row in refunding.rows())

    (rail,) = asked(refunding, "reconcile")["compared"]
    assert (rail["found"], rail["refunds_found"], rail["differences"]) == (2, 2, [])
    shown = asked(refunding, "show", first)
    assert shown["refund"] in {sent["reference"] for sent in shown["transactions"]}
    assert asked(refunding, "verify")["sound"] is True

    change(refunding, "UPDATE exchanges SET refund = ? WHERE refund = ?", first, second)
    assert differences(refunding) == [("refund", first), ("overpaid", second)]


def send_from_key(paid: Paid, minor: int, *, gas: int | None = None) -> str:
    """Send tokens from the gateway's own key to the buyer, behind its back."""
    text = paid.config.split('private_key: "0x')[1].split('"')[0]
    key, to = bytes.fromhex(text), address(paid.key)
    paid.chain.run(paid.chain.demo.mint(paid.payee, PRICE))
    if gas is None:
        return paid.chain.run(paid.chain.demo.transfer(key, to, minor))
    payload = abi.transfer(parse_address(to), minor)
    return paid.chain.run(submit(paid.chain.demo, payload, key, gas=gas))


def test_a_refund_that_was_sent_twice_is_found_on_the_chain(refunding):
    assert differences(refunding, code=0) == []
    again = send_from_key(refunding, PRICE)

    assert differences(refunding) == [("overpaid", again)]
    text = on_terminal(refunding, "reconcile", code=1, NO_COLOR="1")
    assert "\noverpaid  0.01  " in text


@pytest.mark.parametrize("minor", [1, PRICE - 1])
def test_a_refund_of_another_amount_is_told(minor, refunding):
    (row,) = refunding.rows()
    sent = send_from_key(refunding, minor)
    change(refunding, "UPDATE exchanges SET refund = ?", sent)

    assert differences(refunding) == [("refund", sent), ("overpaid", row["refund"])]


def test_a_refund_to_somebody_else_is_told(refunding):
    (row,) = refunding.rows()
    other = row["account"][:-4] + "abcd"
    change(refunding, "UPDATE exchanges SET account = ?", other)

    done = ledger(refunding, "reconcile")
    (found,) = json.loads(done.out)["compared"][0]["differences"]
    assert (done.code, found["kind"], found["reference"]) == (1, "refund", row["refund"])
    assert f"it sent {PRICE} to {row['account']}" in found["text"]


def test_a_refund_whose_transaction_failed_is_told(refunding):
    (row,) = refunding.rows()
    failed = send_from_key(refunding, 10**12, gas=100_000)
    change(refunding, "UPDATE exchanges SET refund = ?", failed)

    done = ledger(refunding, "reconcile")
    first, second = json.loads(done.out)["compared"][0]["differences"]
    assert (done.code, first["kind"], first["reference"]) == (1, "refund", failed)
    assert "the transaction failed" in first["text"]
    assert (second["kind"], second["reference"]) == ("overpaid", row["refund"])


def test_a_refund_that_is_owed_is_told_with_its_time_and_is_no_difference(refunding):
    """As after a kill between the block and the note, and then with the money still to go."""
    refunding.stop()
    (row,) = refunding.rows()
    change(refunding, "UPDATE exchanges SET state = 'refunding', updated_s = 1750000000")

    found = asked(refunding, "reconcile")
    (owed,) = found["waiting"]
    assert (found["agrees"], found["refunds_waiting"]) == (True, 1)
    assert (owed["exchange_id"], owed["since_at"]) == (row["id"], "2025-06-15T15:06:40Z")
    assert found["compared"][0]["under_way"] == 1  # the transfer, of which the books say nothing
    again = send_from_key(refunding, PRICE)
    assert differences(refunding) == [("overpaid", again)]
    text = on_terminal(refunding, "reconcile", code=1, NO_COLOR="1")
    assert "\nwaiting  0.01  to be given back since 2025-06-15T15:06:40Z\n" in text


def test_money_that_came_by_no_proof_is_counted_and_no_fault(paid):
    sell(paid)
    key = fresh_key("friend")
    friend = paid.chain.demo
    paid.chain.run(friend.mint(address(key), 5))
    paid.chain.run(friend.fund_gas(address(key)))
    paid.chain.run(friend.transfer(key, paid.payee, 5))

    (rail,) = asked(paid, "reconcile")["compared"]
    assert (rail["other_transfers"], rail["differences"]) == (1, [])


def test_an_unknown_payment_before_the_first_block_to_search_is_not_asked_for(paid):
    paid.pay_early(paid.buy())
    sell(paid)
    (rail,) = json.loads(ledger(paid, "reconcile").out)["compared"]
    assert len(rail["differences"]) == 1
    assert differences(paid, "--from-block", str(rail["to_block"]), code=0) == []


def test_a_node_that_caps_the_range_is_asked_in_smaller_windows(paid):
    sell(paid)
    tx_hash = paid.pay_early(paid.buy())
    paid.node.faults["eth_getLogs"] = "error: block range too large"

    done = ledger(paid, "reconcile")

    assert done.code == 7
    (reason,) = json.loads(done.out)["not_compared"]
    assert "block range too large" in reason["reason"]
    assert paid.node.calls.count("eth_getLogs") == 3
    paid.node.faults.clear()
    assert differences(paid) == [("extra", tx_hash)]


def test_a_node_that_does_not_answer_is_exit_code_7_and_no_verdict(paid):
    sell(paid)
    paid.node.faults["*"] = "reset"

    done = ledger(paid, "reconcile")

    found = json.loads(done.out)
    assert (done.code, done.err, found["agrees"]) == (7, "", False)
    (reason,) = found["not_compared"]
    assert (reason["rail"], reason["exchanges"]) == ("evm", 1)
    assert reason["reason"].startswith("The node does not answer.")
    assert paid.node.url not in done.out


def test_a_node_of_another_chain_compares_nothing(paid):
    sell(paid)
    paid.node.lies["eth_chainId"] = lambda _: "0x1"

    done = ledger(paid, "reconcile")

    assert done.code == 7
    assert "the node at rpc_url says 1" in done.out


def test_a_method_without_a_node_is_named_and_not_silently_skipped(tmp_path):
    with paid_gateway(tmp_path, facilitator=True, with_rpc=False) as paid:
        paid.folder = tmp_path
        sell(paid)

        done = ledger(paid, "reconcile")

    found = json.loads(done.out)
    assert (done.code, found["compared"]) == (7, [])
    assert found["not_compared"] == [
        {
            "rail": "evm",
            "exchanges": 1,
            "reason": "there is no `rpc_url`: the chain cannot be asked",
        }
    ]


def test_a_rail_that_the_configuration_has_no_more_is_named(paid):
    sell(paid)
    change(paid, "UPDATE exchanges SET rail = 'older'")

    done = ledger(paid, "reconcile")

    # Its payment is in the books all the same, so it is nothing unknown.
    found = json.loads(done.out)
    assert (done.code, found["compared"][0]["differences"]) == (0, [])
    assert found["not_compared"][0]["rail"] == "older"


# --- stores --------------------------------------------------------------------------------------


def test_books_at_a_server_are_told_checked_and_compared(postgres, tmp_path):
    with paid_gateway(tmp_path, place=PostgresPlace(postgres.database())) as paid:
        paid.folder = tmp_path
        reference = sell(paid)

        assert asked(paid, "balances")["balances"][0]["count"] == 1
        assert asked(paid, "show", reference[:16])["state"] == "settled"
        assert asked(paid, "verify")["sound"] is True
        assert asked(paid, "reconcile")["agrees"] is True
        assert ledger(paid, "export").out.count("\n") == 2


def test_a_ledger_on_a_terminal_is_text_and_says_json_where_it_is_asked_to(paid):
    sell(paid)

    text = on_terminal(paid, "balances")
    assert text.startswith("\x1b[1mrail  asset        state    count  amount\x1b[0m\n")
    text = on_terminal(paid, "balances", NO_COLOR="1")
    assert "\x1b" not in text
    assert "\n  received        0.01\n" in text
    assert json.loads(on_terminal(paid, "balances", "--json"))["totals"]
    text = on_terminal(paid, "exchanges")
    assert max(len(line) for line in text.splitlines()) <= 100


@pytest.mark.parametrize("verb", ["balances", "exchanges", "verify", "export", "reconcile"])
def test_a_store_that_is_not_there_is_exit_code_4_and_is_not_made(verb, paid):
    paid.stop()
    paid.store.unlink()

    done = ledger(paid, verb)

    assert (done.code, done.out) == (4, "")
    assert f"there is no store at {paid.store}" in done.err
    assert not paid.store.exists()


def test_a_stores_password_is_in_no_message(tmp_path):
    url = "postgresql://tests:marked-password@127.0.0.1:1/nothing"
    with paid_gateway(tmp_path) as paid:
        paid.folder = tmp_path
        paid.config = paid.config.replace(SqlitePlace(paid.store).url, url)

        done = ledger(paid, "balances")

    assert (done.code, done.out) == (4, "")
    where = "127.0.0.1:1/nothing"
    assert done.err == f"mpp-gateway: cannot read the store at {where}: Connection refused\n"


def test_a_look_changes_nothing_of_a_gateways_store(paid):
    sell(paid)
    paid.stop()
    before = {p.name: p.read_bytes() for p in paid.folder.glob("gateway.db*")}

    for words in (("balances",), ("exchanges",), ("verify",), ("export",), ("reconcile",)):
        assert ledger(paid, *words).code == 0

    assert {p.name: p.read_bytes() for p in paid.folder.glob("gateway.db*")} == before
