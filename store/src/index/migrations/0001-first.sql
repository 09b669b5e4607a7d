-- Times are milliseconds since the Unix epoch. Digests are the 20 bytes of a store path; names are
-- what follows the digest and its dash.

CREATE TABLE project (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE store (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

-- AUTOINCREMENT: the number is in addresses people keep, and is never given twice.
CREATE TABLE evaluation (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    key          TEXT NOT NULL UNIQUE,
    project      INTEGER NOT NULL REFERENCES project,
    commit_id    TEXT,
    git_ref      TEXT,
    base         TEXT,
    pull_request INTEGER,
    source       TEXT NOT NULL,
    labels       TEXT NOT NULL,
    principal    TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('receiving', 'building', 'done', 'cancelled', 'abandoned')),
    error        TEXT,
    created      INTEGER NOT NULL,
    ended        INTEGER
) STRICT;
CREATE INDEX evaluation_by_project ON evaluation (project, id);
CREATE INDEX evaluation_by_commit ON evaluation (commit_id, project) WHERE commit_id IS NOT NULL;
CREATE INDEX evaluation_open ON evaluation (id) WHERE state IN ('receiving', 'building');

-- A row with system NULL is a derivation that was only mentioned as an input so far.
CREATE TABLE derivation (
    id       INTEGER PRIMARY KEY,
    digest   BLOB NOT NULL UNIQUE CHECK (length(digest) = 20),
    name     TEXT NOT NULL,
    system   TEXT,
    features TEXT,
    fixed    INTEGER
) STRICT;

-- Both ends are rows of derivation. That is not declared, because checking it costs more than a third of
-- recording a large submission, and only derivations::add writes here.
CREATE TABLE edge (
    drv   INTEGER NOT NULL,
    input INTEGER NOT NULL,
    PRIMARY KEY (drv, input)
) STRICT, WITHOUT ROWID;
CREATE INDEX edge_by_input ON edge (input, drv);

-- digest NULL: the path is not known before the build.
CREATE TABLE output (
    drv       INTEGER NOT NULL REFERENCES derivation,
    name      TEXT NOT NULL,
    digest    BLOB CHECK (length(digest) = 20),
    path_name TEXT,
    PRIMARY KEY (drv, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX output_by_digest ON output (digest) WHERE digest IS NOT NULL;

-- attr is the attribute path as a JSON list.
CREATE TABLE job (
    evaluation INTEGER NOT NULL REFERENCES evaluation,
    attr       TEXT NOT NULL,
    drv        INTEGER REFERENCES derivation,
    error      TEXT,
    PRIMARY KEY (evaluation, attr),
    CHECK ((drv IS NULL) <> (error IS NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX job_by_drv ON job (drv, evaluation) WHERE drv IS NOT NULL;

-- result NULL: running. AUTOINCREMENT: logs are files named by the number.
CREATE TABLE attempt (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    drv       INTEGER NOT NULL REFERENCES derivation,
    store     INTEGER NOT NULL REFERENCES store,
    started   INTEGER NOT NULL,
    ended     INTEGER,
    result    TEXT CHECK (result IN ('built', 'substituted', 'already-valid', 'failed', 'cancelled')),
    class     TEXT CHECK (class IN ('build', 'hash-mismatch', 'timeout', 'log-limit', 'unsupported', 'store')),
    message   TEXT,
    log_lines INTEGER,
    expires   INTEGER,
    forgotten INTEGER NOT NULL DEFAULT 0 CHECK (forgotten IN (0, 1)),
    CHECK ((ended IS NULL) = (result IS NULL)),
    CHECK ((class IS NOT NULL) = (result IS 'failed'))
) STRICT;
CREATE INDEX attempt_by_drv ON attempt (drv, id);
CREATE INDEX attempt_running ON attempt (id) WHERE result IS NULL;
CREATE INDEX attempt_failed ON attempt (drv) WHERE result = 'failed' AND forgotten = 0;

-- What stores have told of outputs. refs are base names, separated by spaces; signatures a JSON list.
CREATE TABLE path (
    id         INTEGER PRIMARY KEY,
    digest     BLOB NOT NULL UNIQUE CHECK (length(digest) = 20),
    name       TEXT NOT NULL,
    deriver    TEXT,
    nar_hash   BLOB NOT NULL CHECK (length(nar_hash) = 32),
    nar_size   INTEGER NOT NULL,
    refs       TEXT NOT NULL,
    signatures TEXT NOT NULL,
    ca         TEXT,
    registered INTEGER NOT NULL
) STRICT;

-- Where a path was valid, and when that was seen last.
CREATE TABLE path_in_store (
    path  INTEGER NOT NULL REFERENCES path,
    store INTEGER NOT NULL REFERENCES store,
    seen  INTEGER NOT NULL,
    PRIMARY KEY (path, store)
) STRICT, WITHOUT ROWID;
