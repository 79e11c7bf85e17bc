-- The newest schema for MySQL and MariaDB: for reading, and for people who would rather apply it
-- themselves than run `python manage.py db migrate`. Made from proxy/store/migrations/mysql, so
-- change it there, then:
--
--   python -c 'import proxy.store.migrate as m; print(m.schema_sql(), end="")' > schema.sql

CREATE TABLE IF NOT EXISTS schema_migrations (
    version    INTEGER      NOT NULL PRIMARY KEY,
    name       VARCHAR(255) NOT NULL,
    applied_at BIGINT       NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- 0001 initial

-- Times are microseconds since 1970-01-01T00:00:00Z: one integer that every database compares,
-- sorts and returns alike, where date types differ in precision, time zone and driver.
--
-- IF NOT EXISTS, because MySQL commits after every statement of this kind: a migration that was
-- cut off half-way must be able to run again.

CREATE TABLE IF NOT EXISTS projects (
    id                CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    name              VARCHAR(255) NOT NULL,
    description       TEXT,
    metadata          MEDIUMTEXT   NOT NULL,
    upstream_key      TEXT         NOT NULL,
    upstream_key_mask VARCHAR(64)  NOT NULL,
    is_active         TINYINT(1)   NOT NULL DEFAULT 1,
    deactivated_at    BIGINT,
    created_at        BIGINT       NOT NULL,
    updated_at        BIGINT       NOT NULL,
    PRIMARY KEY (id),
    UNIQUE KEY projects_by_name (name),
    KEY projects_by_update (updated_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS tokens (
    id              CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    token_hash      CHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    token_mask      VARCHAR(64)  NOT NULL,
    name            VARCHAR(255),
    project_id      CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    expires_at      BIGINT       NOT NULL,
    is_active       TINYINT(1)   NOT NULL DEFAULT 1,
    revoked_at      BIGINT,
    max_requests    BIGINT,
    request_count   BIGINT       NOT NULL DEFAULT 0,
    cache_hit_count BIGINT       NOT NULL DEFAULT 0,
    last_used_at    BIGINT,
    created_at      BIGINT       NOT NULL,
    updated_at      BIGINT       NOT NULL,
    PRIMARY KEY (id),
    UNIQUE KEY tokens_by_hash (token_hash),
    KEY tokens_by_project (project_id, id),
    KEY tokens_by_update (updated_at),
    CONSTRAINT tokens_of_project FOREIGN KEY (project_id) REFERENCES projects (id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

INSERT INTO schema_migrations (version, name, applied_at)
VALUES (1, 'initial', TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)));

-- 0002 policy

-- What a project or a token may do and how, as one JSON object. NULL: nothing was set.
--
-- Only where the column is missing, because a migration that was cut off half-way must be able to
-- run again. MariaDB has ADD COLUMN IF NOT EXISTS for this, MySQL has not; DO 0 does nothing.

SET @missing = NOT EXISTS (
    SELECT 1 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'projects' AND column_name = 'policy'
);
SET @change = IF(@missing, 'ALTER TABLE projects ADD COLUMN policy MEDIUMTEXT', 'DO 0');
PREPARE change_projects FROM @change;
EXECUTE change_projects;
DEALLOCATE PREPARE change_projects;

SET @missing = NOT EXISTS (
    SELECT 1 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'tokens' AND column_name = 'policy'
);
SET @change = IF(@missing, 'ALTER TABLE tokens ADD COLUMN policy MEDIUMTEXT', 'DO 0');
PREPARE change_tokens FROM @change;
EXECUTE change_tokens;
DEALLOCATE PREPARE change_tokens;

INSERT INTO schema_migrations (version, name, applied_at)
VALUES (2, 'policy', TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)));

-- 0003 ledger

-- Usage per hour, project, token and model. `hour` is its beginning, in microseconds like all times;
-- `model` is what the upstream called itself, empty where no response named one.
--
-- No foreign keys: what was used stays used, and counting must not lock projects and tokens.

CREATE TABLE IF NOT EXISTS usage_hourly (
    hour              BIGINT       NOT NULL,
    project_id        CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    token_id          CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    model             VARCHAR(255) NOT NULL,
    requests          BIGINT       NOT NULL,
    errors            BIGINT       NOT NULL,
    prompt_tokens     BIGINT       NOT NULL,
    completion_tokens BIGINT       NOT NULL,
    cached_tokens     BIGINT       NOT NULL,
    reasoning_tokens  BIGINT       NOT NULL,
    PRIMARY KEY (hour, project_id, token_id, model),
    KEY usage_by_project (project_id, hour)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- How far the events of each source (one writer's spool) have been added up. It moves in the
-- transaction that adds them, so that none is added twice.

CREATE TABLE IF NOT EXISTS usage_positions (
    source      VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    segment     BIGINT      NOT NULL,
    byte_offset BIGINT      NOT NULL,
    updated_at  BIGINT      NOT NULL,
    PRIMARY KEY (source)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

INSERT INTO schema_migrations (version, name, applied_at)
VALUES (3, 'ledger', TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)));

-- 0004 governance

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

INSERT INTO schema_migrations (version, name, applied_at)
VALUES (4, 'governance', TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)));

