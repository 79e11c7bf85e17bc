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
