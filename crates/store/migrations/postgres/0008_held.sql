-- An endpoint is removed when its row has no document. Older relays kept the document, with the state `removed`, until
-- the endpoint's queue was gone. All of these are one change, the next of the fleet's version.
LOCK TABLE endpoints;
UPDATE endpoints SET document = NULL, changed_in = (SELECT number + 1 FROM fleet),
    removed_at = CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)
    WHERE CASE WHEN document LIKE '%"state":"removed"%' THEN document::json ->> 'state' = 'removed' END;
UPDATE fleet SET number = number + 1, change = replace(gen_random_uuid()::text, '-', '')
    WHERE EXISTS (SELECT 1 FROM endpoints WHERE changed_in > number);
-- The patterns by which an older relay's queues were bound.
ALTER TABLE endpoints DROP COLUMN bound;

-- The number of times that the delivery was claimed before the attempt; the record ends that claim.
ALTER TABLE attempts ADD COLUMN hop BIGINT NOT NULL DEFAULT 0;

-- Deliveries that wait here instead of in the broker. A claim is the note that one of them is being sent on: it sets
-- the last three columns, which no index has. `event` is the event's place in the log, or, if it is negative, in
-- `kept`.
CREATE TABLE held (
    endpoint BIGINT NOT NULL,
    lane SMALLINT NOT NULL,
    event BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    reason SMALLINT NOT NULL,
    held_at BIGINT NOT NULL,
    history TEXT,
    hop BIGINT NOT NULL,
    epoch BIGINT,
    claimed_at BIGINT,
    PRIMARY KEY (endpoint, lane, event)
);
CREATE INDEX held_of_kept ON held (event) WHERE event < 0;
-- Those that were returned too often are sent on one at a time.
CREATE INDEX held_returned ON held (endpoint, event) WHERE reason = 7;

-- The numbers of endpoints of which a delivery was ever held, and how many claims ended in which way. `changed` is
-- the number of the last write that held something for the endpoint or ended a claim; the row of `log` has the
-- greatest.
CREATE TABLE held_endpoints (
    number BIGINT PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    changed BIGINT NOT NULL,
    answered BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    returned BIGINT NOT NULL,
    lost BIGINT NOT NULL
);
CREATE INDEX held_endpoints_by_change ON held_endpoints (changed);
ALTER TABLE log ADD COLUMN held_changes BIGINT NOT NULL DEFAULT 0;

-- Events of which a delivery is held and that are not in the log: because it forgot them, or does not have them yet.
CREATE TABLE kept (
    place BIGINT PRIMARY KEY,
    id TEXT NOT NULL,
    source TEXT NOT NULL,
    published_at BIGINT,
    body BYTEA NOT NULL
);
CREATE UNIQUE INDEX kept_by_id ON kept (id, source);

-- Held deliveries whose event is neither in the log nor in `kept` yet.
CREATE TABLE held_early (
    id TEXT NOT NULL,
    source TEXT NOT NULL,
    key TEXT NOT NULL,
    came_at BIGINT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (id, source, key)
);

-- One row: the process that sends held deliveries on, and until when, by the clock of the database. Whoever takes
-- over adds one to the epoch.
CREATE TABLE duty (
    who TEXT NOT NULL,
    ends_at BIGINT NOT NULL,
    epoch BIGINT NOT NULL
);
INSERT INTO duty (who, ends_at, epoch) VALUES ('', 0, 0);
