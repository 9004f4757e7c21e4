-- Which log this is, so that a place in another one is known as such.
ALTER TABLE log ADD COLUMN id TEXT NOT NULL DEFAULT '';
UPDATE log SET id = lower(hex(randomblob(8)));

-- Consumers of the feed that have their place kept here: they are done with everything up to it.
CREATE TABLE consumers (
    name TEXT PRIMARY KEY,
    place BIGINT NOT NULL,
    committed_at BIGINT NOT NULL
);
