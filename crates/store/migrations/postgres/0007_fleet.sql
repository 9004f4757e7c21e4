-- One row: the version of all endpoints together. Every change of an endpoint begins by changing it.
-- `lineage` tells this row from that of another store, `change` is the id of the last change, and removals up
-- to the number `forgotten` are no longer known.
CREATE TABLE fleet (
    lineage TEXT NOT NULL,
    number BIGINT NOT NULL,
    change TEXT NOT NULL,
    forgotten BIGINT NOT NULL
);
INSERT INTO fleet (lineage, number, change, forgotten)
    VALUES (substr(replace(gen_random_uuid()::text, '-', ''), 1, 16), 0, '', 0);

-- A removed endpoint stays for a while as a row without document, so that readers learn that it is removed.
ALTER TABLE endpoints ALTER COLUMN document DROP NOT NULL;
ALTER TABLE endpoints ALTER COLUMN bound DROP NOT NULL;
-- The number of the fleet's version that the endpoint's last change made.
ALTER TABLE endpoints ADD COLUMN changed_in BIGINT NOT NULL DEFAULT 0;
ALTER TABLE endpoints ALTER COLUMN changed_in DROP DEFAULT;
ALTER TABLE endpoints ADD COLUMN removed_at BIGINT;
CREATE INDEX endpoints_by_change ON endpoints (changed_in);
CREATE INDEX endpoints_by_removal ON endpoints (removed_at) WHERE removed_at IS NOT NULL;
