//! `nix-eval-jobs`, read as a stream: one JSON object per line, as attributes become known.

use std::collections::VecDeque;
use std::path::Path as FsPath;
use std::process::Stdio;

use serde::Deserialize;
use tokio::io::AsyncRead;
use tokio::process::Command;
use tokio::sync::mpsc;

use super::lines::Lines;
use super::message;
use super::process::{Exit, Group};
use super::resources::Share;
use super::{Event, FatalKind, Options, Source, names, script};

const PROGRAM: &str = "nix-eval-jobs";

/// Lines of its messages that are kept for an error.
const KEPT_LINES: usize = 200;

/// Whether it can be started.
pub(super) fn is_there(options: &Options) -> bool {
    if let Some(bin) = &options.nix_bin {
        return bin.join(PROGRAM).is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(PROGRAM).is_file())
}

/// A line; fields we have no use for are passed over.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    attr_path: Option<Vec<String>>,
    drv_path: Option<String>,
    name: Option<String>,
    system: Option<String>,
    error: Option<String>,
}

/// What the lines said, for the end.
#[derive(Debug, Default)]
struct Seen {
    evaluated: u64,
    /// An error that belongs to no attribute.
    lost: Option<String>,
    /// Attributes whose worker was killed.
    killed: Option<String>,
}

enum Stop {
    NobodyListens,
    Broken(String),
}

/// Evaluates and sends what it finds; returns after [`Event::Done`] or when nobody listens any more.
pub(super) async fn drive(source: &Source, options: &Options, folder: &FsPath, events: &mpsc::Sender<Event>) {
    let share = Share::of(options);
    let fatal = tokio::select! {
        () = events.closed() => return,
        fatal = evaluate(source, options, share, folder, events) => fatal,
    };
    let fatal = match fatal {
        Ok(fatal) => fatal,
        Err(Stop::NobodyListens) => return,
        Err(Stop::Broken(message)) => Some((FatalKind::WholeEvaluation, message)),
    };
    if let Some((kind, message)) = fatal {
        let message = message::bounded(&message);
        if events.send(Event::Fatal { kind, message }).await.is_err() {
            return;
        }
    }
    drop(events.send(Event::Done).await);
}

async fn evaluate(
    source: &Source,
    options: &Options,
    share: Share,
    folder: &FsPath,
    events: &mpsc::Sender<Event>,
) -> Result<Option<(FatalKind, String)>, Stop> {
    let broken = |error: std::io::Error| Stop::Broken(error.to_string());
    let mut command = match &options.nix_bin {
        Some(bin) => Command::new(bin.join(PROGRAM)),
        None => Command::new(PROGRAM),
    };
    arguments(&mut command, source, options, share, folder);
    let mut group = Group::spawn(&mut command, Stdio::piped()).map_err(broken)?;
    let stdout = Lines::new(group.stdout().map_err(broken)?);
    let mut stderr = Lines::new(group.stderr().map_err(broken)?);
    let messages = async {
        let mut kept = VecDeque::new();
        while let Some(line) = stderr.next().await? {
            kept.push_back(line);
            if kept.len() > KEPT_LINES {
                kept.pop_front();
            }
        }
        std::io::Result::Ok(Vec::from(kept))
    };
    let (seen, messages, exit) = tokio::try_join!(
        read(stdout, source, options, events),
        async { messages.await.map_err(broken) },
        // It watches the memory of its workers by itself.
        async { group.wait(None).await.map_err(broken) },
    )?;
    Ok(verdict(seen, &messages, exit, share))
}

/// What is wrong with the evaluation as a whole.
fn verdict(seen: Seen, messages: &[String], exit: Exit, share: Share) -> Option<(FatalKind, String)> {
    let advice = format!(
        "nix-eval-jobs was killed for want of memory, with {} workers of {} MiB; set --workers and --max-memory",
        share.workers, share.memory
    );
    if let Exit::Killed { memory, .. } = exit {
        return Some((FatalKind::Killed { memory }, advice));
    }
    if let Some(killed) = seen.killed {
        return Some((FatalKind::Killed { memory: 0 }, format!("{advice}\n{killed}")));
    }
    if let Some(lost) = seen.lost {
        return Some((FatalKind::WholeEvaluation, lost));
    }
    match exit {
        Exit::Success | Exit::Killed { .. } => None,
        Exit::Failed => {
            let said = message::of_nix(messages, message::OwnFrames::Keep);
            Some(if is_kill(&said) {
                (FatalKind::Killed { memory: 0 }, format!("{advice}\n{said}"))
            } else {
                (FatalKind::WholeEvaluation, said)
            })
        }
        Exit::Crashed { signal } => Some((
            FatalKind::WholeEvaluation,
            format!("nix-eval-jobs crashed with signal {signal}"),
        )),
    }
}

