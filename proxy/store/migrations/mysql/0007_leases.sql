-- The leases of the maintenance tasks, which one worker of all nodes runs at a time, have a name that
-- says so. A lease lasts minutes and needs no copy: at worst two workers run a task at once, once.

CREATE TABLE IF NOT EXISTS leases (
    name       VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    holder     VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    held_until BIGINT NOT NULL,
    PRIMARY KEY (name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

DROP TABLE IF EXISTS chores;
