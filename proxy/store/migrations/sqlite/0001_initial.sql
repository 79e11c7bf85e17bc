-- Times are microseconds since 1970-01-01T00:00:00Z: one integer that every database compares,
-- sorts and returns alike, where date types differ in precision, time zone and driver.

CREATE TABLE projects (
    id                TEXT    NOT NULL PRIMARY KEY,
    name              TEXT    NOT NULL UNIQUE CHECK (length(name) <= 255),
    description       TEXT,
    metadata          TEXT    NOT NULL,
    upstream_key      TEXT    NOT NULL,
    upstream_key_mask TEXT    NOT NULL,
    is_active         INTEGER NOT NULL DEFAULT 1,
    deactivated_at    INTEGER,
    created_at        INTEGER NOT NULL,
    updated_at        INTEGER NOT NULL
);

CREATE INDEX projects_by_update ON projects (updated_at);

CREATE TABLE tokens (
    id              TEXT    NOT NULL PRIMARY KEY,
    token_hash      TEXT    NOT NULL UNIQUE,
    token_mask      TEXT    NOT NULL,
    name            TEXT    CHECK (length(name) <= 255),
    project_id      TEXT    NOT NULL REFERENCES projects (id),
    expires_at      INTEGER NOT NULL,
    is_active       INTEGER NOT NULL DEFAULT 1,
    revoked_at      INTEGER,
    max_requests    INTEGER,
    request_count   INTEGER NOT NULL DEFAULT 0,
    cache_hit_count INTEGER NOT NULL DEFAULT 0,
    last_used_at    INTEGER,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL
);

CREATE INDEX tokens_by_project ON tokens (project_id, id);
CREATE INDEX tokens_by_update ON tokens (updated_at);
