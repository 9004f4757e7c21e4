-- The number of the fleet's version at which a delivery to the endpoint was last begun anew, or canceled, before it had
-- ended. What was attempted at an earlier version may be overtaken.
ALTER TABLE endpoints ADD COLUMN overtaken BIGINT NOT NULL DEFAULT 0;