/// Reads the lines to their end.
async fn read(
    mut lines: Lines<impl AsyncRead + Unpin>,
    source: &Source,
    options: &Options,
    events: &mpsc::Sender<Event>,
) -> Result<Seen, Stop> {
    let mut seen = Seen::default();
    let send = async |event| events.send(event).await.map_err(|_| Stop::NobodyListens);
    while let Some(line) = lines.next().await.map_err(|error| Stop::Broken(error.to_string()))? {
        if line.trim().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_str(&line).map_err(|error| {
            let start = &line[..line.floor_char_boundary(200)];
            Stop::Broken(format!(
                "nix-eval-jobs printed a line that is not understood ({error}): {start}"
            ))
        })?;
        let error = line.error.map(|text| message::bounded(message::plain(&text).trim()));
        let Some(path) = line.attr_path else {
            let error = error.unwrap_or_else(|| "nix-eval-jobs printed a line without an attribute".to_owned());
            if is_kill(&error) {
                seen.killed = Some(error);
            } else {
                seen.lost = Some(error);
            }
            continue;
        };
        let attr = names::job(source, options, &path);
        seen.evaluated += 1;
        match (error, line.drv_path) {
            (Some(message), _) if path.is_empty() => seen.lost = Some(message),
            (Some(message), _) => {
                if is_kill(&message) {
                    seen.killed = Some(format!("{attr}: {message}"));
                }
                send(Event::AttrError { attr, message }).await?;
            }
            (None, Some(drv_path)) => {
                let system = line.system.unwrap_or_default();
                if options.systems.is_empty() || options.systems.contains(&system) {
                    let name = line.name.unwrap_or_default();
                    send(Event::Attr {
                        attr,
                        drv_path,
                        name,
                        system,
                    })
                    .await?;
                }
            }
            (None, None) => {
                let message = "nix-eval-jobs names neither a derivation nor an error".to_owned();
                send(Event::AttrError { attr, message }).await?;
            }
        }
        // It never says how many there will be, so that all that is known is evaluated.
        send(Event::Progress {
            evaluated: seen.evaluated,
            known: seen.evaluated,
        })
        .await?;
    }
    Ok(seen)
}

/// Whether an error of a worker says that it was killed.
fn is_kill(message: &str) -> bool {
    message.contains("evaluation worker") && message.contains("killed by SIGKILL")
}

