//! Which keys a reload applies, and which need a restart.

use std::path::PathBuf;

use crate::config::{Config, Store, Tls};

/// What holds after a reload: `new`, but for what needs a restart, which stays as it is `now`. Tells the keys that differ
/// and stay.
pub(super) fn merge(now: &Config, mut new: Config) -> (Config, Vec<String>) {
    // A key that is added has to be put somewhere: every field is named here.
    let Config {
        state_dir,
        store_dir,
        listen,
        stores,
        limits,
        retention: _,
        tokens: _,
        cache,
        keys,
        forges: _,
        projects: _,
        oidc: _,
    } = now;
    let mut left = Left::default();
    left.keep("state_dir", state_dir, &mut new.state_dir);
    left.keep("store_dir", store_dir, &mut new.store_dir);
    left.keep("`socket` in [listen]", &listen.socket, &mut new.listen.socket);
    left.keep("`mode` in [listen]", &listen.mode, &mut new.listen.mode);
    left.keep("`http` in [listen]", &listen.http, &mut new.listen.http);
    left.keep("`writes` in [listen]", &listen.writes, &mut new.listen.writes);
    if files(listen.tls.as_ref()) != files(new.listen.tls.as_ref()) {
        left.add("`tls_certificate_file` or `tls_key_file` in [listen]");
    }
    new.listen.tls.clone_from(&listen.tls);
    new.stores = left.stores(stores, &new.stores);
    let (old, wanted) = (limits, &mut new.limits);
    left.keep("`known_paths` in [limits]", &old.known_paths, &mut wanted.known_paths);
    left.keep("`known_infos` in [limits]", &old.known_infos, &mut wanted.known_infos);
    left.keep("`known_time` in [limits]", &old.known_time, &mut wanted.known_time);
    left.keep(
        "`webhook_bytes` in [limits]",
        &old.webhook_bytes,
        &mut wanted.webhook_bytes,
    );
    left.keep("`serve` in [cache]", &cache.serve, &mut new.cache.serve);
    left.keep("`priority` in [cache]", &cache.priority, &mut new.cache.priority);
    left.keep("`level` in [cache]", &cache.level, &mut new.cache.level);
    left.keep("`size` in [cache]", &cache.size, &mut new.cache.size);
    let paths = |config: &Config| -> Vec<PathBuf> {
        config
            .keys
            .secret_key_files
            .iter()
            .map(|file| file.path.clone())
            .collect()
    };
    if paths(now) != paths(&new) {
        left.add("`secret_key_files` in [keys]");
    }
    if keys.trusted_public_keys != new.keys.trusted_public_keys {
        left.add("`trusted_public_keys` in [keys]");
    }
    new.keys = keys.clone();
    (new, left.0)
}

/// The files of TLS; where the configuration names them does not matter.
fn files(tls: Option<&Tls>) -> Option<(PathBuf, PathBuf)> {
    tls.map(|tls| (tls.certificate.clone(), tls.key.path.clone()))
}

/// Keys that differ and stay as they are.
#[derive(Default)]
struct Left(Vec<String>);

impl Left {
    fn add(&mut self, key: impl Into<String>) {
        self.0.push(key.into());
    }

    fn keep<T: PartialEq + Clone>(&mut self, key: &str, now: &T, new: &mut T) {
        if now != new {
            self.add(key);
            new.clone_from(now);
        }
    }

