-- Which log this is, so that a place in another one is known as such; and the last place that was forgotten.
ALTER TABLE log ADD COLUMN id TEXT NOT NULL DEFAULT '';
ALTER TABLE log ADD COLUMN forgotten BIGINT NOT NULL DEFAULT 0;
UPDATE log SET
    id = substr(replace(gen_random_uuid()::text, '-', ''), 1, 16),
    forgotten = COALESCE((SELECT MIN(sequence) - 1 FROM events), sequence);

-- Consumers of the feed that have their place kept here: they are done with everything up to it.
CREATE TABLE consumers (
    name TEXT PRIMARY KEY,
    place BIGINT NOT NULL,
    committed_at BIGINT NOT NULL
);
