-- A token may be minted from a token: it dies with its parent and spends from it. `tokens_used` are
-- LLM tokens, as upstreams reported them.
--
-- Only where the columns are missing, as in 0002; all in one statement, so that none is there alone.

SET @missing = NOT EXISTS (
    SELECT 1 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'tokens' AND column_name = 'parent_id'
);
SET @change = IF(@missing, 'ALTER TABLE tokens
    ADD COLUMN parent_id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin,
    ADD COLUMN tokens_used BIGINT NOT NULL DEFAULT 0,
    ADD KEY tokens_by_parent (parent_id, expires_at),
    ADD KEY tokens_by_expiry (is_active, expires_at)', 'DO 0');
PREPARE change_tokens FROM @change;
EXECUTE change_tokens;
DEALLOCATE PREPARE change_tokens;

-- Who changed what. Each row's hash covers the row and the hash of the row before it, so that a
-- changed or missing one shows. No foreign keys: what was done stays done.

CREATE TABLE IF NOT EXISTS audit_events (
    seq        BIGINT NOT NULL,
    id         CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    created_at BIGINT NOT NULL,
    action     VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    actor      VARCHAR(255) NOT NULL,
    outcome    VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    project_id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin,
    token_id   CHAR(36) CHARACTER SET ascii COLLATE ascii_bin,
    client_ip  VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    request_id VARCHAR(200) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    details    MEDIUMTEXT NOT NULL,
    hash       VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    PRIMARY KEY (seq),
    UNIQUE KEY audit_by_id (id),
    KEY audit_by_time (created_at),
    KEY audit_by_project (project_id, seq)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- One row: the newest link of the chain, and the last one that was deleted when its time was over.

CREATE TABLE IF NOT EXISTS audit_chain (
    id          INTEGER NOT NULL,
    seq         BIGINT NOT NULL,
    hash        VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    pruned_seq  BIGINT NOT NULL,
    pruned_hash VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    PRIMARY KEY (id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

INSERT IGNORE INTO audit_chain (id, seq, hash, pruned_seq, pruned_hash) VALUES (1, 0, '', 0, '');

-- What one worker at a time does, over all nodes, and until when it has it.

CREATE TABLE IF NOT EXISTS chores (
    name       VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    holder     VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    held_until BIGINT NOT NULL,
    PRIMARY KEY (name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
