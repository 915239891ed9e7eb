-- The schema of version 3, as it was given away. Never to be changed: such stores hold money.
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
CREATE INDEX journal_exchange ON journal (exchange_id);

CREATE TABLE submissions (
    chain_id INTEGER NOT NULL,
    sender TEXT NOT NULL,
    nonce INTEGER NOT NULL,
    proof_id TEXT NOT NULL,
    state TEXT NOT NULL,
    valid_until_s INTEGER NOT NULL,
    leased_at_s INTEGER NOT NULL,
    PRIMARY KEY (chain_id, sender, nonce)
) STRICT;
CREATE UNIQUE INDEX submissions_open_proof ON submissions (proof_id) WHERE state = 'open';
CREATE INDEX submissions_unfinished ON submissions (chain_id, sender, nonce)
    WHERE state IN ('open', 'filling', 'free');
CREATE TABLE broadcasts (
    tx_hash TEXT PRIMARY KEY,
    chain_id INTEGER NOT NULL,
    sender TEXT NOT NULL,
    nonce INTEGER NOT NULL,
    raw BLOB NOT NULL,
    max_fee_wei TEXT NOT NULL,
    tip_wei TEXT NOT NULL,
    at_s INTEGER NOT NULL
) STRICT;
CREATE INDEX broadcasts_nonce ON broadcasts (chain_id, sender, nonce);

CREATE TABLE answers (
    exchange_id TEXT PRIMARY KEY REFERENCES exchanges (id),
    key_digest TEXT NOT NULL,
    request_digest TEXT NOT NULL,
    status INTEGER NOT NULL,
    headers TEXT NOT NULL,
    body BLOB NOT NULL,
    until_s INTEGER NOT NULL
) STRICT;
CREATE INDEX answers_until ON answers (until_s);
CREATE TABLE answers_held (bytes INTEGER NOT NULL) STRICT;
INSERT INTO answers_held VALUES (0);
