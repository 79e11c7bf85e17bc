-- What the ledger has counted: events by their id, and responses that can be read again by a hash of
-- project and response id. `reading` is what a read has counted, as JSON (proxy/store/counted_ids.py).

CREATE TABLE counted_ids (
    id        VARCHAR(32) COLLATE "C" NOT NULL,
    forget_at BIGINT NOT NULL,
    reading   TEXT,
    PRIMARY KEY (id)
);

CREATE INDEX counted_ids_by_time ON counted_ids (forget_at, id);