-- 0005 estimates

-- What responses cost whose upstream reported no usage, estimated. In columns of their own: an
-- estimate is no part of what was reported.
--
-- Only where the columns are missing, as in 0002; both in one statement, so that none is there alone.

SET @missing = NOT EXISTS (
    SELECT 1 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'usage_hourly'
    AND column_name = 'estimated_prompt_tokens'
);
SET @change = IF(@missing, 'ALTER TABLE usage_hourly
    ADD COLUMN estimated_prompt_tokens BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN estimated_completion_tokens BIGINT NOT NULL DEFAULT 0', 'DO 0');
PREPARE change_usage FROM @change;
EXECUTE change_usage;
DEALLOCATE PREPARE change_usage;

INSERT INTO schema_migrations (version, name, applied_at)
VALUES (5, 'estimates', TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)));

-- 0006 counted

-- What the ledger has counted: events by their id, and responses that can be read again by a hash of
-- project and response id. `reading` is what a read has counted, as JSON (proxy/store/counted_ids.py).

CREATE TABLE IF NOT EXISTS counted_ids (
    id        CHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    forget_at BIGINT NOT NULL,
    reading   TEXT,
    PRIMARY KEY (id),
    KEY counted_ids_by_time (forget_at, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

INSERT INTO schema_migrations (version, name, applied_at)
VALUES (6, 'counted', TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)));

-- 0007 leases

-- The leases of the maintenance tasks, which one worker of all nodes runs at a time, have a name that
-- says so. A lease lasts minutes and needs no copy: at worst two workers run a task at once, once.

CREATE TABLE IF NOT EXISTS leases (
    name       VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    holder     VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    held_until BIGINT NOT NULL,
    PRIMARY KEY (name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

DROP TABLE IF EXISTS chores;

INSERT INTO schema_migrations (version, name, applied_at)
VALUES (7, 'leases', TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)));

-- 0008 routing

-- Providers, their keys and the mappings of aliases to their models. The revision `routing` changes
-- in every transaction that writes one of these, and is locked first, so that such writes run one
-- after the other and every worker sees deletes too.

