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
