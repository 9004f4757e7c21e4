-- One row: the version of all endpoints together. Every change of an endpoint begins by changing it.
-- `lineage` tells this row from that of another store, `change` is the id of the last change, and removals up
-- to the number `forgotten` are no longer known.
CREATE TABLE fleet (
    lineage TEXT NOT NULL,
    number BIGINT NOT NULL,
    change TEXT NOT NULL,
    forgotten BIGINT NOT NULL
);
INSERT INTO fleet (lineage, number, change, forgotten) VALUES (lower(hex(randomblob(8))), 0, '', 0);

-- A removed endpoint stays for a while as a row without document, so that readers learn that it is removed.
-- SQLite changes a column by copying its table.
CREATE TABLE endpoints_with_removed (
    id TEXT PRIMARY KEY,
    document TEXT,
    bound TEXT,
    version BIGINT NOT NULL,
    -- The number of the fleet's version that the endpoint's last change made.
    changed_in BIGINT NOT NULL,
    removed_at BIGINT
);
INSERT INTO endpoints_with_removed (id, document, bound, version, changed_in)
    SELECT id, document, bound, version, 0 FROM endpoints;
DROP TABLE endpoints;
ALTER TABLE endpoints_with_removed RENAME TO endpoints;
CREATE INDEX endpoints_by_change ON endpoints (changed_in);
CREATE INDEX endpoints_by_removal ON endpoints (removed_at) WHERE removed_at IS NOT NULL;
