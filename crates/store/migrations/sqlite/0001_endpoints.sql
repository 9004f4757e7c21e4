CREATE TABLE endpoints (
    id TEXT PRIMARY KEY,
    document TEXT NOT NULL,
    bound TEXT NOT NULL,
    version BIGINT NOT NULL
);
