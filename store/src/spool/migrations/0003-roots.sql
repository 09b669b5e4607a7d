-- Sets of roots by their digest, to recognise one that comes again. Rows may go at any time; a higher `used` goes later.
-- members: the sorted digests of the paths, valid or not.
CREATE TABLE roots (
    digest  BLOB PRIMARY KEY CHECK (length(digest) = 32),
    used    INTEGER NOT NULL,
    size    INTEGER NOT NULL,
    members BLOB NOT NULL CHECK (length(members) = size AND size % 20 = 0)
) STRICT;

CREATE INDEX roots_used ON roots (used, size);
