//! The text form of the configuration and its checks.

mod cache;
mod forge;
mod oidc;
mod project;
mod retention;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use nixci_protocol::types::StoreDir;
use nixci_protocol::wire::Limits as WireLimits;
use nixci_store::remote::StoreUri;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use self::cache::CacheTable;
use self::forge::ForgeTable;
pub(crate) use self::oidc::is_safe as is_safe_address;
use self::oidc::{AllowTable, OidcTable};
use self::project::ProjectTable;
use self::retention::RetentionTable;
use super::defaults::{self, Surroundings};
use super::error::Problem;
use super::oidc::ClaimsTable;
use super::tokens::{TokenTable, tokens};
use super::users::Users;
use super::{Config, Dispatch, HttpRead, Keys, Limits, Listen, SecretFile, Store, Tls, Writes, duration, keys};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    state_dir: Option<Spanned<PathBuf>>,
    store_dir: Option<Spanned<String>>,
    listen: Option<ListenTable>,
    store: Option<Vec<StoreTable>>,
    limits: Option<LimitsTable>,
    retention: Option<RetentionTable>,
    token: Option<Vec<TokenTable>>,
    cache: Option<CacheTable>,
    keys: Option<KeysTable>,
    forge: Option<Vec<ForgeTable>>,
    project: Option<Vec<ProjectTable>>,
    oidc: Option<Vec<OidcTable>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenTable {
    socket: Option<Spanned<PathBuf>>,
    mode: Option<Spanned<String>>,
    http: Option<Spanned<String>>,
    url: Option<Spanned<String>>,
    writes: Option<Spanned<String>>,
    trusted_users: Option<Vec<Users>>,
    allowed_users: Option<Vec<Users>>,
    http_read: Option<Spanned<String>>,
    tls_certificate_file: Option<Spanned<PathBuf>>,
    tls_key_file: Option<Spanned<PathBuf>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreTable {
    name: Spanned<String>,
    uri: Option<Spanned<String>>,
    slots: Option<Spanned<u32>>,
    cores: Option<u32>,
    systems: Option<Spanned<Vec<String>>>,
    features: Option<Vec<String>>,
    dispatch: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsTable {
    connections: Option<Spanned<u64>>,
    connections_per_user: Option<Spanned<u64>>,
    handshake_time: Option<Spanned<String>>,
    max_string: Option<Spanned<u64>>,
    max_text: Option<Spanned<u64>>,
    max_items: Option<Spanned<u64>>,
    max_paths: Option<Spanned<u64>>,
    max_message: Option<Spanned<u64>>,
    max_frame: Option<Spanned<u64>>,
    max_features: Option<Spanned<u64>>,
    max_control: Option<Spanned<u64>>,
    jobs: Option<Spanned<u64>>,
    closure_bytes: Option<Spanned<u64>>,
    closure_unpacked_bytes: Option<Spanned<u64>>,
    nar_bytes: Option<Spanned<u64>>,
    log_bytes: Option<Spanned<u64>>,
    webhook_bytes: Option<Spanned<u64>>,
    build_time: Option<Spanned<String>>,
    silent_time: Option<Spanned<String>>,
    abandon_after: Option<Spanned<String>>,
    known_paths: Option<usize>,
    known_infos: Option<usize>,
    known_time: Option<Spanned<String>>,
    stop_time: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysTable {
    secret_key_files: Option<Vec<Spanned<PathBuf>>>,
    trusted_public_keys: Option<Vec<Spanned<String>>>,
}

/// Collects problems with the lines they are in.
pub(super) struct Check<'t> {
    text: &'t str,
    problems: Vec<Problem>,
}

impl Check<'_> {
    pub(super) fn at(&mut self, offset: usize, message: String) {
        let line = Some(self.line(offset));
        self.problems.push(Problem { line, message });
    }

    fn line(&self, offset: usize) -> usize {
        let before = self.text.get(..offset).unwrap_or(self.text);
        before.matches('\n').count() + 1
    }

    /// A file with a secret, and the line that names it.
    pub(super) fn secret(&self, file: Spanned<PathBuf>) -> SecretFile {
        SecretFile {
            line: Some(self.line(file.span().start)),
            path: file.into_inner(),
        }
    }

    /// The value, or its default with a problem noted.
    pub(super) fn value<T, R>(
        &mut self,
        given: Option<Spanned<T>>,
        default: R,
        read: impl FnOnce(&T) -> Result<R, String>,
    ) -> R {
        let Some(given) = given else { return default };
        match read(given.get_ref()) {
            Ok(value) => value,
            Err(message) => {
                self.at(given.span().start, message);
                default
            }
        }
    }

    fn known<T: DeserializeOwned>(&mut self, table: &DeTable<'_>, place: &str) {
        let known = keys::of::<T>();
        for key in table.keys() {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            let hint = match keys::nearest(name, known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known are {}", quoted(known)),
            };
            self.at(key.span().start, format!("unknown key `{name}` {place}; {hint}"));
        }
    }

    fn known_in_each<T: DeserializeOwned>(&mut self, tables: &DeArray<'_>, place: &str) {
        for table in tables {
            if let DeValue::Table(table) = table.get_ref() {
                self.known::<T>(table, place);
            }
        }
    }

    fn known_everywhere(&mut self, root: &DeTable<'_>) {
        self.known::<File>(root, "at the top level");
        for (key, value) in root {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("listen", DeValue::Table(table)) => self.known::<ListenTable>(table, "in [listen]"),
                ("limits", DeValue::Table(table)) => self.known::<LimitsTable>(table, "in [limits]"),
                ("retention", DeValue::Table(table)) => self.known::<RetentionTable>(table, "in [retention]"),
                ("keys", DeValue::Table(table)) => self.known::<KeysTable>(table, "in [keys]"),
                ("store", DeValue::Array(stores)) => self.known_in_each::<StoreTable>(stores, "in [[store]]"),
                ("token", DeValue::Array(tokens)) => self.known_in_each::<TokenTable>(tokens, "in [[token]]"),
                ("forge", DeValue::Array(forges)) => self.known_in_each::<ForgeTable>(forges, "in [[forge]]"),
                ("project", DeValue::Array(projects)) => {
                    self.known_in_each::<ProjectTable>(projects, "in [[project]]");
                }
                ("oidc", DeValue::Array(issuers)) => {
                    self.known_in_each::<OidcTable>(issuers, "in [[oidc]]");
                    for issuer in issuers {
                        let DeValue::Table(issuer) = issuer.get_ref() else {
                            continue;
                        };
                        if let Some(DeValue::Table(claims)) = issuer.get("claims").map(Spanned::get_ref) {
                            self.known::<ClaimsTable>(claims, "in [oidc.claims]");
                        }
                        if let Some(DeValue::Array(rules)) = issuer.get("allow").map(Spanned::get_ref) {
                            self.known_in_each::<AllowTable>(rules, "in [[oidc.allow]]");
                        }
                    }
                }
                ("cache", DeValue::Table(table)) => self.known::<CacheTable>(table, "in [cache]"),
                _ => {}
            }
        }
    }
}

