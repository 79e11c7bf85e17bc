-- Providers, their keys and the mappings of aliases to their models. The revision `routing` changes
-- in every transaction that writes one of these, and is locked first, so that such writes run one
-- after the other and every worker sees deletes too.

CREATE TABLE providers (
    id            TEXT NOT NULL,
    name          TEXT NOT NULL,
    provider_type TEXT NOT NULL,
    base_url      TEXT NOT NULL,
    config        TEXT NOT NULL,
    is_active     INTEGER NOT NULL DEFAULT 1,
    is_default    INTEGER NOT NULL DEFAULT 0,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (name)
);

CREATE TABLE provider_keys (
    id          TEXT NOT NULL,
    provider_id TEXT NOT NULL,
    name        TEXT NOT NULL,
    value       TEXT NOT NULL,
    mask        TEXT NOT NULL,
    weight      INTEGER NOT NULL DEFAULT 1,
    models      TEXT NOT NULL,
    is_active   INTEGER NOT NULL DEFAULT 1,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (provider_id, name),
    CONSTRAINT provider_keys_of_provider FOREIGN KEY (provider_id) REFERENCES providers (id)
);

-- No foreign key: the provider may be one of the configuration file.

CREATE TABLE mappings (
    id                  TEXT NOT NULL,
    alias_name          TEXT NOT NULL,
    provider_id         TEXT NOT NULL,
    provider_model_name TEXT NOT NULL,
    order_index         INTEGER NOT NULL DEFAULT 0,
    weight              INTEGER NOT NULL DEFAULT 1,
    is_default          INTEGER NOT NULL DEFAULT 0,
    config              TEXT NOT NULL,
    created_at          INTEGER NOT NULL,
    updated_at          INTEGER NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (alias_name, provider_id, provider_model_name)
);

-- What the workers have seen of each key and model; an empty model stands for all. No foreign key: the
-- key may be one of the configuration file, and a late report must not fail.

CREATE TABLE provider_key_health (
    key_id        TEXT NOT NULL,
    model         TEXT NOT NULL,
    cooling_until INTEGER,
    last_status   INTEGER,
    last_used_at  INTEGER,
    success_count INTEGER NOT NULL DEFAULT 0,
    failure_count INTEGER NOT NULL DEFAULT 0,
    reset_at      INTEGER,
    updated_at    INTEGER NOT NULL,
    PRIMARY KEY (key_id, model)
);

-- When what one name stands for changed last, for what is read as a whole.

CREATE TABLE revisions (
    name       TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (name)
);

CREATE INDEX mappings_by_provider ON mappings (provider_id);
CREATE INDEX provider_key_health_by_update ON provider_key_health (updated_at);

INSERT INTO revisions (name, updated_at) VALUES ('routing', 0);
