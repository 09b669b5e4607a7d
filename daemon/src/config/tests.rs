use super::*;

fn problems(text: &str) -> String {
    match Config::parse(text, Path::new("ci.toml")) {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_whole_file_is_read() {
    let config = Config::parse(
        r#"
            state_dir = "/srv/nixci"
            store_dir = "/gnu/store"

            [listen]
            socket = "/run/ci.sock"
            mode = "0660"
            http = "127.0.0.1:8473"
            writes = "through"
            trusted_users = [0, "alice", "@wheel"]
            allowed_users = ["*"]
            http_read = "token"

            [[store]]
            name = "big"
            uri = "ssh-ng://builder@big"
            slots = 32
            systems = ["aarch64-linux"]
            features = ["kvm"]
            dispatch = "root"

            [[store]]
            name = "here"

            [limits]
            log_bytes = 1000
            build_time = "12h"
            connections_per_user = 7
            handshake_time = "5s"
            max_string = 8192
            max_paths = 9

            [retention]
            failures = "3d"
            evaluations = "30d"
            newest = 5
            uploads = "2h"
            collect = "off"

            [[token]]
            name = "cache"
            sha256 = "0123456789abcdef0123456789ABCDEF0123456789abcdef0123456789abcdef"
            rights = ["read"]

            [[token]]
            name = "runner"
            file = "/run/credentials/nixci/runner"

            [cache]
            serve = false
            priority = 30
            level = 9
            size = "20 GiB"

            [keys]
            secret_key_files = ["/etc/nixci/key", "credential"]
            trusted_public_keys = ["cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="]
        "#,
        Path::new("ci.toml"),
    )
    .unwrap();
    assert_eq!(config.state_dir, Path::new("/srv/nixci"));
    assert_eq!(config.store_dir.to_string(), "/gnu/store");
    assert_eq!(config.listen.mode, 0o660);
    assert_eq!(config.listen.writes, Writes::Through);
    let trusted: Vec<String> = config.listen.trusted_users.iter().map(Users::to_string).collect();
    assert_eq!(trusted, ["0", "alice", "@wheel"]);
    assert_eq!(config.listen.allowed_users, [Users::Everyone]);
    assert_eq!(config.listen.http_read, HttpRead::Token);
    assert_eq!(config.tokens[0].rights, [Right::Read]);
    assert!(matches!(&config.tokens[1].hash, HashFrom::File(file) if file.ends_with("runner")));
    assert_eq!(config.listen.http, Some("127.0.0.1:8473".parse().unwrap()));
    assert_eq!(config.stores[0].dispatch, Dispatch::Root);
    assert_eq!(config.stores[1].uri, "auto");
    assert_eq!(config.limits.build_time, Some(Duration::from_hours(12)));
    assert_eq!(config.limits.jobs, Limits::default().jobs);
    assert_eq!(config.limits.connections_per_user, 7);
    assert_eq!(config.limits.handshake_time, Duration::from_secs(5));
    assert_eq!(
        (config.limits.wire.max_string, config.limits.wire.max_paths),
        (8_192, 9)
    );
    assert_eq!(config.limits.wire.max_text, Limits::default().wire.max_text);
    let retention = &config.retention;
    assert_eq!(retention.failures, Duration::from_hours(72));
    assert_eq!(
        (retention.evaluations, retention.newest),
        (Duration::from_hours(30 * 24), 5)
    );
    assert_eq!((retention.uploads, retention.collect), (Duration::from_hours(2), None));
    let cache = &config.cache;
    assert_eq!((cache.serve, cache.priority, cache.level), (false, 30, 9));
    assert_eq!(cache.size, Some(20 << 30));
    assert_eq!(config.keys.secret_key_files[1].path, Path::new("credential"));
    assert!(config.keys.secret_key_files[0].line.is_some());
    assert_eq!(config.keys.trusted_public_keys[0].name(), "cache.nixos.org-1");
}

#[test]
fn every_mistake_is_reported_with_its_line_and_what_would_be_right() {
    let text = "state_dir = \"/s\"\n\n[listen]\nsocket = \"/run/s\"\nsokcet = 1\n\n[[store]]\nname = \"a\"\nslot = 3\n";
    assert_eq!(
        problems(text),
        "ci.toml:5: unknown key `sokcet` in [listen]; did you mean `socket`?\n\
         ci.toml:9: unknown key `slot` in [[store]]; did you mean `slots`?"
    );
    for (text, expected) in [
        (
            "[listen]\nmode = \"9\"",
            "ci.toml:2: `mode` is `9`; write it in octal, like \"0660\"",
        ),
        (
            "[wishes]\n",
            "ci.toml:1: unknown key `wishes` at the top level; known are",
        ),
        (
            "[listen]\nhttp = \"here\"",
            "ci.toml:2: `http` is `here`; write an address",
        ),
        ("[listen]\nhttp = 80", "ci.toml:2: invalid type"),
        ("state_dir = \"rel\"", "ci.toml:1: `rel` must be an absolute path"),
        (
            "\nstore_dir = \"rel\"",
            "ci.toml:2: `store_dir` is not a store directory",
        ),
        ("[[store]]\nslots = 1", "ci.toml:1: missing field `name`"),
        ("[[store]]\nname = \"a\"\nslots = 0", "ci.toml:3: `slots` is 0"),
        ("[[store]]\nname = \"a\"\nuri = \"s3://x\"", "ci.toml:3: "),
        (
            "[[store]]\nname = \"a\"\n[[store]]\nname = \"a\"",
            "ci.toml:4: there are two stores named `a`",
        ),
        ("[limits]\nabandon_after = \"5\"", "ci.toml:2: `5` has no unit"),
        (
            "[limits]\nmax_string = 9",
            "ci.toml:2: `max_string` is 9; it must be between 4096 and 4294967296",
        ),
        (
            "[limits]\nmax_items = 0",
            "ci.toml:2: `max_items` is 0; a limit that lets nothing pass",
        ),
        (
            "[limits]\nconnections_per_user = 0",
            "ci.toml:2: `connections_per_user` is 0; it must be between 1",
        ),
        (
            "[limits]\nmax_strings = 9",
            "ci.toml:2: unknown key `max_strings` in [limits]; did you mean `max_string`?",
        ),
        (
            "[listen]\ntrusted_users = [\n0,\n\"a b\"]",
            "ci.toml:4: `a b` names no users; write a user's name or number",
        ),
        ("[listen]\nallowed_users = [-1]", "ci.toml:2: -1 is no user's number"),
        (
            "[listen]\nhttp_read = \"none\"",
            "ci.toml:2: `http_read` is `none`; it can be",
        ),
        (
            "[[token]]\nname = \"a\"",
            "ci.toml:2: token `a` needs `sha256` or a `file` with it",
        ),
        (
            "[[token]]\nname = \"a\"\nsha256 = \"a secret\"",
            "ci.toml:3: `sha256` of token `a`: a hash of a token has 64 hexadecimal digits",
        ),
        (
            "[[forge]]\nkind = \"svn\"",
            "ci.toml:2: `kind` is `svn`; it can be \"github\"",
        ),
        (
            "[[forge]]\nkind = \"forgejo\"",
            "ci.toml:2: forge `forgejo` needs a `url`",
        ),
        (
            "[[forge]]\nkind = \"gitea\"\nurl = \"https://a:b@x\"",
            "ci.toml:3: `url` is `https://a:b@x`; write an address like \"https://example.org\", without a user",
        ),
        (
            "[[forge]]\nkind = \"github\"\napp_id = 1",
            "ci.toml:2: forge `github` has one of `app_id` and `private_key_file`; an App needs both",
        ),
        (
            "[[forge]]\nkind = \"github\"\ntoken_file = \"/t\"\nform = \"checks\"",
            "ci.toml:4: `form` is \"checks\", which GitHub takes from Apps only",
        ),
        (
            "[[forge]]\nkind = \"github\"\n[[forge]]\nkind = \"github\"",
            "ci.toml:4: there are two forges named `github`; give each a `name` of its own",
        ),
        (
            "[[project]]\nname = \"a\"\nforge = \"x\"",
            "ci.toml:3: there is no [[forge]] named `x`",
        ),
        (
            "[[project]]\nname = \"a\"\njob_context = \"{job}\"",
            "ci.toml:3: `job_context` is `{job}`; what stands in braces can be {attr}",
        ),
        (
            "[[project]]\nname = \"a\"\njob_context = \"nixci\"",
            "ci.toml:2: `job_context` is the same for all jobs; it needs `{attr}` or `{name}`",
        ),
        (
            "[[project]]\nname = \"a\"\ndetial = \"all\"",
            "ci.toml:3: unknown key `detial` in [[project]]; did you mean `detail`?",
        ),
        (
            "[[token]]\nname = \"a\"\nfile = \"rel\"",
            "ci.toml:3: `rel` must be an absolute path",
        ),
        (
            "[[token]]\nname = \"a\"\nfile = \"/x\"\nrights = [\"read\",\n\"delete\"]",
            "ci.toml:5: `delete` is no right; known are \"read\", \"submit\", \"restart\" and \"admin\"",
        ),
        (
            "[[token]]\nname = \"a:b\"\nfile = \"/x\"",
            "ci.toml:2: `a:b` cannot name a token",
        ),
        (
            "[[token]]\nname = \"a\"\nfile = \"/x\"\n[[token]]\nname = \"a\"\nfile = \"/y\"",
            "ci.toml:5: there are two tokens named `a`",
        ),
        (
            "[[token]]\nname = \"a\"\nhash = \"x\"",
            "ci.toml:3: unknown key `hash` in [[token]]; known are",
        ),
        ("[cache]\nsize = \"20\"", "ci.toml:2: `size` is `20`; write a size like"),
        ("[cache]\nlevel = 22", "ci.toml:2: `level` is 22; zstd has levels"),
        (
            "[cache]\nprority = 1",
            "ci.toml:2: unknown key `prority` in [cache]; did you mean `priority`?",
        ),
        (
            "[keys]\nsecret_key_file = \"/k\"",
            "ci.toml:2: unknown key `secret_key_file` in [keys]; did you mean `secret_key_files`?",
        ),
        (
            "[keys]\ntrusted_public_keys = [\n  \"a:b\"\n]",
            "ci.toml:3: `trusted_public_keys`: \"a:b\" is not a public key: expected a name, a colon and 32 bytes",
        ),
        ("[listen\n", "ci.toml:1: "),
        ("state_dir = \"/a\"\nstate_dir = \"/b\"", "ci.toml:2: duplicate key"),
    ] {
        let found = problems(text);
        assert!(found.starts_with(expected), "{text:?}: {found}");
    }
}

#[test]
fn a_socket_path_that_cannot_be_bound_is_refused_beforehand() {
    let text = format!("[listen]\nsocket = \"/{}\"", "x".repeat(120));
    assert!(problems(&text).contains("longer than the 107 bytes"));
}

#[test]
fn defaults_follow_the_user() {
    let root = defaults::Surroundings::default();
    assert_eq!(root.socket().unwrap(), Path::new("/run/nixci/socket"));
    assert_eq!(root.state_dir().unwrap(), Path::new("/var/lib/nixci"));
    let user = defaults::Surroundings {
        uid: 1000,
        is_system: false,
        runtime_dir: Some("/run/user/1000".into()),
        state_home: None,
        home: Some("/home/u".into()),
    };
    assert_eq!(user.socket().unwrap(), Path::new("/run/user/1000/nixci/socket"));
    assert_eq!(user.state_dir().unwrap(), Path::new("/home/u/.local/state/nixci"));
    let nobody = defaults::Surroundings {
        uid: 65534,
        is_system: false,
        ..defaults::Surroundings::default()
    };
    let problems = file::parse("", &nobody).unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:?}");
}
