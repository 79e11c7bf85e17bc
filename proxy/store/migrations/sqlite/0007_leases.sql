-- The leases of the maintenance tasks, which one worker of all nodes runs at a time, have a name that
-- says so. A lease lasts minutes and needs no copy: at worst two workers run a task at once, once.

CREATE TABLE leases (
    name       TEXT NOT NULL,
    holder     TEXT NOT NULL,
    held_until INTEGER NOT NULL,
    PRIMARY KEY (name)
);

DROP TABLE chores;
