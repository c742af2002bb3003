-- Times are milliseconds since 1970; NULL is never.

-- +goose Up
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('schema', '1');

-- Each start of the daemon. A run of another one than the last is nobody's.
CREATE TABLE processes (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    version TEXT    NOT NULL,
    started INTEGER NOT NULL,
    beat    INTEGER NOT NULL,
    stopped INTEGER
) STRICT;

-- When a job was first seen: it owes nothing from before.
CREATE TABLE jobs (
    job   TEXT PRIMARY KEY,
    since INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE runs (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    job          TEXT    NOT NULL,
    kind         TEXT    NOT NULL,
    tenant       TEXT    NOT NULL,
    dataset      TEXT    NOT NULL,
    planned      INTEGER NOT NULL,
    by_hand      INTEGER NOT NULL CHECK (by_hand IN (0, 1)),
    missed       INTEGER NOT NULL DEFAULT 0,
    first_missed INTEGER,
    claimed      INTEGER NOT NULL,
    process      INTEGER NOT NULL REFERENCES processes (id),
    attempts     INTEGER NOT NULL DEFAULT 1,
    phase        TEXT    NOT NULL DEFAULT '',
    done         INTEGER NOT NULL DEFAULT 0,
    total        INTEGER NOT NULL DEFAULT 0,
    updated      INTEGER NOT NULL,
    finished     INTEGER,
    outcome      TEXT,
    reason       TEXT    NOT NULL DEFAULT '',
    -- A planned run is claimed once, whatever crashes.
    UNIQUE (job, planned),
    CHECK ((finished IS NULL) = (outcome IS NULL))
) STRICT;
-- And none of a job runs beside another.
CREATE UNIQUE INDEX runs_open ON runs (job) WHERE finished IS NULL;
CREATE INDEX runs_dataset ON runs (tenant, dataset, id);

CREATE TABLE phases (
    run   INTEGER NOT NULL REFERENCES runs (id),
    n     INTEGER NOT NULL,
    phase TEXT    NOT NULL,
    began INTEGER NOT NULL,
    PRIMARY KEY (run, n)
) STRICT, WITHOUT ROWID;

CREATE TABLE datasets (
    tenant         TEXT    NOT NULL,
    dataset        TEXT    NOT NULL,
    since          INTEGER NOT NULL,
    last_success   INTEGER,
    success_run    INTEGER REFERENCES runs (id),
    last_failure   INTEGER,
    failure_run    INTEGER REFERENCES runs (id),
    last_drill     INTEGER,
    drill_outcome  TEXT,
    last_passed    INTEGER,
    first_passed   INTEGER,
    PRIMARY KEY (tenant, dataset)
) STRICT, WITHOUT ROWID;
