-- A type is forgotten with the last of its events. Older versions forgot none: those without events go here.
DELETE FROM types WHERE NOT EXISTS (SELECT 1 FROM events WHERE events.type = types.id);
