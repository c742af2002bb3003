-- +goose Up
-- What a run found, as JSON: for pages, metrics and whoever asks later.
CREATE TABLE results (
    run  INTEGER PRIMARY KEY REFERENCES runs (id),
    body TEXT NOT NULL
) STRICT;
CREATE INDEX runs_ended ON runs (job, outcome, finished);

UPDATE meta SET value = '4' WHERE key = 'schema';
