-- What is to be shown on forges, and what they have confirmed. One row per context of a commit: content is the JSON of the
-- desired status, seq its number, which grows with every change. sent_* is what the forge has confirmed; tried_seq is newer
-- than sent_seq while a request is under way, or when its answer was lost; tried is when that request began.
-- rank is the order of sending: what is shown once per commit, jobs that are red, other jobs that are final, the rest.
CREATE TABLE status (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    forge      TEXT NOT NULL,
    repository TEXT NOT NULL,
    commit_id  TEXT NOT NULL,
    context    TEXT NOT NULL,
    evaluation INTEGER NOT NULL,
    role       TEXT NOT NULL CHECK (role IN ('summary', 'evaluation', 'job', 'verdict')),
    attr       TEXT,
    seq        INTEGER NOT NULL,
    state      TEXT NOT NULL,
    content    TEXT NOT NULL,
    wanted     INTEGER NOT NULL,
    tried_seq  INTEGER,
    tried      INTEGER,
    sent_seq   INTEGER,
    sent_state TEXT,
    sent       INTEGER,
    remote_id  TEXT,
    was_red    INTEGER NOT NULL DEFAULT 0 CHECK (was_red IN (0, 1)),
    writes     INTEGER NOT NULL DEFAULT 0,
    failures   INTEGER NOT NULL DEFAULT 0,
    retry_at   INTEGER,
    error      TEXT,
    refused    INTEGER,
    rank       INTEGER NOT NULL AS (
        CASE WHEN role <> 'job' THEN 0
             WHEN state IN ('failure', 'error', 'cancelled', 'action-required') THEN 1
             WHEN state NOT IN ('queued', 'running') THEN 2
             ELSE 3 END
    ) VIRTUAL,
    UNIQUE (forge, repository, commit_id, context)
) STRICT;
CREATE INDEX status_unsent ON status (forge, repository, rank, evaluation, id)
    WHERE sent_seq IS NOT seq AND refused IS NULL;
CREATE INDEX status_refused ON status (forge, repository) WHERE refused IS NOT NULL;
CREATE INDEX status_by_try ON status (forge, tried) WHERE tried IS NOT NULL;
CREATE INDEX status_by_evaluation ON status (evaluation, id);
CREATE INDEX status_by_commit ON status (commit_id, id);
CREATE INDEX status_by_remote ON status (forge, remote_id) WHERE remote_id IS NOT NULL;

-- Repositories of which a forge has said that it takes nothing from us, until something changes. settings is a digest of
-- how the forge was configured then.
CREATE TABLE refused_repository (
    forge      TEXT NOT NULL,
    repository TEXT NOT NULL,
    reason     TEXT NOT NULL,
    since      INTEGER NOT NULL,
    settings   TEXT NOT NULL,
    PRIMARY KEY (forge, repository)
) STRICT, WITHOUT ROWID;

-- What forges have told us, and what became of it. content is what a delivery asks for, as JSON, until it is done; digest the
-- SHA-256 of its body as it came. Rows that are done are kept for a while, so that nothing is taken twice.
CREATE TABLE delivery (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    forge    TEXT NOT NULL,
    number   TEXT NOT NULL,
    digest   BLOB NOT NULL CHECK (length(digest) = 32),
    event    TEXT NOT NULL,
    content  TEXT,
    received INTEGER NOT NULL,
    tries    INTEGER NOT NULL DEFAULT 0,
    retry_at INTEGER,
    done     INTEGER,
    outcome  TEXT CHECK (outcome IN ('handled', 'ignored', 'failed')),
    result   TEXT,
    UNIQUE (forge, number),
    CHECK ((done IS NULL) = (outcome IS NULL) AND (done IS NULL) = (content IS NOT NULL))
) STRICT;
CREATE INDEX delivery_open ON delivery (id) WHERE done IS NULL;
CREATE INDEX delivery_by_digest ON delivery (forge, digest);
CREATE INDEX delivery_by_time ON delivery (received);

-- Pull requests (merge requests) as their forge told of them last.
CREATE TABLE pull_request (
    forge      TEXT NOT NULL,
    repository TEXT NOT NULL,
    number     INTEGER NOT NULL,
    head       TEXT NOT NULL,
    head_ref   TEXT,
    base       TEXT,
    base_ref   TEXT,
    is_open    INTEGER NOT NULL CHECK (is_open IN (0, 1)),
    is_fork    INTEGER NOT NULL CHECK (is_fork IN (0, 1)),
    changed    INTEGER NOT NULL,
    PRIMARY KEY (forge, repository, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX pull_request_by_head ON pull_request (head, forge, repository);
CREATE INDEX pull_request_closed ON pull_request (changed) WHERE is_open = 0;

-- Pushes as forges told of them.
CREATE TABLE push (
    id         INTEGER PRIMARY KEY,
    forge      TEXT NOT NULL,
    repository TEXT NOT NULL,
    git_ref    TEXT NOT NULL,
    old_commit TEXT,
    new_commit TEXT,
    received   INTEGER NOT NULL
) STRICT;
CREATE INDEX push_by_ref ON push (forge, repository, git_ref, id);
CREATE INDEX push_by_time ON push (received);

-- Tokens that were made by `nixci-daemon token`. projects NULL: all of them; else a JSON list of patterns.
CREATE TABLE token (
    id       INTEGER PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,
    hash     BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    rights   TEXT NOT NULL,
    projects TEXT,
    created  INTEGER NOT NULL,
    expires  INTEGER,
    used     INTEGER
) STRICT;

-- Tokens of OIDC issuers that were used, until they expire: none is taken twice.
CREATE TABLE used_identity (
    issuer  TEXT NOT NULL,
    number  TEXT NOT NULL,
    expires INTEGER NOT NULL,
    PRIMARY KEY (issuer, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX used_identity_by_time ON used_identity (expires);
