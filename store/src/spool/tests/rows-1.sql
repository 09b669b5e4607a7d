INSERT INTO block (id, size, content) VALUES (1, 3, x'28b52ffd20031900006e6172');
INSERT INTO object (id, digest, name, nar_hash, nar_size, deriver, signatures, ca, registered, refs, block, at, file)
VALUES (1, zeroblob(20), 'lib', zeroblob(32), 3, NULL, '[]', NULL, 7, x'', 1, 0, NULL),
       (2, x'0101010101010101010101010101010101010101', 'a.drv', zeroblob(32), 3, NULL, '[]', NULL, 7, x'01', 1, 0, NULL);
