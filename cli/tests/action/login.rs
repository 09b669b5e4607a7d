//! `nixci login` and `nixci logout`, against the daemon's own HTTP door on loopback.

#![expect(clippy::unwrap_used, reason = "helpers of tests report by panicking")]

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::world::{NIXCI, Ran, World};

/// A new token, and its hash for the configuration.
fn token() -> (String, String) {
    let program = Path::new(NIXCI).with_file_name("nixci-daemon");
    let output = Command::new(program).args(["hash-token", "--new"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let after = |word: &str| {
        let line = text.lines().find(|line| line.starts_with(word)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    (after("token:"), after("sha256:"))
}

/// A machine whose daemon takes this token.
struct Place {
    world: World,
    token: String,
    url: String,
}

impl Place {
    fn new() -> Self {
        let (token, hash) = token();
        let world = World::new(&format!(
            "[[token]]\nname = \"me\"\nsha256 = \"{hash}\"\nrights = [\"read\", \"submit\"]\n"
        ));
        let url = format!("http://{}", world.service.http());
        Self { world, token, url }
    }

    fn file(&self) -> PathBuf {
        self.world.dir().join("config/nixci/credentials.toml")
    }

    /// Runs nixci for a daemon, with something on standard input.
    fn nixci(&self, to: &str, args: &[&str], input: &str) -> Ran {
        let mut command = Command::new(NIXCI);
        command
            .args(["--to", to])
            .args(args)
            .current_dir(self.world.dir())
            .env_clear();
        command.envs(self.world.environment());
        command.env("XDG_CONFIG_HOME", self.world.dir().join("config"));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that ends before it has read all says why on its own.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let ran: Ran = child.wait_with_output().unwrap().into();
        let told = self.token.clone();
        assert!(!ran.out.contains(&told) && !ran.err.contains(&told), "{ran:?}");
        ran
    }
}

#[test]
fn a_token_is_tried_kept_used_and_forgotten() {
    let place = Place::new();
    place
        .nixci(&place.url, &["status"], "")
        .ends(5)
        .warns("nixci login --to");
    place
        .nixci(&place.url, &["doctor"], "")
        .says("✕ token")
        .says("nixci login --to");
    place
        .nixci(&place.url, &["login"], &format!("  {}\n", place.token))
        .ends(0)
        .says("takes you for")
        .says("credentials.toml");
    let mode = std::fs::metadata(place.file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    place
        .nixci(&place.url, &["status"], "")
        .ends(0)
        .says("no evaluations yet");
    place
        .nixci(&format!("{}/", place.url), &["doctor"], "")
        .ends(0)
        .says("✓ token        from `nixci login`");
    assert!(!place.world.service.log().contains(&place.token));

    // What others can read is used by nobody.
    std::fs::set_permissions(place.file(), std::fs::Permissions::from_mode(0o644)).unwrap();
    place.nixci(&place.url, &["status"], "").ends(1).warns("chmod 600");
    place
        .nixci(&place.url, &["doctor"], "")
        .says("✕ token")
        .says("chmod 600");
    std::fs::set_permissions(place.file(), std::fs::Permissions::from_mode(0o600)).unwrap();

    place
        .nixci(&place.url, &["logout"], "")
        .ends(0)
        .says("forgot the token");
    place
        .nixci(&place.url, &["logout"], "")
        .ends(0)
        .says("no token is kept");
    let out = place.nixci(&place.url, &["logout", "--json"], "").ends(0).json();
    assert_eq!(out, serde_json::json!({"address": place.url, "forgotten": false}));
    place.nixci(&place.url, &["status"], "").ends(5);
}

#[test]
fn a_token_that_is_not_taken_is_not_kept() {
    let place = Place::new();
    let (other, _) = token();
    let ran = place.nixci(&place.url, &["login"], &other).ends(5);
    assert!(!ran.out.contains(&other) && !ran.err.contains(&other), "{ran:?}");
    assert!(!place.file().exists());
    place.nixci(&place.url, &["login"], &place.token).ends(0);
    place.nixci(&place.url, &["login"], &other).ends(5);
    place.nixci(&place.url, &["status"], "").ends(0);
    for (input, said) in [("", "holds no token"), ("two words", "holds no token")] {
        place.nixci(&place.url, &["login"], input).ends(2).warns(said);
    }
    // Nobody there.
    let nobody = format!("http://127.0.0.1:{}", nixci_store::testing::peers::free_port());
    place.nixci(&nobody, &["login"], &place.token).ends(4);
}

#[test]
fn a_token_is_for_https_alone_and_never_an_argument() {
    let place = Place::new();
    place
        .nixci(&place.world.to(), &["login"], "x")
        .ends(2)
        .warns("takes no token");
    place
        .nixci("http://ci.example.org", &["login"], "x")
        .ends(2)
        .warns("in the clear");
    place.nixci(&place.url, &["login", "token"], "").ends(2);
}