CREATE TABLE IF NOT EXISTS providers (
    id            CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    name          VARCHAR(255) NOT NULL,
    provider_type VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    base_url      VARCHAR(2048) NOT NULL,
    config        MEDIUMTEXT NOT NULL,
    is_active     TINYINT(1) NOT NULL DEFAULT 1,
    is_default    TINYINT(1) NOT NULL DEFAULT 0,
    created_at    BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL,
    PRIMARY KEY (id),
    UNIQUE KEY providers_by_name (name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS provider_keys (
    id          CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    provider_id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    name        VARCHAR(255) NOT NULL,
    value       TEXT NOT NULL,
    mask        VARCHAR(64) NOT NULL,
    weight      INTEGER NOT NULL DEFAULT 1,
    models      MEDIUMTEXT NOT NULL,
    is_active   TINYINT(1) NOT NULL DEFAULT 1,
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL,
    PRIMARY KEY (id),
    UNIQUE KEY provider_keys_by_name (provider_id, name),
    CONSTRAINT provider_keys_of_provider FOREIGN KEY (provider_id) REFERENCES providers (id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- No foreign key: the provider may be one of the configuration file.

CREATE TABLE IF NOT EXISTS mappings (
    id                  CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    alias_name          VARCHAR(256) NOT NULL,
    provider_id         VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    provider_model_name VARCHAR(256) NOT NULL,
    order_index         INTEGER NOT NULL DEFAULT 0,
    weight              INTEGER NOT NULL DEFAULT 1,
    is_default          TINYINT(1) NOT NULL DEFAULT 0,
    config              MEDIUMTEXT NOT NULL,
    created_at          BIGINT NOT NULL,
    updated_at          BIGINT NOT NULL,
    PRIMARY KEY (id),
    UNIQUE KEY mappings_by_target (alias_name, provider_id, provider_model_name),
    KEY mappings_by_provider (provider_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- What the workers have seen of each key and model; an empty model stands for all. No foreign key: the
-- key may be one of the configuration file, and a late report must not fail.

CREATE TABLE IF NOT EXISTS provider_key_health (
    key_id        VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    model         VARCHAR(256) NOT NULL,
    cooling_until BIGINT,
    last_status   INTEGER,
    last_used_at  BIGINT,
    success_count BIGINT NOT NULL DEFAULT 0,
    failure_count BIGINT NOT NULL DEFAULT 0,
    reset_at      BIGINT,
    updated_at    BIGINT NOT NULL,
    PRIMARY KEY (key_id, model),
    KEY provider_key_health_by_update (updated_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- When what one name stands for changed last, for what is read as a whole.

CREATE TABLE IF NOT EXISTS revisions (
    name       VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

INSERT IGNORE INTO revisions (name, updated_at) VALUES ('routing', 0);

INSERT INTO schema_migrations (version, name, applied_at)
VALUES (8, 'routing', TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)));

-- 0009 response_cache

-- The epoch is in the keys of all stored responses of a project: a higher number makes them unreadable.
--
-- Only where the column is missing, as in 0002.

SET @missing = NOT EXISTS (
    SELECT 1 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'projects' AND column_name = 'cache_epoch'
);
SET @change = IF(@missing,
    'ALTER TABLE projects ADD COLUMN cache_epoch INTEGER NOT NULL DEFAULT 0', 'DO 0');
PREPARE change_projects FROM @change;
EXECUTE change_projects;
DEALLOCATE PREPARE change_projects;

-- Secrets of the installation, encrypted as upstream keys are. The first node that needs one makes it.

CREATE TABLE IF NOT EXISTS installation_secrets (
    id         VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    value      TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

INSERT INTO schema_migrations (version, name, applied_at)
VALUES (9, 'response_cache', TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)));

-- 0010 saved_usage

-- What the response cache has served, and the LLM tokens that this saved. In columns of their own:
-- nobody was charged for them.
--
-- Only where the columns are missing, as in 0002; all in one statement, so that none is there alone.

SET @missing = NOT EXISTS (
    SELECT 1 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'usage_hourly'
    AND column_name = 'cache_hits'
);
SET @change = IF(@missing, 'ALTER TABLE usage_hourly
    ADD COLUMN cache_hits BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN saved_prompt_tokens BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN saved_completion_tokens BIGINT NOT NULL DEFAULT 0', 'DO 0');
PREPARE change_usage FROM @change;
EXECUTE change_usage;
DEALLOCATE PREPARE change_usage;

INSERT INTO schema_migrations (version, name, applied_at)
VALUES (10, 'saved_usage', TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)));

-- 0011 cache_purges

-- Purges of stored responses, which every node reads and applies to its own store. `selection` is JSON
-- (proxy/store/cache_purges.py).

CREATE TABLE IF NOT EXISTS cache_purges (
    moment    BIGINT NOT NULL,
    selection MEDIUMTEXT NOT NULL,
    PRIMARY KEY (moment)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

INSERT IGNORE INTO revisions (name, updated_at) VALUES ('cache_purges', 0);

INSERT INTO schema_migrations (version, name, applied_at)
VALUES (11, 'cache_purges', TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)));
