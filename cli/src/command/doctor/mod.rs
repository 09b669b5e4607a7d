//! `nixci doctor`: looks at everything nixci needs here, and says what to do.

mod forges;
mod issuers;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;

use nixci_protocol::nixci::control::{Advisory, EvaluationSummary, Info, Request, StoreStatus};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::process::Command;

use super::{print, print_json};
use crate::args::{Global, VERSION};
use crate::connect::{Address, Daemon};
use crate::context::{Context, process_env};
use crate::exit::{Exit, Problem};
use crate::render::{self, ansi, paint};
use crate::transfer;

/// Below this much free space builds are likely to fail.
const LITTLE_SPACE: u64 = 5 << 30;
/// Below this much nothing goes on.
const NO_SPACE: u64 = 512 << 20;
/// 2026-01-01: a clock before it is wrong.
const RELEASED: i64 = 1_767_225_600_000;
/// Clocks may differ by this much, in milliseconds.
const CLOCK_SKEW: i64 = 60_000;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Level {
    Fine,
    Warning,
    Wrong,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    level: Level,
    what: String,
    found: String,
    /// What to do; none where nothing is to be done.
    advice: Option<String>,
}

impl Check {
    fn fine(what: &str, found: impl Into<String>) -> Self {
        Self {
            level: Level::Fine,
            what: what.to_owned(),
            found: found.into(),
            advice: None,
        }
    }

    fn trouble(level: Level, what: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            level,
            what: what.to_owned(),
            found: found.into(),
            advice: Some(advice.into()),
        }
    }

    fn text(&self) -> String {
        let (glyph, style) = match self.level {
            Level::Fine => ("✓", render::GOOD),
            Level::Warning => ("!", render::WARN),
            Level::Wrong => ("✕", render::BAD),
        };
        let mut text = format!(
            "{} {:<12} {}\n",
            paint(style, glyph),
            self.what,
            ansi::plain(&self.found)
        );
        if let Some(advice) = &self.advice {
            let _ = writeln!(
                text,
                "  {:<12} {}",
                "",
                paint(render::DIM, format!("→ {}", ansi::plain(advice)))
            );
        }
        text
    }
}

/// Runs the command. Ends as failed when something is wrong, as unreachable when it is the daemon.
pub(crate) async fn run(global: &Global) -> Result<Exit, Problem> {
    let mut exit = Exit::Fine;
    let mut checks = vec![nix().await, evaluator().await, local_store(), clock()];
    checks.extend(space());
    checks.push(context());
    let address = Address::find(global, &process_env)?;
    checks.extend(token(&address));
    match Daemon::connect(&address).await {
        Ok(daemon) => checks.extend(inside(daemon).await?),
        Err(problem) => {
            exit = problem.exit();
            let said = problem.to_string();
            let (found, advice) = said.split_once(": ").unwrap_or((&said, "look at the daemon's log"));
            checks.push(Check::trouble(Level::Wrong, "daemon", found, advice));
        }
    }
    if exit == Exit::Fine && checks.iter().any(|check| check.level == Level::Wrong) {
        exit = Exit::Failed;
    }
    if global.json {
        print_json(&checks)?;
    } else {
        print(&checks.iter().map(Check::text).collect::<String>())?;
    }
    Ok(exit)
}

/// What a program prints as its version; none when it does not run.
async fn version(program: &str) -> Option<String> {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout);
    Some(text.lines().next().unwrap_or_default().trim().to_owned())
}

async fn nix() -> Check {
    match version("nix").await {
        Some(version) => Check::fine("nix", version),
        None => Check::trouble(
            Level::Warning,
            "nix",
            "`nix` does not run here",
            "install Nix to evaluate on this machine; ready derivations can be submitted without it",
        ),
    }
}

async fn evaluator() -> Check {
    match version("nix-eval-jobs").await {
        Some(version) => Check::fine("evaluator", format!("nix-eval-jobs {version}")),
        None => Check::fine("evaluator", "built in (nix-eval-jobs would be used if it were on PATH)"),
    }
}