    /// The same stores in the same order, for they are known by their place; with other slots and cores.
    fn stores(&mut self, now: &[Store], new: &[Store]) -> Vec<Store> {
        let names = |stores: &[Store]| -> Vec<String> { stores.iter().map(|store| store.name.clone()).collect() };
        let (old_names, new_names) = (names(now), names(new));
        for store in new_names.iter().filter(|name| !old_names.contains(name)) {
            self.add(format!("[[store]] `{store}`, which is new,"));
        }
        let mut stores = now.to_vec();
        for store in &mut stores {
            let name = store.name.clone();
            let Some(mut wanted) = new.iter().find(|store| store.name == name).cloned() else {
                self.add(format!("[[store]] `{name}`, which is gone,"));
                continue;
            };
            self.keep(&format!("`uri` of [[store]] `{name}`"), &store.uri, &mut wanted.uri);
            self.keep(
                &format!("`systems` of [[store]] `{name}`"),
                &store.systems,
                &mut wanted.systems,
            );
            self.keep(
                &format!("`features` of [[store]] `{name}`"),
                &store.features,
                &mut wanted.features,
            );
            self.keep(
                &format!("`dispatch` of [[store]] `{name}`"),
                &store.dispatch,
                &mut wanted.dispatch,
            );
            *store = wanted;
        }
        let kept = |names: &[String], others: &[String]| -> Vec<String> {
            names.iter().filter(|name| others.contains(name)).cloned().collect()
        };
        if kept(&old_names, &new_names) != kept(&new_names, &old_names) {
            self.add("the order of [[store]]");
        }
        stores
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text, Path::new("nixci.toml")).unwrap()
    }

    const BEFORE: &str = r#"
state_dir = "/s"
[listen]
socket = "/s/socket"
http = "127.0.0.1:1"
[[store]]
name = "a"
uri = "unix:///a"
slots = 2
[[store]]
name = "b"
uri = "unix:///b"
slots = 2
"#;

    #[test]
    fn what_needs_a_restart_stays_and_is_named() {
        let now = config(BEFORE);
        let new = config(
            r#"
state_dir = "/t"
store_dir = "/gnu/store"
[listen]
socket = "/t/socket"
mode = "0600"
http = "127.0.0.1:2"
writes = "through"
url = "https://ci.example.org"
[[store]]
name = "b"
uri = "unix:///c"
slots = 5
cores = 3
systems = ["x86_64-linux"]
features = []
dispatch = "root"
[[store]]
name = "c"
uri = "unix:///c"
slots = 1
[limits]
known_paths = 1
known_infos = 1
known_time = "1m"
webhook_bytes = 100000
jobs = 7
[cache]
serve = false
priority = 1
level = 1
size = "5 GB"
[retention]
newest = 77
"#,
        );
        let (merged, left) = merge(&now, new);
        let said = left.join("\n");
        for key in [
            "state_dir",
            "store_dir",
            "`socket`",
            "`mode`",
            "`http`",
            "`writes`",
            "`uri` of [[store]] `b`",
            "`systems` of [[store]] `b`",
            "`features` of [[store]] `b`",
            "`dispatch` of [[store]] `b`",
            "`a`, which is gone,",
            "`c`, which is new,",
            "`known_paths`",
            "`known_infos`",
            "`known_time`",
            "`webhook_bytes`",
            "`serve`",
            "`priority`",
            "`level`",
            "`size`",
        ] {
            assert!(said.contains(key), "{key} is missing in {said}");
        }
        assert_eq!(left.len(), 20, "{said}");
        assert_eq!((merged.state_dir, merged.listen.mode), (now.state_dir, now.listen.mode));
        let stores: Vec<_> = merged
            .stores
            .iter()
            .map(|s| (&*s.name, &*s.uri, s.slots, s.cores))
            .collect();
        assert_eq!(stores, [("a", "unix:///a", 2, 0), ("b", "unix:///b", 5, 3)]);
        // And the others hold.
        assert_eq!((merged.limits.jobs, merged.retention.newest), (7, 77));
        assert_eq!(merged.listen.url.as_deref(), Some("https://ci.example.org"));
    }

    #[test]
    fn the_same_file_changes_nothing_and_stores_keep_their_places() {
        let (_, left) = merge(&config(BEFORE), config(&format!("# a line more\n{BEFORE}")));
        assert_eq!(left, Vec::<String>::new());
        let mut turned = config(BEFORE);
        turned.stores.reverse();
        let (merged, left) = merge(&config(BEFORE), turned);
        assert_eq!(left, ["the order of [[store]]"]);
        assert_eq!(merged.stores[0].name, "a");
    }
}
