-- Small objects side by side, compressed together: one derivation compresses badly alone.
CREATE TABLE block (
    id      INTEGER PRIMARY KEY,
    size    INTEGER NOT NULL,
    content BLOB NOT NULL
) STRICT;

-- refs: numbers of the objects it refers to, each as LEB128; references are checked when an object is added.
-- content: a range of a block, or a file in the folder of large NARs.
CREATE TABLE object (
    id         INTEGER PRIMARY KEY,
    digest     BLOB NOT NULL UNIQUE CHECK (length(digest) = 20),
    name       TEXT NOT NULL,
    nar_hash   BLOB NOT NULL CHECK (length(nar_hash) = 32),
    nar_size   INTEGER NOT NULL,
    deriver    TEXT,
    signatures TEXT NOT NULL,
    ca         TEXT,
    registered INTEGER NOT NULL,
    refs       BLOB NOT NULL,
    block      INTEGER REFERENCES block,
    at         INTEGER,
    file       TEXT,
    CHECK ((block IS NULL) = (at IS NULL)),
    CHECK ((block IS NULL) <> (file IS NULL))
) STRICT;