fn local_store() -> Check {
    match transfer::local_store(None) {
        Ok(store) => Check::fine("local store", store.store_dir().as_str()),
        Err(problem) => Check::trouble(
            Level::Warning,
            "local store",
            problem.to_string(),
            "check NIX_REMOTE and NIX_STORE_DIR, or name a store with `submit --from`",
        ),
    }
}

fn clock() -> Check {
    let now = render::now();
    let text = jiff::Timestamp::from_millisecond(now).map_or_else(|_| now.to_string(), |time| format!("{time:.0}"));
    if now < RELEASED {
        Check::trouble(
            Level::Wrong,
            "clock",
            text,
            "set the clock: it is before this program was made",
        )
    } else {
        Check::fine("clock", text)
    }
}

/// Free space where the store, temporary files and state are.
fn space() -> Vec<Check> {
    let temporary = std::env::temp_dir();
    let mut seen = Vec::new();
    let mut checks = Vec::new();
    for dir in [Path::new("/nix/store"), &temporary] {
        let Ok(found) = rustix::fs::statvfs(dir) else { continue };
        if seen.contains(&found.f_fsid) {
            continue;
        }
        seen.push(found.f_fsid);
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        let text = format!("{} free for `{}`", render::size(free), dir.display());
        let advice = "make room: `nix-collect-garbage` removes store paths that nothing needs";
        checks.push(if free < NO_SPACE {
            Check::trouble(Level::Wrong, "space", text, advice)
        } else if free < LITTLE_SPACE {
            Check::trouble(Level::Warning, "space", text, advice)
        } else {
            Check::fine("space", text)
        });
    }
    checks
}

fn context() -> Check {
    let found = Context::detect(&process_env, Path::new("."));
    let project = found.project.unwrap_or_else(|| "unnamed".to_owned());
    let commit = found
        .commit
        .as_deref()
        .map(|full| format!(" @ {}", render::commit(full)));
    let request = found.pull_request.map(|number| format!(", pull request {number}"));
    let dirty = if found.labels.contains_key("dirty") {
        " with changes"
    } else {
        ""
    };
    Check::fine(
        "here",
        format!(
            "{project}{}{}{dirty}",
            commit.unwrap_or_default(),
            request.unwrap_or_default()
        ),
    )
}

/// The token that would be shown to the daemon, where it wants one: where it comes from, never what it is.
fn token(address: &Address) -> Option<Check> {
    match address {
        Address::Http(site) => Some(match site.identity().origin() {
            Ok(origin) => Check::fine("token", origin),
            Err(why) => {
                let (found, advice) = why.split_once(": ").unwrap_or((&why, "give one"));
                Check::trouble(Level::Wrong, "token", found, advice)
            }
        }),
        Address::Unix(_) | Address::Store(_) => None,
    }
}

/// What the daemon says of itself, its stores, its forges and its issuers.
async fn inside(mut daemon: Daemon) -> Result<Vec<Check>, Problem> {
    let protocol = daemon.peer().connection().negotiated().version.to_string();
    let info: Info = daemon.ask(&Request::Info).await?;
    let mut checks = vec![Check::fine(
        "daemon",
        format!(
            "nixci {} at {} (protocol {protocol}, you are {})",
            info.version,
            daemon.address(),
            info.principal
        ),
    )];
    // Commits of one version understand each other.
    let number = info.version.split(' ').next().unwrap_or_default();
    if number != env!("CARGO_PKG_VERSION") {
        checks.push(Check::trouble(
            Level::Warning,
            "version",
            format!("the daemon is {}, this is {VERSION}", info.version),
            "use the same version on both sides",
        ));
    }
    checks.push(match &info.pages {
        Some(pages) => Check::fine("pages", pages.as_str()),
        None => Check::fine("pages", "HTTP is off"),
    });
    let newest = Request::Evaluations {
        project: None,
        limit: 1,
    };
    let newest: Vec<EvaluationSummary> = daemon.ask(&newest).await?;
    if newest.iter().any(|one| one.created > render::now() + CLOCK_SKEW) {
        checks.push(Check::trouble(
            Level::Warning,
            "clock",
            "the daemon's clock is ahead of this machine's",
            "let both machines keep time by NTP",
        ));
    }
    let stores: Vec<StoreStatus> = daemon.ask(&Request::Stores).await?;
    if stores.is_empty() {
        checks.push(Check::trouble(
            Level::Wrong,
            "store",
            "the daemon has no store to build on",
            "add a [[store]] to its configuration",
        ));
    }
    for status in &stores {
        checks.push(store(status));
        checks.extend(status.advisories.iter().map(|advisory| hole(status, advisory)));
    }
    let told = answered(&mut daemon, &Request::Forges, "forges", &mut checks).await;
    checks.extend(told.iter().flat_map(|forge| forges::checks(forge, render::now())));
    let told = answered(&mut daemon, &Request::Issuers, "issuers", &mut checks).await;
    checks.extend(told.iter().map(|issuer| issuers::check(issuer, render::now())));
    Ok(checks)
}

