-- A token may be minted from a token: it dies with its parent and spends from it. `tokens_used` are
-- LLM tokens, as upstreams reported them.

ALTER TABLE tokens ADD COLUMN parent_id VARCHAR(36) COLLATE "C";

ALTER TABLE tokens ADD COLUMN tokens_used BIGINT NOT NULL DEFAULT 0;

CREATE INDEX tokens_by_parent ON tokens (parent_id, expires_at);
CREATE INDEX tokens_by_expiry ON tokens (is_active, expires_at);

-- Who changed what. Each row's hash covers the row and the hash of the row before it, so that a
-- changed or missing one shows. No foreign keys: what was done stays done.

CREATE TABLE audit_events (
    seq        BIGINT NOT NULL,
    id         VARCHAR(36) COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    action     VARCHAR(64) COLLATE "C" NOT NULL,
    actor      VARCHAR(255) COLLATE "C" NOT NULL,
    outcome    VARCHAR(16) COLLATE "C" NOT NULL,
    project_id VARCHAR(36) COLLATE "C",
    token_id   VARCHAR(36) COLLATE "C",
    client_ip  VARCHAR(64) COLLATE "C" NOT NULL,
    request_id VARCHAR(200) COLLATE "C" NOT NULL,
    details    TEXT NOT NULL,
    hash       VARCHAR(64) COLLATE "C" NOT NULL,
    PRIMARY KEY (seq)
);

CREATE UNIQUE INDEX audit_by_id ON audit_events (id);
CREATE INDEX audit_by_time ON audit_events (created_at);
CREATE INDEX audit_by_project ON audit_events (project_id, seq);

-- One row: the newest link of the chain, and the last one that was deleted when its time was over.

CREATE TABLE audit_chain (
    id          INTEGER NOT NULL,
    seq         BIGINT NOT NULL,
    hash        VARCHAR(64) COLLATE "C" NOT NULL,
    pruned_seq  BIGINT NOT NULL,
    pruned_hash VARCHAR(64) COLLATE "C" NOT NULL,
    PRIMARY KEY (id)
);

INSERT INTO audit_chain (id, seq, hash, pruned_seq, pruned_hash) VALUES (1, 0, '', 0, '');

-- What one worker at a time does, over all nodes, and until when it has it.

CREATE TABLE chores (
    name       VARCHAR(64) COLLATE "C" NOT NULL,
    holder     VARCHAR(64) COLLATE "C" NOT NULL,
    held_until BIGINT NOT NULL,
    PRIMARY KEY (name)
);
