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