/// What the daemon answers to a question that one of another version may not know; all else was answered.
async fn answered<T: DeserializeOwned>(
    daemon: &mut Daemon,
    question: &Request,
    what: &str,
    checks: &mut Vec<Check>,
) -> Vec<T> {
    daemon.ask(question).await.unwrap_or_else(|problem: Problem| {
        checks.push(Check::trouble(
            Level::Warning,
            what,
            problem.to_string(),
            "use the same version on both sides",
        ));
        Vec::new()
    })
}

fn store(store: &StoreStatus) -> Check {
    let what = format!("store {}", store.name);
    if let Some(error) = &store.error {
        return Check::trouble(
            Level::Wrong,
            &what,
            format!("{}: {error}", store.uri),
            format!("try `nix store ping --store '{}'` as the daemon's user", store.uri),
        );
    }
    let mut facts = vec![store.uri.clone()];
    facts.extend(store.version.as_ref().map(|version| format!("nix {version}")));
    facts.extend(store.protocol.as_ref().map(|protocol| format!("protocol {protocol}")));
    facts.push(format!("{} of {} slots busy", store.running, store.slots));
    Check::fine(&what, facts.join(" · "))
}

fn hole(store: &StoreStatus, advisory: &Advisory) -> Check {
    let version = store.version.as_deref().unwrap_or_default();
    Check::trouble(
        Level::Warning,
        &format!("store {}", store.name),
        format!("by its version, {version}, it has {}", advisory.line()),
        "update the Nix of that store, unless your distribution has mended it without a new version",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_named_with_the_release_that_mends_it() {
        let advisory = Advisory {
            id: "CVE-2026-39860".into(),
            what: "a build can overwrite any file".into(),
            fixed_in: "2.28.6".into(),
            certain: true,
        };
        let status = StoreStatus {
            name: "near".into(),
            uri: "auto".into(),
            slots: 4,
            running: 0,
            version: Some("2.26.3".into()),
            protocol: Some("1.38".into()),
            error: None,
            advisories: vec![advisory.clone()],
        };
        assert_eq!(
            anstream::adapter::strip_str(&hole(&status, &advisory).text()).to_string(),
            "! store near   by its version, 2.26.3, it has CVE-2026-39860: a build can overwrite any file; mended in 2.28.6\n  \
             \x20            → update the Nix of that store, unless your distribution has mended it without a new version\n"
        );
    }

    #[test]
    fn a_store_says_what_is_wrong_with_it_and_what_to_do() {
        let status = |name: &str, error: Option<&str>| StoreStatus {
            name: name.into(),
            uri: "auto".into(),
            slots: 4,
            running: 1,
            version: error.is_none().then(|| "2.34.8".into()),
            protocol: error.is_none().then(|| "1.38".into()),
            error: error.map(str::to_owned),
            advisories: Vec::new(),
        };
        let text: String = [status("near", None), status("far", Some("connection refused"))]
            .iter()
            .map(|status| store(status).text())
            .collect();
        assert_eq!(
            anstream::adapter::strip_str(&text).to_string(),
            "✓ store near   auto · nix 2.34.8 · protocol 1.38 · 1 of 4 slots busy\n\
             ✕ store far    auto: connection refused\n  \
             \x20            → try `nix store ping --store 'auto'` as the daemon's user\n"
        );
    }
}
