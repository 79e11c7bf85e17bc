-- The leases of the maintenance tasks, which one worker of all nodes runs at a time, have a name that
-- says so. A lease lasts minutes and needs no copy: at worst two workers run a task at once, once.

CREATE TABLE leases (
    name       VARCHAR(64) COLLATE "C" NOT NULL,
    holder     VARCHAR(64) COLLATE "C" NOT NULL,
    held_until BIGINT NOT NULL,
    PRIMARY KEY (name)
);

DROP TABLE chores;
