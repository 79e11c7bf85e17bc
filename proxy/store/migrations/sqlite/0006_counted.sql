-- What the ledger has counted: events by their id, and responses that can be read again by a hash of
-- project and response id. `reading` is what a read has counted, as JSON (proxy/store/counted_ids.py).

CREATE TABLE counted_ids (
    id        TEXT NOT NULL,
    forget_at INTEGER NOT NULL,
    reading   TEXT,
    PRIMARY KEY (id)
) WITHOUT ROWID;

CREATE INDEX counted_ids_by_time ON counted_ids (forget_at, id);
