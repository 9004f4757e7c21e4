-- One row: the last place given in the log, and its time. Every write to the log begins by changing it.
CREATE TABLE log (
    sequence BIGINT NOT NULL,
    recorded_at BIGINT NOT NULL
);
INSERT INTO log (sequence, recorded_at) VALUES (0, 0);

CREATE TABLE types (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);

-- The body is last, so that what stands before it reads without it.
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY,
    recorded_at BIGINT NOT NULL,
    published_at BIGINT,
    type BIGINT NOT NULL,
    id TEXT NOT NULL,
    source TEXT NOT NULL,
    subject TEXT,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX events_by_id ON events (id, source);
-- These two end with the sequence, which SQLite adds to every index by itself.
CREATE INDEX events_by_type ON events (type);
CREATE INDEX events_by_source ON events (source, type);
CREATE INDEX events_by_subject ON events (subject, sequence, type, source) WHERE subject IS NOT NULL;
CREATE INDEX events_by_time ON events (recorded_at, sequence, type);

CREATE TABLE deliveries (
    event BIGINT NOT NULL,
    endpoint BLOB NOT NULL,
    run BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    state SMALLINT NOT NULL,
    at BIGINT NOT NULL,
    next_at BIGINT,
    reason SMALLINT,
    status INTEGER,
    error SMALLINT,
    PRIMARY KEY (event, endpoint)
) WITHOUT ROWID;
CREATE INDEX deliveries_by_endpoint ON deliveries (endpoint, state, event);
-- 3 is "delivered", as nearly all are.
CREATE INDEX deliveries_by_state ON deliveries (state, event, endpoint) WHERE state < 3;

CREATE TABLE attempts (
    event BIGINT NOT NULL,
    id BLOB NOT NULL,
    endpoint BLOB NOT NULL,
    published_at BIGINT,
    attempt BIGINT NOT NULL,
    at BIGINT NOT NULL,
    duration_ms BIGINT NOT NULL,
    first_byte_ms BIGINT,
    next_at BIGINT,
    status INTEGER,
    error SMALLINT,
    state SMALLINT NOT NULL,
    reason SMALLINT,
    deliverer TEXT NOT NULL,
    detail TEXT,
    answer TEXT NOT NULL,
    PRIMARY KEY (event, id)
) WITHOUT ROWID;
CREATE INDEX attempts_by_endpoint ON attempts (endpoint, at, state, duration_ms);

-- Records whose event is not in the log yet.
CREATE TABLE early (
    id TEXT NOT NULL,
    source TEXT NOT NULL,
    key TEXT NOT NULL,
    came_at BIGINT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (id, source, key)
) WITHOUT ROWID;
CREATE INDEX early_by_time ON early (came_at);
