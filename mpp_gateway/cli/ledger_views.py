"""What the ledger says, as tables for people, JSON for programs, and rows for an export."""

import csv
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from mpp_gateway.cli.ledger_words import next_step
from mpp_gateway.cli.output import plain, styled, table
from mpp_gateway.cli.progress import Tick
from mpp_gateway.config.model import GatewayConfig
from mpp_gateway.ledger import inquiry
from mpp_gateway.ledger.audit import Audit
from mpp_gateway.ledger.inquiry import Balance, JournalLine, KeptNote, Purse, Record
from mpp_gateway.ledger.reading import Reading
from mpp_gateway.ledger.states import State
from mpp_gateway.protocol.money import Asset, format_minor, format_short
from mpp_gateway.protocol.timestamps import format_rfc3339
from mpp_gateway.rails.base import Sent

WIDE = 100
NARROW = 12
ID = 16
"""An id begins with twelve digits of time: with four more it is one, and names its exchange."""
YEAR = len("2026-")
RAIL = 8
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What makes a spreadsheet run a cell. Names of accounts and references come from strangers."""

TOTALS: Mapping[str, tuple[str, ...]] = {
    "received": (State.SETTLED,),
    "owed to buyers": (State.CREDITED, State.REFUNDING),
    "lapsed credits": (inquiry.LAPSED,),
    "given back": (State.REFUNDED,),
    "under way": (State.CLAIMED, State.VERIFIED, State.SETTLING),
    "unknown": (State.UNKNOWN,),
}
"""What the states come to. A release is in none: it was never paid. The journal knows no lapsed
credits, for their time is that of the configuration."""


class Assets:
    """What the configuration knows of assets: their names and decimals."""

    def __init__(self, config: GatewayConfig) -> None:
        self._known = {method.asset.code: method.asset for method in config.methods.values()}

    def of(self, code: str) -> Asset | None:
        """Return the asset of that code, or None if no method of the file is paid with it."""
        return self._known.get(code)

    def amount(self, minor: int, code: str) -> str:
        """Return an amount for people: in whole units, or else in minor ones, and says so."""
        asset = self.of(code)
        sign, minor = ("-" if minor < 0 else ""), abs(minor)
        if asset is None:
            return f"{sign}{minor} minor units"
        return f"{sign}{format_short(minor, asset.decimals)}"

    def exact(self, minor: int, code: str) -> str | None:
        """Return an amount in whole units with all its decimals; None if they are not known."""
        asset = self.of(code)
        if asset is None:
            return None
        sign, minor = ("-" if minor < 0 else ""), abs(minor)
        return sign + format_minor(minor, asset.decimals)

    def name(self, code: str) -> str:
        """Return what people call the asset."""
        asset = self.of(code)
        return plain(asset.name if asset else code)


@dataclass(frozen=True, slots=True)
class Story:
    """All that is known of one exchange at `now_s`."""

    record: Record
    moves: tuple[JournalLine, ...]
    sent: tuple[Sent, ...]
    kept: KeptNote | None
    now_s: int
    credit_s: int


def totals(found: Iterable[Balance]) -> dict[Purse, dict[str, int]]:
    """Return what the balances come to, by tenant, rail and asset."""
    sums: dict[Purse, dict[str, int]] = {}
    for balance in found:
        purse = Purse(balance.purse.tenant, balance.purse.rail, balance.purse.asset)
        total = sums.setdefault(purse, dict.fromkeys(TOTALS, 0))
        for name, states in TOTALS.items():
            if balance.state in states:
                total[name] += balance.amount_minor
    return sums


def balances_text(found: list[Balance], assets: Assets) -> str:
    """Return the balances as a table, and below it what they come to."""
    if not found:
        return "The ledger is empty."
    by_account = any(balance.purse.account for balance in found)
    several = {balance.purse.tenant for balance in found} != {"default"}
    heads = ["tenant"] * several + ["rail", "asset"] + ["account"] * by_account
    rows = []
    for balance in found:
        purse = balance.purse
        cells = [purse.tenant] * several + [purse.rail, assets.name(purse.asset)]
        cells += [_owner(purse.account, purse.asset)] * by_account
        amount = assets.amount(balance.amount_minor, purse.asset)
        rows.append((*map(plain, cells), plain(balance.state), str(balance.count), amount))
    parts = [table((*heads, "state", "count", "amount"), rows)]
    for purse, sums in totals(found).items():
        where = f"{purse.tenant} " * several + f"{purse.rail} {assets.name(purse.asset)}"
        shown = [(name, assets.amount(minor, purse.asset)) for name, minor in sums.items()]
        parts.append(f"\n{styled(plain(where), 'bold')}\n{pairs_text(shown)}")
    return "\n".join(parts)


def balances_json(found: list[Balance], assets: Assets) -> dict[str, Any]:
    """Return the balances and what they come to, for a program."""
    return {
        "balances": [balance_json(balance, assets) for balance in found],
        "totals": [
            _purse_json(purse, assets)
            | {
                name.replace(" ", "_"): _money_json(minor, purse.asset, assets)
                for name, minor in sums.items()
            }
            for purse, sums in totals(found).items()
        ],
    }


def balance_json(balance: Balance, assets: Assets) -> dict[str, Any]:
    """Return one balance for a program."""
    account = {"account": balance.purse.account} if balance.purse.account else {}
    return (
        _purse_json(balance.purse, assets)
        | account
        | {"state": balance.state, "count": balance.count}
        | _money_json(balance.amount_minor, balance.purse.asset, assets)
    )


def exchanges_text(found: list[Record], assets: Assets) -> str:
    """Return exchanges as a table that fits 80 columns, or 100 where there are as many."""
    if not found:
        return "No exchange is like that."
    is_wide = shutil.get_terminal_size().columns >= WIDE
    rows = [
        (
            _cell(record.exchange_id, ID),
            (_iso(record.created_s) or "-").replace("T", " ").removesuffix("Z")[YEAR:],
            plain(record.state),
            f"{assets.amount(record.amount_minor, record.asset)}",
            _cell(record.rail, RAIL),
            _ends(_owner(record.account, record.asset)),
            *([_ends(record.reference) or "-"] if is_wide else []),
        )
        for record in found
    ]
    heads = ("id", "began (UTC)", "state", "amount", "rail", "payer")
    return table((*heads, "reference") if is_wide else heads, rows)


def record_json(record: Record, assets: Assets) -> dict[str, Any]:
    """Return one exchange for a program, with all that its row says but who is at it."""
    return {
        "id": record.exchange_id,
        **_purse_json(Purse(record.tenant, record.rail, record.asset), assets),
        "state": record.state,
        "attempt": record.attempt,
        **_money_json(record.amount_minor, record.asset, assets),
        "account": record.account,
        "payee": record.payee or None,
        "proof_id": record.proof_id,
        "reference": record.reference,
        "refund": record.refund,
        "challenge_id": record.challenge_id,
        "scope": record.scope,
        **_times_json("created", record.created_s),
        **_times_json("updated", record.updated_s),
        **_times_json("valid_until", record.valid_until_s),
        **_times_json("due", record.due_s),
    }


def story_text(story: Story, assets: Assets) -> str:
    """Return all of one exchange for people."""
    record = story.record
    amount = assets.amount(record.amount_minor, record.asset)
    pairs = [
        ("exchange", record.exchange_id),
        ("state", f"{record.state} (attempt {record.attempt})"),
        ("amount", f"{amount} {assets.name(record.asset)}"),
        ("rail", record.rail),
        ("payer", record.account),
        ("payee", record.payee or "-"),
        ("proof", record.proof_id),
        ("reference", record.reference or "-"),
        *([("refund", record.refund)] if record.refund else []),
        ("challenge", record.challenge_id or "-"),
        ("scope", record.scope),
        ("began", _iso(record.created_s) or "-"),
        ("moved last", _iso(record.updated_s) or "-"),
        ("proof ends", _iso(record.valid_until_s) or "-"),
        *((name.lower(), value) for name, value in record.receipt),
        ("answer", _kept_text(story.kept)),
    ]
    moves = [
        (
            str(move.seq),
            _iso(move.at_s) or "-",
            f"{move.before or '-'} -> {move.after}",
            str(move.attempt),
            move.detail,
        )
        for move in story.moves
    ]
    parts = [pairs_text(pairs), "", _table(("line", "at", "move", "attempt", "because"), moves)]
    if story.sent:
        sent = [(sent.reference, _iso(sent.at_s) or "-", sent.detail) for sent in story.sent]
        parts += ["", _table(("transaction", "signed", "with"), sent)]
    return "\n".join(
        [*parts, "", f"{styled('next', 'bold')}  {next_step(record, story.now_s, story.credit_s)}"]
    )


def story_json(story: Story, assets: Assets) -> dict[str, Any]:
    """Return all of one exchange for a program."""
    kept = story.kept
    answer = kept and {
        "status": kept.status,
        "bytes": kept.length,
        **_times_json("until", kept.until_s),
    }
    return {
        **record_json(story.record, assets),
        "receipt": [{"name": name, "value": value} for name, value in story.record.receipt],
        "journal": [move_json(move) for move in story.moves],
        "transactions": [
            {"reference": sent.reference, "detail": sent.detail, **_times_json("signed", sent.at_s)}
            for sent in story.sent
        ],
        "kept_answer": answer,
        "next": next_step(story.record, story.now_s, story.credit_s),
    }


def move_json(move: JournalLine) -> dict[str, Any]:
    """Return one line of the journal for a program."""
    return {
        "seq": move.seq,
        "exchange_id": move.exchange_id,
        "attempt": move.attempt,
        "from": move.before,
        "to": move.after,
        "amount_minor": str(move.amount_minor),
        "at": _iso(move.at_s),
        "at_s": move.at_s,
        "detail": move.detail,
    }


def audit_text(found: Audit, assets: Assets) -> str:
    """Return what came of a check, the faults first."""
    faults = [
        f"{_cell(fault.exchange_id, 36) or 'store'}  {plain(fault.text)}" for fault in found.faults
    ]
    if found.faults_found > len(faults):
        faults.append(f"and {found.faults_found - len(faults)} more")
    of = f"{found.exchanges} exchanges and {found.lines} lines of the journal"
    if not found.is_sound:
        wrong = styled(f"{found.faults_found} wrong", "red")
        return "\n".join([*faults, "", f"{wrong} in {of}"])
    return (
        f"{styled('sound', 'green')}: {of} say the same\n\n{balances_text(found.balances, assets)}"
    )


def audit_json(found: Audit, assets: Assets) -> dict[str, Any]:
    """Return what came of a check, for a program; the balances are those of the journal."""
    return {
        "sound": found.is_sound,
        "exchanges": found.exchanges,
        "lines": found.lines,
        "faults_found": found.faults_found,
        "faults": [{"exchange_id": f.exchange_id, "text": f.text} for f in found.faults],
        "balances": [balance_json(balance, assets) for balance in found.balances],
    }


RECORD_NAMES = (
    "id", "tenant", "rail", "asset", "symbol", "decimals", "state", "attempt", "amount_minor",
    "amount", "account", "payee", "proof_id", "reference", "refund", "challenge_id", "scope",
    "created_at", "created_s", "updated_at", "updated_s", "valid_until_at", "valid_until_s",
    "due_at", "due_s",
)  # fmt: skip
MOVE_NAMES = (
    "seq", "exchange_id", "attempt", "from", "to", "amount_minor", "at", "at_s", "detail",
)  # fmt: skip
"""The columns of an export. Programs count on them: a name stays, and new ones come last."""


def export_rows(reading: Reading, assets: Assets, *, is_journal: bool) -> Iterator[dict[str, Any]]:
    """Yield what is exported, one row at a time, always with the same names."""
    if is_journal:
        yield from map(move_json, inquiry.moves(reading))
        return
    for record in inquiry.every(reading):
        yield record_json(record, assets)


def write_csv(
    out: IO[str], names: Sequence[str], rows: Iterable[dict[str, Any]], tick: Tick
) -> None:
    """Write rows as RFC 4180 has it, below a line with their names."""
    writer = csv.writer(out)
    writer.writerow(names)
    for number, row in enumerate(rows):
        writer.writerow([_harmless(row[name]) for name in names])
        tick(number)


def write_jsonl(
    out: IO[str], names: Sequence[str], rows: Iterable[dict[str, Any]], tick: Tick
) -> None:
    """Write one JSON object a line."""
    for number, row in enumerate(rows):
        out.write(json.dumps({name: row[name] for name in names}) + "\n")
        tick(number)


WRITERS = {"csv": write_csv, "jsonl": write_jsonl}


def _harmless(value: Any) -> Any:
    is_formula = isinstance(value, str) and value.startswith(FORMULA)
    return f"'{value}" if is_formula else value


def _purse_json(purse: Purse, assets: Assets) -> dict[str, Any]:
    asset = assets.of(purse.asset)
    return {
        "tenant": purse.tenant,
        "rail": purse.rail,
        "asset": purse.asset,
        "symbol": asset.symbol if asset else None,
        "decimals": asset.decimals if asset else None,
    }


def _money_json(minor: int, code: str, assets: Assets) -> dict[str, Any]:
    # As text: in 18 decimals a few units are more than a double can tell apart.
    return {"amount_minor": str(minor), "amount": assets.exact(minor, code)}


def _times_json(name: str, unix_s: int | None) -> dict[str, Any]:
    return {f"{name}_at": _iso(unix_s), f"{name}_s": unix_s}


def _iso(unix_s: int | None) -> str | None:
    try:
        return None if unix_s is None else format_rfc3339(unix_s)
    except ValueError:
        return None  # for ever, as far as calendars go


def _kept_text(kept: KeptNote | None) -> str:
    if kept is None:
        return "not kept"
    until = _iso(kept.until_s) or "-"
    return f"kept until {until} for whoever has the Idempotency-Key ({kept.length} bytes)"


def _owner(account: str, asset: str) -> str:
    """Return an account without the asset, where its name begins with that."""
    return account.removeprefix(asset).lstrip("/") or account


def _ends(text: str) -> str:
    """Return a long name as its two ends, as people compare them."""
    text = plain(text)
    return text if len(text) <= NARROW else f"{text[:6]}…{text[-5:]}"


def _cell(text: str, width: int) -> str:
    return plain(text)[:width]


def pairs_text(pairs: Iterable[tuple[str, str]]) -> str:
    """Return names and values below each other."""
    shown = [(plain(name), plain(value)) for name, value in pairs]
    width = max(len(name) for name, _ in shown)
    return "\n".join(f"  {name.ljust(width)}  {value}" for name, value in shown)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return table(heads, [tuple(map(plain, row)) for row in rows])
