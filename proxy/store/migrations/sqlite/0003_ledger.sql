-- Usage per hour, project, token and model. `hour` is its beginning, in microseconds like all times;
-- `model` is what the upstream called itself, empty where no response named one.
--
-- No foreign keys: what was used stays used, and counting must not lock projects and tokens.

CREATE TABLE usage_hourly (
    hour              INTEGER NOT NULL,
    project_id        TEXT    NOT NULL,
    token_id          TEXT    NOT NULL,
    model             TEXT    NOT NULL CHECK (length(model) <= 255),
    requests          INTEGER NOT NULL,
    errors            INTEGER NOT NULL,
    prompt_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cached_tokens     INTEGER NOT NULL,
    reasoning_tokens  INTEGER NOT NULL,
    PRIMARY KEY (hour, project_id, token_id, model)
) WITHOUT ROWID;

CREATE INDEX usage_by_project ON usage_hourly (project_id, hour);

-- How far the events of each source (one writer's spool) have been added up. It moves in the
-- transaction that adds them, so that none is added twice.

CREATE TABLE usage_positions (
    source      TEXT    NOT NULL PRIMARY KEY CHECK (length(source) <= 64),
    segment     INTEGER NOT NULL,
    byte_offset INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL
);