fn quoted(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("`{word}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Checks the whole text; an empty one means the defaults.
pub(super) fn parse(text: &str, around: &Surroundings) -> Result<Config, Vec<Problem>> {
    let mut check = Check {
        text,
        problems: Vec::new(),
    };
    let (root, mistakes) = DeTable::parse_recoverable(text);
    for mistake in &mistakes {
        check.at(
            mistake.span().map_or(0, |span| span.start),
            mistake.message().to_owned(),
        );
    }
    if !check.problems.is_empty() {
        return Err(check.problems);
    }
    check.known_everywhere(root.get_ref());
    if !check.problems.is_empty() {
        return Err(check.problems);
    }
    let file: File = match toml::from_str(text) {
        Ok(file) => file,
        Err(mistake) => {
            check.at(
                mistake.span().map_or(0, |span| span.start),
                mistake.message().to_owned(),
            );
            return Err(check.problems);
        }
    };
    let config = resolve(file, around, &mut check);
    match config {
        Some(config) if check.problems.is_empty() => Ok(config),
        _ => Err(check.problems),
    }
}

fn resolve(file: File, around: &Surroundings, check: &mut Check<'_>) -> Option<Config> {
    let state_dir = place(file.state_dir, || around.state_dir(), check);
    let store_dir = check.value(file.store_dir, StoreDir::default(), |text| {
        StoreDir::new(text).map_err(|error| format!("`store_dir` is not a store directory: {error}"))
    });
    let listen = listen(file.listen.unwrap_or_default(), around, check);
    let stores = stores(file.store, check);
    let limits = limits(file.limits.unwrap_or_default(), check);
    let retention = retention::resolve(file.retention.unwrap_or_default(), check);
    let tokens = tokens(file.token, check);
    let cache = cache::resolve(file.cache.unwrap_or_default(), check);
    let forges = forge::resolve(file.forge.unwrap_or_default(), check);
    let projects = project::resolve(file.project.unwrap_or_default(), &forges, check);
    let oidc = oidc::resolve(file.oidc.unwrap_or_default(), &forges, check);
    let keys = signing(file.keys.unwrap_or_default(), check);
    Some(Config {
        state_dir: state_dir?,
        store_dir,
        listen: listen?,
        stores,
        limits,
        retention,
        tokens,
        cache,
        keys,
        forges,
        projects,
        oidc,
    })
}

fn signing(table: KeysTable, check: &mut Check<'_>) -> Keys {
    let mut keys = Keys::default();
    for file in table.secret_key_files.unwrap_or_default() {
        keys.secret_key_files.push(check.secret(file));
    }
    for text in table.trusted_public_keys.unwrap_or_default() {
        match text.get_ref().parse() {
            Ok(key) => keys.trusted_public_keys.push(key),
            Err(error) => check.at(text.span().start, format!("`trusted_public_keys`: {error}")),
        }
    }
    keys
}

fn place(
    given: Option<Spanned<PathBuf>>,
    default: impl FnOnce() -> Result<PathBuf, String>,
    check: &mut Check<'_>,
) -> Option<PathBuf> {
    if given.is_some() {
        return check.value(given, None, |path| {
            if path.is_absolute() {
                Ok(Some(path.clone()))
            } else {
                Err(format!("`{}` must be an absolute path", path.display()))
            }
        });
    }
    default()
        .map_err(|message| check.problems.push(Problem { line: None, message }))
        .ok()
}

/// The longest path `bind` takes on Linux.
const SOCKET_PATH_BYTES: usize = 107;

fn listen(table: ListenTable, around: &Surroundings, check: &mut Check<'_>) -> Option<Listen> {
    let offset = table.socket.as_ref().map_or(0, |socket| socket.span().start);
    let socket = place(table.socket, || around.socket(), check)?;
    if socket.as_os_str().len() > SOCKET_PATH_BYTES {
        check.at(
            offset,
            format!(
                "the socket path {} is longer than the {SOCKET_PATH_BYTES} bytes a socket can have; name a shorter one with `socket` in [listen]",
                socket.display()
            ),
        );
    }
    Some(Listen {
        socket,
        mode: check.value(table.mode, 0o666, |text| {
            u32::from_str_radix(text, 8)
                .ok()
                .filter(|mode| *mode <= 0o777)
                .ok_or_else(|| format!("`mode` is `{text}`; write it in octal, like \"0660\""))
        }),
        http: check.value(table.http, Some(SocketAddr::from(([127, 0, 0, 1], 0))), |text| {
            if text == "off" {
                return Ok(None);
            }
            text.parse()
                .map(Some)
                .map_err(|_| format!("`http` is `{text}`; write an address like \"127.0.0.1:8473\", or \"off\""))
        }),
        tls: tls(table.tls_certificate_file, table.tls_key_file, check),
        url: check.value(table.url, None, |text| forge::web_address("url", text).map(Some)),
        writes: check.value(table.writes, Writes::Spool, |text| match text.as_str() {
            "spool" => Ok(Writes::Spool),
            "through" => Ok(Writes::Through),
            _ => Err(format!("`writes` is `{text}`; it can be \"spool\" or \"through\"")),
        }),
        http_read: check.value(table.http_read, HttpRead::Everyone, |text| match text.as_str() {
            "everyone" => Ok(HttpRead::Everyone),
            "token" => Ok(HttpRead::Token),
            _ => Err(format!("`http_read` is `{text}`; it can be \"everyone\" or \"token\"")),
        }),
        trusted_users: table.trusted_users.unwrap_or_else(|| around.trusted_users()),
        allowed_users: table.allowed_users.unwrap_or_else(|| vec![Users::Everyone]),
    })
}

fn tls(certificate: Option<Spanned<PathBuf>>, key: Option<Spanned<PathBuf>>, check: &mut Check<'_>) -> Option<Tls> {
    match (certificate, key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => {
            let at = certificate.span().start;
            let certificate = certificate.into_inner();
            if !certificate.is_absolute() {
                let text = format!("`{}` must be an absolute path", certificate.display());
                check.at(at, text);
            }
            Some(Tls {
                certificate,
                key: check.secret(key),
            })
        }
        (Some(alone), None) | (None, Some(alone)) => {
            let text = "TLS needs both `tls_certificate_file` and `tls_key_file`";
            check.at(alone.span().start, text.to_owned());
            None
        }
    }
}

fn stores(tables: Option<Vec<StoreTable>>, check: &mut Check<'_>) -> Vec<Store> {
    let Some(tables) = tables else {
        return vec![Store {
            name: "auto".to_owned(),
            uri: "auto".to_owned(),
            slots: defaults::slots(),
            cores: 0,
            systems: defaults::systems(),
            features: defaults::features(),
            dispatch: Dispatch::Derivation,
        }];
    };
    let mut names = BTreeSet::new();
    tables
        .into_iter()
        .map(|table| store(table, &mut names, check))
        .collect()
}

fn store(table: StoreTable, names: &mut BTreeSet<String>, check: &mut Check<'_>) -> Store {
    let name = table.name.get_ref().clone();
    if name.is_empty() {
        check.at(table.name.span().start, "a store needs a name".to_owned());
    } else if !names.insert(name.clone()) {
        check.at(
            table.name.span().start,
            format!("there are two stores named `{name}`; names must differ"),
        );
    }
    Store {
        name,
        uri: check.value(table.uri, "auto".to_owned(), |uri| match uri.parse::<StoreUri>() {
            Ok(_) => Ok(uri.clone()),
            Err(error) => Err(error.to_string()),
        }),
        slots: check.value(table.slots, defaults::slots(), |slots| match slots {
            1..=10_000 => Ok(*slots),
            _ => Err(format!("`slots` is {slots}; it must be between 1 and 10000")),
        }),
        cores: table.cores.unwrap_or(0),
        systems: check.value(table.systems, defaults::systems(), |systems| {
            if systems.is_empty() {
                Err("`systems` is empty; a store that builds for no system is of no use".to_owned())
            } else {
                Ok(systems.clone())
            }
        }),
        features: table.features.unwrap_or_else(defaults::features),
        dispatch: check.value(table.dispatch, Dispatch::Derivation, |text| match text.as_str() {
            "derivation" => Ok(Dispatch::Derivation),
            "root" => Ok(Dispatch::Root),
            _ => Err(format!("`dispatch` is `{text}`; it can be \"derivation\" or \"root\"")),
        }),
    }
}

fn limits(table: LimitsTable, check: &mut Check<'_>) -> Limits {
    let default = Limits::default();
    let at_least_one = |key: &'static str| {
        move |value: &u64| match value {
            0 => Err(format!("`{key}` is 0; a limit that lets nothing pass is of no use")),
            _ => Ok(*value),
        }
    };
    let connections = |key: &'static str| {
        move |value: &u64| match usize::try_from(*value) {
            Ok(value @ 1..=1_000_000) => Ok(value),
            _ => Err(format!("`{key}` is {value}; it must be between 1 and 1000000")),
        }
    };
    // Below the least, stock clients could not say what they have to; above 4 GiB, a limit limits nothing.
    let bytes = |key: &'static str, least: u64| {
        move |value: &u64| {
            if (least..=4 << 30).contains(value) {
                return Ok(*value);
            }
            Err(format!(
                "`{key}` is {value}; it must be between {least} and {}",
                4_u64 << 30
            ))
        }
    };
    let wire = default.wire;
    Limits {
        connections: check.value(table.connections, default.connections, connections("connections")),
        connections_per_user: check.value(
            table.connections_per_user,
            default.connections_per_user,
            connections("connections_per_user"),
        ),
        handshake_time: check.value(table.handshake_time, default.handshake_time, |text| {
            duration::parse(text)
        }),
        wire: WireLimits {
            max_string: check.value(table.max_string, wire.max_string, bytes("max_string", 4_096)),
            max_text: check.value(table.max_text, wire.max_text, bytes("max_text", 65_536)),
            max_items: check.value(table.max_items, wire.max_items, at_least_one("max_items")),
            max_paths: check.value(table.max_paths, wire.max_paths, at_least_one("max_paths")),
            max_message: check.value(table.max_message, wire.max_message, bytes("max_message", 65_536)),
            max_frame: check.value(table.max_frame, wire.max_frame, bytes("max_frame", 65_536)),
            max_features: check.value(table.max_features, wire.max_features, at_least_one("max_features")),
            max_control: check.value(table.max_control, wire.max_control, bytes("max_control", 65_536)),
        },
        jobs: check.value(table.jobs, default.jobs, at_least_one("jobs")),
        closure_bytes: check.value(
            table.closure_bytes,
            default.closure_bytes,
            at_least_one("closure_bytes"),
        ),
        closure_unpacked_bytes: check.value(
            table.closure_unpacked_bytes,
            default.closure_unpacked_bytes,
            at_least_one("closure_unpacked_bytes"),
        ),
        nar_bytes: check.value(table.nar_bytes, default.nar_bytes, at_least_one("nar_bytes")),
        log_bytes: check.value(table.log_bytes, default.log_bytes, at_least_one("log_bytes")),
        webhook_bytes: check.value(
            table.webhook_bytes,
            default.webhook_bytes,
            bytes("webhook_bytes", 65_536),
        ),
        build_time: check.value(table.build_time, default.build_time, |text| {
            duration::parse(text).map(Some)
        }),
        silent_time: check.value(table.silent_time, default.silent_time, |text| {
            duration::parse(text).map(Some)
        }),
        abandon_after: check.value(table.abandon_after, default.abandon_after, |text| duration::parse(text)),
        known_paths: table.known_paths.unwrap_or(default.known_paths),
        known_infos: table.known_infos.unwrap_or(default.known_infos),
        known_time: check.value(table.known_time, default.known_time, |text| duration::parse(text)),
        stop_time: check.value(table.stop_time, default.stop_time, |text| duration::parse(text)),
    }
}
