-- +goose Up
CREATE TABLE alarms (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    key        TEXT    NOT NULL, -- what is wrong with what: one is open at a time
    kind       TEXT    NOT NULL,
    tenant     TEXT    NOT NULL,
    dataset    TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    code       TEXT UNIQUE,      -- of a test alarm: whoever sends it back has got the alarm
    channel    TEXT    NOT NULL DEFAULT '', -- and by which way
    raised     INTEGER NOT NULL,
    seen       INTEGER NOT NULL,
    times      INTEGER NOT NULL DEFAULT 1,
    notified   INTEGER,
    acked      INTEGER,
    acked_by   TEXT    NOT NULL DEFAULT '',
    ack_reason TEXT    NOT NULL DEFAULT '',
    cleared    INTEGER
) STRICT;
CREATE UNIQUE INDEX alarms_open ON alarms (key) WHERE cleared IS NULL;

-- A mute is of a key and not of an alarm, which may go and come again meanwhile.
CREATE TABLE mutes (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    key    TEXT    NOT NULL,
    began  INTEGER NOT NULL,
    until  INTEGER NOT NULL,
    by     TEXT    NOT NULL,
    reason TEXT    NOT NULL
) STRICT;
CREATE INDEX mutes_key ON mutes (key, until);

CREATE TABLE outbox (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    event   TEXT    NOT NULL,
    channel TEXT    NOT NULL,
    body    TEXT    NOT NULL,
    created INTEGER NOT NULL,
    next    INTEGER NOT NULL, -- not before
    tries   INTEGER NOT NULL DEFAULT 0,
    error   TEXT    NOT NULL DEFAULT '',
    sent    INTEGER,
    dropped INTEGER,
    UNIQUE (event, channel)
) STRICT;
CREATE INDEX outbox_due ON outbox (channel, next) WHERE sent IS NULL AND dropped IS NULL;

UPDATE meta SET value = '2' WHERE key = 'schema';
