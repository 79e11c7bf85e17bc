-- Times are microseconds since 1970-01-01T00:00:00Z: one integer that every database compares,
-- sorts and returns alike, where date types differ in precision, time zone and driver.
--
-- COLLATE "C": compared and sorted by bytes, as the other databases do, whatever the locale.

CREATE TABLE projects (
    id                VARCHAR(36) COLLATE "C" NOT NULL,
    name              VARCHAR(255) COLLATE "C" NOT NULL,
    description       TEXT,
    metadata          TEXT        NOT NULL,
    upstream_key      TEXT COLLATE "C" NOT NULL,
    upstream_key_mask VARCHAR(64) NOT NULL,
    is_active         SMALLINT    NOT NULL DEFAULT 1,
    deactivated_at    BIGINT,
    created_at        BIGINT      NOT NULL,
    updated_at        BIGINT      NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT projects_by_name UNIQUE (name)
);

CREATE INDEX projects_by_update ON projects (updated_at);

CREATE TABLE tokens (
    id              VARCHAR(36) COLLATE "C" NOT NULL,
    token_hash      VARCHAR(64) COLLATE "C" NOT NULL,
    token_mask      VARCHAR(64) NOT NULL,
    name            VARCHAR(255),
    project_id      VARCHAR(36) COLLATE "C" NOT NULL,
    expires_at      BIGINT      NOT NULL,
    is_active       SMALLINT    NOT NULL DEFAULT 1,
    revoked_at      BIGINT,
    max_requests    BIGINT,
    request_count   BIGINT      NOT NULL DEFAULT 0,
    cache_hit_count BIGINT      NOT NULL DEFAULT 0,
    last_used_at    BIGINT,
    created_at      BIGINT      NOT NULL,
    updated_at      BIGINT      NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT tokens_by_hash UNIQUE (token_hash),
    CONSTRAINT tokens_of_project FOREIGN KEY (project_id) REFERENCES projects (id)
);

CREATE INDEX tokens_by_project ON tokens (project_id, id);
CREATE INDEX tokens_by_update ON tokens (updated_at);
