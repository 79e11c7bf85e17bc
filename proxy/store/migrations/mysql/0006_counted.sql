-- What the ledger has counted: events by their id, and responses that can be read again by a hash of
-- project and response id. `reading` is what a read has counted, as JSON (proxy/store/counted_ids.py).

CREATE TABLE IF NOT EXISTS counted_ids (
    id        CHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    forget_at BIGINT NOT NULL,
    reading   TEXT,
    PRIMARY KEY (id),
    KEY counted_ids_by_time (forget_at, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
