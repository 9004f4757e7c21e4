-- The digits at the end of the webhook id that is derived from the event's source and id, as a number: events are
-- found by them. NULL in rows of older versions, until a recorder has filled it in.
ALTER TABLE events ADD COLUMN fingerprint BIGINT;
CREATE INDEX events_by_fingerprint ON events (fingerprint);
