-- The hashes of derivations modulo their inputs by which realised outputs are asked about. Of one output there are two
-- where the inputs are content-addressed too: that of the derivation, and that of what the store resolved it to.
CREATE TABLE realised_as (
    drv      INTEGER NOT NULL,
    output   TEXT NOT NULL,
    store    INTEGER NOT NULL,
    drv_hash BLOB NOT NULL CHECK (length(drv_hash) = 32),
    PRIMARY KEY (drv, output, store, drv_hash),
    FOREIGN KEY (drv, output, store) REFERENCES realised ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX realised_as_by_hash ON realised_as (drv_hash, output);
INSERT INTO realised_as SELECT drv, output, store, drv_hash FROM realised WHERE drv_hash IS NOT NULL;
DROP INDEX realised_by_hash;
ALTER TABLE realised DROP COLUMN drv_hash;
