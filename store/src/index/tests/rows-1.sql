INSERT INTO project VALUES (1, 'acme/widgets');
INSERT INTO store VALUES (1, 'auto');
INSERT INTO evaluation VALUES
    (1, 'key-1', 1, 'aaaaaaaa11111111111111111111111111111111', 'main', NULL, 12, '.#checks', '{"runner":"hosted"}',
     'uid:0', 'building', NULL, 1700000000000, NULL);
INSERT INTO derivation VALUES
    (1, x'1750deea48cb1148e4025943c51ed824d55796f1', 'top.drv', 'x86_64-linux', '["big-parallel","kvm"]', 0),
    (2, x'a60a4cd8ab3b1b4534886975374094470ddb4dd7', 'lib.drv', NULL, NULL, NULL);
INSERT INTO edge VALUES (1, 2);
INSERT INTO output VALUES
    (1, 'out', x'28720365c5e7476a011e4f43ac003ee5f16247a2', 'top');
INSERT INTO job VALUES
    (1, '["checks","x86_64-linux","a.b"]', 1, NULL),
    (1, '["checks","x86_64-linux","broken"]', NULL, 'attribute missing');
INSERT INTO attempt VALUES
    (1, 2, 1, 1700000000000, 1700000001000, 'built', NULL, NULL, 0, NULL, 0),
    (2, 1, 1, 1700000002000, 1700000003000, 'failed', 'hash-mismatch', 'hash mismatch', 12, 1800000000000, 0),
    (3, 1, 1, 1700000004000, NULL, NULL, NULL, NULL, NULL, NULL, 0);
INSERT INTO path VALUES
    (1, x'28720365c5e7476a011e4f43ac003ee5f16247a2', 'top', NULL, x'0000000000000000000000000000000000000000000000000000000000000000', 120,
     'v137y81wxx44zx8nln1b4xhj75bs7dbn-lib', '[]', NULL, 1700000000);
INSERT INTO path_in_store VALUES (1, 1, 1700000003000);
