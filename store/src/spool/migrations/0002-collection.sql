-- Seconds since the Unix epoch. What was here before counts from now on.
ALTER TABLE object ADD COLUMN added INTEGER NOT NULL DEFAULT 0;
UPDATE object SET added = unixepoch();

-- Which objects are still in a block.
CREATE INDEX object_by_block ON object (block) WHERE block IS NOT NULL;
