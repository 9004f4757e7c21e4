-- Events that all their queues took, as the broker told whoever published them. One may be here before it
-- is in the log.
CREATE TABLE confirmed (
    id TEXT NOT NULL,
    source TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (id, source)
) WITHOUT ROWID;
CREATE INDEX confirmed_by_time ON confirmed (at);
