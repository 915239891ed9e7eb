"""The tables of the exchanges and their journal, one migration a version."""

EXCHANGES_SCHEMA = """
CREATE TABLE exchanges (
    id TEXT PRIMARY KEY,
    proof_id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL DEFAULT 'default',
    rail TEXT NOT NULL,
    asset TEXT NOT NULL,
    account TEXT NOT NULL,
    amount_minor TEXT NOT NULL,
    scope TEXT NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 1,
    reference TEXT NOT NULL DEFAULT '',
    receipt TEXT NOT NULL DEFAULT '[]',
    challenge_id TEXT,
    valid_until_s INTEGER NOT NULL,
    owner TEXT NOT NULL,
    due_s INTEGER,
    created_s INTEGER NOT NULL,
    updated_s INTEGER NOT NULL,
    updated_seq INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX exchanges_holding ON exchanges (account, valid_until_s)
    WHERE state IN ('verified', 'settling', 'unknown');
CREATE INDEX exchanges_paid ON exchanges (account, updated_seq)
    WHERE state IN ('settled', 'credited');
CREATE INDEX exchanges_due ON exchanges (due_s) WHERE due_s IS NOT NULL;
CREATE INDEX exchanges_released ON exchanges (valid_until_s) WHERE state = 'released';
CREATE UNIQUE INDEX exchanges_challenge ON exchanges (challenge_id) WHERE state <> 'released';
CREATE TABLE store (id TEXT NOT NULL) STRICT;
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    exchange_id TEXT NOT NULL REFERENCES exchanges (id),
    attempt INTEGER NOT NULL,
    from_state TEXT NOT NULL,
    to_state TEXT NOT NULL,
    amount_minor TEXT NOT NULL,
    at_s INTEGER NOT NULL,
    detail TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX journal_exchange ON journal (exchange_id)
"""
"""`owner` names the lock under which the row's process serves (`ledger.lock`). `due_s` is when that
process must be done with the row, by its own deadlines; NULL while nobody is at it. A line of the
journal says its amount where an attempt begins and where less is posted than was held; else the
amount stays, and the line's is empty."""

QUESTIONS_SCHEMA = """
ALTER TABLE exchanges ADD COLUMN payee TEXT NOT NULL DEFAULT '';
ALTER TABLE exchanges ADD COLUMN refund TEXT NOT NULL DEFAULT '';
ALTER TABLE exchanges ADD COLUMN held_until_s INTEGER;
ALTER TABLE exchanges ADD COLUMN asked_s INTEGER;
ALTER TABLE exchanges ADD COLUMN forget_s INTEGER;
ALTER TABLE exchanges ADD COLUMN paid_seq INTEGER;
DROP INDEX exchanges_holding;
DROP INDEX exchanges_paid;
DROP INDEX exchanges_released;
DROP INDEX exchanges_challenge;
UPDATE exchanges SET
    held_until_s = CASE WHEN state IN ('verified', 'settling', 'unknown') THEN valid_until_s END,
    paid_seq = CASE WHEN state IN ('settled', 'credited') THEN updated_seq END,
    asked_s = CASE WHEN state = 'unknown' THEN updated_s END,
    forget_s = CASE WHEN state = 'released' THEN valid_until_s END,
    challenge_id = CASE WHEN state <> 'released' THEN challenge_id END;
ALTER TABLE exchanges DROP COLUMN updated_seq;
CREATE INDEX exchanges_held ON exchanges (account, held_until_s) WHERE held_until_s IS NOT NULL;
CREATE INDEX exchanges_paid ON exchanges (account, paid_seq) WHERE paid_seq IS NOT NULL;
CREATE INDEX exchanges_asked ON exchanges (rail, asked_s, id) WHERE asked_s IS NOT NULL;
CREATE INDEX exchanges_forget ON exchanges (forget_s) WHERE forget_s IS NOT NULL;
CREATE UNIQUE INDEX exchanges_challenge ON exchanges (challenge_id)
"""
"""Who was paid, what the rail calls a refund that it made, and a column for each list that the
books keep of their rows: holds, payments, questions for a rail, and releases to forget. Lists by
`state` would have every move of every payment compare its state with each of them."""

OWED_SCHEMA = "ALTER TABLE exchanges ADD COLUMN owed_minor TEXT NOT NULL DEFAULT ''"
"""What a settlement has asked the rail to move, where that is less than was held; else empty."""
