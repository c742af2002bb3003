-- What the stores had at some time, so that names and times can be read without
-- them. It is a cache: whoever has the stores makes it again.

-- +goose Up
CREATE TABLE catalogues (
    tenant TEXT    PRIMARY KEY,
    at     INTEGER NOT NULL -- when the stores were listed
) STRICT, WITHOUT ROWID;

CREATE TABLE catalogue (
    tenant   TEXT    NOT NULL REFERENCES catalogues (tenant) ON DELETE CASCADE,
    dataset  TEXT    NOT NULL,
    snapshot TEXT    NOT NULL,
    epoch    INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    taken    INTEGER NOT NULL,
    entry    TEXT    NOT NULL, -- JSON of all that is listed
    PRIMARY KEY (tenant, snapshot)
) STRICT, WITHOUT ROWID;

UPDATE meta SET value = '3' WHERE key = 'schema';