fn arguments(command: &mut Command, source: &Source, options: &Options, share: Share, folder: &FsPath) {
    command
        .args(["--extra-experimental-features", "nix-command flakes"])
        .args(["--option", "eval-cache", "false"])
        .args(["--workers", &share.workers.to_string()])
        .args(["--max-memory-size", &share.memory.to_string()])
        .arg("--gc-roots-dir")
        .arg(folder);
    if let Some(store) = &options.store {
        command.args(["--option", "store", store]);
    }
    command.args(script::arguments(&options.nix_args).1);
    if script::is_forced(source, options) {
        command.arg("--force-recurse");
    }
    if let Some(select) = script::select(source, options) {
        command.arg("--select").arg(select);
    }
    match source {
        Source::Flake { reference, attribute } => {
            if options.impure {
                command.arg("--impure");
            }
            command.arg("--flake").arg(format!("{reference}#{attribute}"));
        }
        Source::File { .. } | Source::Expr { .. } => {
            command
                .arg("--impure")
                .arg("--expr")
                .arg(script::expression(source, options).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::{Evaluator, run};
    use super::*;

    /// A stand-in that prints recorded lines, since no registry has the real one. What it was called with
    /// is in the file `args` beside it.
    async fn events(lines: &str, end: &str) -> (Vec<Event>, String) {
        let bin = tempfile::tempdir().unwrap();
        let program = bin.path().join(PROGRAM);
        let script = format!(
            "#!/bin/sh\nprintf '%s\\n' \"$@\" > {}/args\ncat <<'END'\n{lines}\nEND\n{end}\n",
            bin.path().display()
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let options = Options {
            evaluator: Evaluator::Auto,
            nix_bin: Some(bin.path().to_owned()),
            workers: Some(3),
            max_memory: Some(1000),
            systems: vec!["x86_64-linux".to_owned()],
            nix_args: vec!["--override-input".to_owned(), "a".to_owned(), "b".to_owned()],
            ..Options::default()
        };
        let mut evaluation = run(Source::flake("/flake").unwrap(), options).unwrap();
        let mut events = Vec::new();
        while let Some(event) = evaluation.next().await {
            if !matches!(event, Event::Progress { .. }) {
                events.push(event);
            }
        }
        (events, std::fs::read_to_string(bin.path().join("args")).unwrap())
    }

    const GOOD: &str = r#"{"attr":"x86_64-linux.coverage","attrPath":["x86_64-linux","coverage"],"drvPath":"/nix/store/8hq9f09xa5s6g9m02lw0sw59kkkvj57c-patchelf-coverage-0.15.0.drv","inputDrvs":{},"name":"patchelf-coverage-0.15.0","outputs":{"out":"/nix/store/dwf255bdbfvvbiqak941r83zlvxyipcs-patchelf-coverage-0.15.0"},"system":"x86_64-linux"}"#;

    fn good() -> Event {
        Event::Attr {
            attr: "checks.x86_64-linux.coverage".parse().unwrap(),
            drv_path: "/nix/store/8hq9f09xa5s6g9m02lw0sw59kkkvj57c-patchelf-coverage-0.15.0.drv".to_owned(),
            name: "patchelf-coverage-0.15.0".to_owned(),
            system: "x86_64-linux".to_owned(),
        }
    }

    #[tokio::test]
    async fn derivations_and_errors_come_as_events() {
        let meta = "m".repeat(5 << 20);
        let lines = format!(
            "{GOOD}\n{}\n{}\n{}",
            r#"{"attr":"x86_64-linux.\"a.b\"","attrPath":["x86_64-linux","a.b"],"error":"error: \u001b[31mboom\u001b[0m"}"#,
            r#"{"attr":"x","attrPath":["x"],"drvPath":"/nix/store/x.drv","name":"x","system":"riscv64-linux"}"#,
            GOOD.replace(
                "\"system\"",
                &format!("\"meta\":{{\"longDescription\":\"{meta}\"}},\"system\"")
            ),
        );
        let (events, args) = events(&lines, "").await;
        let error = Event::AttrError {
            attr: "checks.x86_64-linux.\"a.b\"".parse().unwrap(),
            message: "error: boom".to_owned(),
        };
        assert_eq!(events, [good(), error, good(), Event::Done]);
        let args: Vec<_> = args.lines().collect();
        for pair in [
            ["--workers", "3"],
            ["--max-memory-size", "1000"],
            ["--flake", "/flake#checks"],
            ["--override-input", "a"],
        ] {
            assert!(args.windows(2).any(|two| two == pair), "{pair:?} in {args:?}");
        }
        assert!(args.contains(&"--gc-roots-dir") && args.contains(&"--select"));
        assert!(!args.contains(&"--impure") && !args.contains(&"--force-recurse"));
    }

    #[tokio::test]
    async fn an_evaluation_that_fails_as_a_whole_is_told_from_one_that_was_killed() {
        let whole = FatalKind::WholeEvaluation;
        let killed = FatalKind::Killed { memory: 0 };
        for (line, end, expected, reason) in [
            ("", "echo error: no such flake >&2; exit 1", whole, "no such flake"),
            (r#"{"error":"error: lost"}"#, "", whole, "lost"),
            (
                r#"{"attr":"","attrPath":[],"error":"error: at the root"}"#,
                "exit 1",
                whole,
                "at the root",
            ),
            (
                "",
                "echo 'error: while waiting, evaluation worker got killed by SIGKILL, maybe memory limit reached?' >&2; exit 1",
                killed,
                "--max-memory",
            ),
            ("", "kill -KILL $$", killed, "--workers"),
            ("", "kill -SEGV $$", whole, "signal 11"),
            ("{ not json", "", whole, "not understood"),
        ] {
            let (events, _) = events(&format!("{GOOD}\n{line}"), end).await;
            assert_eq!(events.first(), Some(&good()), "{line} {end}");
            assert_eq!(events.last(), Some(&Event::Done));
            let [.., Event::Fatal { kind, message }, _] = &events[..] else {
                panic!("{events:?}")
            };
            match kind {
                FatalKind::Killed { .. } => assert!(matches!(expected, FatalKind::Killed { .. }), "{message}"),
                FatalKind::WholeEvaluation => assert_eq!(expected, whole, "{message}"),
            }
            assert!(message.contains(reason), "{message}");
        }
    }
}
