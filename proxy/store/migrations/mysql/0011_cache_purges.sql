-- Purges of stored responses, which every node reads and applies to its own store. `selection` is JSON
-- (proxy/store/cache_purges.py).

CREATE TABLE IF NOT EXISTS cache_purges (
    moment    BIGINT NOT NULL,
    selection MEDIUMTEXT NOT NULL,
    PRIMARY KEY (moment)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

INSERT IGNORE INTO revisions (name, updated_at) VALUES ('cache_purges', 0);
