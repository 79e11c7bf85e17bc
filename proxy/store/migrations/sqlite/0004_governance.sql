-- A token may be minted from a token: it dies with its parent and spends from it. `tokens_used` are
-- LLM tokens, as upstreams reported them.

ALTER TABLE tokens ADD COLUMN parent_id TEXT;

ALTER TABLE tokens ADD COLUMN tokens_used INTEGER NOT NULL DEFAULT 0;

CREATE INDEX tokens_by_parent ON tokens (parent_id, expires_at);
CREATE INDEX tokens_by_expiry ON tokens (is_active, expires_at);

-- Who changed what. Each row's hash covers the row and the hash of the row before it, so that a
-- changed or missing one shows. No foreign keys: what was done stays done.

CREATE TABLE audit_events (
    seq        INTEGER NOT NULL,
    id         TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    action     TEXT NOT NULL,
    actor      TEXT NOT NULL,
    outcome    TEXT NOT NULL,
    project_id TEXT,
    token_id   TEXT,
    client_ip  TEXT NOT NULL,
    request_id TEXT NOT NULL,
    details    TEXT NOT NULL,
    hash       TEXT NOT NULL,
    PRIMARY KEY (seq)
);

CREATE UNIQUE INDEX audit_by_id ON audit_events (id);
CREATE INDEX audit_by_time ON audit_events (created_at);
CREATE INDEX audit_by_project ON audit_events (project_id, seq);

-- One row: the newest link of the chain, and the last one that was deleted when its time was over.

CREATE TABLE audit_chain (
    id          INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    hash        TEXT NOT NULL,
    pruned_seq  INTEGER NOT NULL,
    pruned_hash TEXT NOT NULL,
    PRIMARY KEY (id)
);

INSERT INTO audit_chain (id, seq, hash, pruned_seq, pruned_hash) VALUES (1, 0, '', 0, '');

-- What one worker at a time does, over all nodes, and until when it has it.

CREATE TABLE chores (
    name       TEXT NOT NULL,
    holder     TEXT NOT NULL,
    held_until INTEGER NOT NULL,
    PRIMARY KEY (name)
);
