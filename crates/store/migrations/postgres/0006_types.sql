-- A type is forgotten with the last of its events. Older versions forgot none: those without events go here, while
-- every writer to the log waits, lest it records an event of one of them.
UPDATE log SET sequence = sequence;
DELETE FROM types WHERE NOT EXISTS (SELECT 1 FROM events WHERE events.type = types.id);
-- Names in the order of their bytes, as SQLite has them: an index then finds all that begin with the same words.
ALTER TABLE types ALTER COLUMN name TYPE TEXT COLLATE "C";
