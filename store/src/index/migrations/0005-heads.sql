-- The forge's number of a pull request's repository, where it told it: a name can be given to another repository.
ALTER TABLE pull_request ADD COLUMN repository_id INTEGER;
CREATE INDEX pull_request_by_number ON pull_request (number, forge);

-- Commits that were the head of a pull request and are not any more; since is when that changed, by the forge's clock.
CREATE TABLE former_head (
    forge      TEXT NOT NULL,
    repository TEXT NOT NULL,
    number     INTEGER NOT NULL,
    commit_id  TEXT NOT NULL,
    since      INTEGER NOT NULL,
    PRIMARY KEY (forge, repository, number, commit_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX former_head_by_time ON former_head (since);
