-- Providers, their keys and the mappings of aliases to their models. The revision `routing` changes
-- in every transaction that writes one of these, and is locked first, so that such writes run one
-- after the other and every worker sees deletes too.

CREATE TABLE providers (
    id            VARCHAR(36) COLLATE "C" NOT NULL,
    name          VARCHAR(255) COLLATE "C" NOT NULL,
    provider_type VARCHAR(64) COLLATE "C" NOT NULL,
    base_url      VARCHAR(2048) COLLATE "C" NOT NULL,
    config        TEXT NOT NULL,
    is_active     SMALLINT NOT NULL DEFAULT 1,
    is_default    SMALLINT NOT NULL DEFAULT 0,
    created_at    BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (name)
);

CREATE TABLE provider_keys (
    id          VARCHAR(36) COLLATE "C" NOT NULL,
    provider_id VARCHAR(36) COLLATE "C" NOT NULL,
    name        VARCHAR(255) COLLATE "C" NOT NULL,
    value       TEXT NOT NULL,
    mask        VARCHAR(64) COLLATE "C" NOT NULL,
    weight      INTEGER NOT NULL DEFAULT 1,
    models      TEXT NOT NULL,
    is_active   SMALLINT NOT NULL DEFAULT 1,
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (provider_id, name),
    CONSTRAINT provider_keys_of_provider FOREIGN KEY (provider_id) REFERENCES providers (id)
);

-- No foreign key: the provider may be one of the configuration file.

CREATE TABLE mappings (
    id                  VARCHAR(36) COLLATE "C" NOT NULL,
    alias_name          VARCHAR(256) COLLATE "C" NOT NULL,
    provider_id         VARCHAR(64) COLLATE "C" NOT NULL,
    provider_model_name VARCHAR(256) COLLATE "C" NOT NULL,
    order_index         INTEGER NOT NULL DEFAULT 0,
    weight              INTEGER NOT NULL DEFAULT 1,
    is_default          SMALLINT NOT NULL DEFAULT 0,
    config              TEXT NOT NULL,
    created_at          BIGINT NOT NULL,
    updated_at          BIGINT NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (alias_name, provider_id, provider_model_name)
);

-- What the workers have seen of each key and model; an empty model stands for all. No foreign key: the
-- key may be one of the configuration file, and a late report must not fail.

CREATE TABLE provider_key_health (
    key_id        VARCHAR(64) COLLATE "C" NOT NULL,
    model         VARCHAR(256) COLLATE "C" NOT NULL,
    cooling_until BIGINT,
    last_status   INTEGER,
    last_used_at  BIGINT,
    success_count BIGINT NOT NULL DEFAULT 0,
    failure_count BIGINT NOT NULL DEFAULT 0,
    reset_at      BIGINT,
    updated_at    BIGINT NOT NULL,
    PRIMARY KEY (key_id, model)
);

-- When what one name stands for changed last, for what is read as a whole.

CREATE TABLE revisions (
    name       VARCHAR(64) COLLATE "C" NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (name)
);

CREATE INDEX mappings_by_provider ON mappings (provider_id);
CREATE INDEX provider_key_health_by_update ON provider_key_health (updated_at);

INSERT INTO revisions (name, updated_at) VALUES ('routing', 0);
