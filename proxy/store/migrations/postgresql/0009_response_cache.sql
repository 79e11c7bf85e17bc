-- The epoch is in the keys of all stored responses of a project: a higher number makes them unreadable.

ALTER TABLE projects ADD COLUMN cache_epoch INTEGER NOT NULL DEFAULT 0;

-- Secrets of the installation, encrypted as upstream keys are. The first node that needs one makes it.

CREATE TABLE installation_secrets (
    id         VARCHAR(64) COLLATE "C" NOT NULL,
    value      TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (id)
);
