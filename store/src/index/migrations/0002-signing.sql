-- What nixci found when it read the NAR of a path from a store by itself. It stays true for ever.
CREATE TABLE content (
    digest   BLOB NOT NULL CHECK (length(digest) = 20),
    nar_hash BLOB NOT NULL CHECK (length(nar_hash) = 32),
    nar_size INTEGER NOT NULL,
    PRIMARY KEY (digest, nar_hash)
) STRICT, WITHOUT ROWID;

-- Where builds have put outputs whose paths were not known before. drv_hash is the hash of the derivation modulo its
-- inputs, by which such an output is asked about; NULL where the store names outputs in another way.
CREATE TABLE realised (
    drv       INTEGER NOT NULL REFERENCES derivation,
    output    TEXT NOT NULL,
    store     INTEGER NOT NULL REFERENCES store,
    digest    BLOB NOT NULL CHECK (length(digest) = 20),
    path_name TEXT NOT NULL,
    drv_hash  BLOB CHECK (length(drv_hash) = 32),
    PRIMARY KEY (drv, output, store)
) STRICT, WITHOUT ROWID;
CREATE INDEX realised_by_digest ON realised (digest);
CREATE INDEX realised_by_hash ON realised (drv_hash, output) WHERE drv_hash IS NOT NULL;
