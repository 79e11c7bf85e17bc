-- Usage per hour, project, token and model. `hour` is its beginning, in microseconds like all times;
-- `model` is what the upstream called itself, empty where no response named one.
--
-- No foreign keys: what was used stays used, and counting must not lock projects and tokens.

CREATE TABLE usage_hourly (
    hour              BIGINT NOT NULL,
    project_id        VARCHAR(36) COLLATE "C" NOT NULL,
    token_id          VARCHAR(36) COLLATE "C" NOT NULL,
    model             VARCHAR(255) COLLATE "C" NOT NULL,
    requests          BIGINT NOT NULL,
    errors            BIGINT NOT NULL,
    prompt_tokens     BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    cached_tokens     BIGINT NOT NULL,
    reasoning_tokens  BIGINT NOT NULL,
    PRIMARY KEY (hour, project_id, token_id, model)
);

CREATE INDEX usage_by_project ON usage_hourly (project_id, hour);

-- How far the events of each source (one writer's spool) have been added up. It moves in the
-- transaction that adds them, so that none is added twice.

CREATE TABLE usage_positions (
    source      VARCHAR(64) COLLATE "C" NOT NULL,
    segment     BIGINT NOT NULL,
    byte_offset BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL,
    PRIMARY KEY (source)
);
