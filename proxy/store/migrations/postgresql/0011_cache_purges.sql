-- Purges of stored responses, which every node reads and applies to its own store. `selection` is JSON
-- (proxy/store/cache_purges.py).

CREATE TABLE cache_purges (
    moment    BIGINT NOT NULL,
    selection TEXT NOT NULL,
    PRIMARY KEY (moment)
);

INSERT INTO revisions (name, updated_at) VALUES ('cache_purges', 0);
