-- The number of the fleet's version at which a delivery to the endpoint was last begun anew, or canceled, before it had
-- ended. What was attempted at an earlier version may be overtaken.
ALTER TABLE endpoints ADD COLUMN overtaken BIGINT NOT NULL DEFAULT 0;

-- The number of the endpoint's claims that ended because the delivery was begun anew, canceled, or in doubt.
ALTER TABLE held_endpoints ADD COLUMN overtaken BIGINT NOT NULL DEFAULT 0;
