//! Child processes: in a group of their own, which dies with its owner, and watched for memory.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::MissedTickBehavior;

use super::resources::field_kib;

/// How often memory is looked at. An evaluator grows by some hundred MiB in that time at most.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What an evaluator must not find in its environment, which impure expressions can read: tokens, and what a CI gives to
/// jobs to ask for them.
const SECRETS: [&str; 4] = [
    "NIXCI_TOKEN",
    "NIXCI_ID_TOKEN",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
    "ACTIONS_RUNTIME_TOKEN",
];

/// A child and all it starts. Dropping it before it has ended kills the whole group.
#[derive(Debug)]
pub(super) struct Group {
    child: Child,
    id: Option<Pid>,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// With zero.
    Success,
    /// With another code.
    Failed,
    /// By a signal that is neither ours nor the kernel's for memory.
    Crashed {
        /// The signal.
        signal: i32,
    },
    /// By `SIGKILL`.
    Killed {
        /// Who did it.
        by: Killer,
        /// MiB resident when it was last looked at.
        memory: u64,
    },
}

/// Who kills evaluators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Killer {
    /// We, because it used more than it may.
    Limit,
    /// The kernel or an operator, because the machine had no more.
    Outside,
}

impl Group {
    /// Starts `command` without input and without tokens in its environment; what it prints is piped where `stdout` says so, and its messages
    /// always.
    pub(super) fn spawn(command: &mut Command, stdout: Stdio) -> io::Result<Self> {
        for secret in SECRETS {
            command.env_remove(secret);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                let program = command.as_std().get_program().display();
                io::Error::new(error.kind(), format!("cannot start {program}: {error}"))
            })?;
        let id = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Ok(Self { child, id })
    }

    /// What it prints, once.
    pub(super) fn stdout(&mut self) -> io::Result<ChildStdout> {
        self.child
            .stdout
            .take()
            .ok_or_else(|| io::Error::other("its output is not piped"))
    }

    /// Its messages, once.
    pub(super) fn stderr(&mut self) -> io::Result<ChildStderr> {
        self.child
            .stderr
            .take()
            .ok_or_else(|| io::Error::other("its messages are not piped"))
    }

    /// Waits for its end, and brings it about when more than `limit` MiB are resident.
    pub(super) async fn wait(&mut self, limit: Option<u64>) -> io::Result<Exit> {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut memory = 0;
        let mut killer = Killer::Outside;
        let status = loop {
            tokio::select! {
                status = self.child.wait() => break status?,
                _ = look.tick(), if killer == Killer::Outside => {
                    if let Some(now) = self.resident().await {
                        memory = now;
                    }
                    if limit.is_some_and(|limit| memory > limit) {
                        killer = Killer::Limit;
                        self.kill();
                    }
                }
            }
        };
        self.id = None;
        Ok(exit(status, killer, memory))
    }

    fn kill(&self) {
        if let Some(id) = self.id {
            // It can only fail because the group has ended already.
            let _ = kill_process_group(id, Signal::KILL);
        }
    }

    async fn resident(&self) -> Option<u64> {
        let status = tokio::fs::read_to_string(format!("/proc/{}/status", self.child.id()?))
            .await
            .ok()?;
        Some(field_kib(&status, "VmRSS:")? / 1024)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

fn exit(status: ExitStatus, killer: Killer, memory: u64) -> Exit {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(0), _) => Exit::Success,
        (None, Some(signal)) if signal == Signal::KILL.as_raw() => Exit::Killed { by: killer, memory },
        (None, Some(signal)) => Exit::Crashed { signal },
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn ends_are_told_apart() {
        for (script, expected) in [
            ("exit 0", Exit::Success),
            ("exit 3", Exit::Failed),
            ("kill -SEGV $$", Exit::Crashed { signal: 11 }),
        ] {
            let mut group = Group::spawn(&mut shell(script), Stdio::null()).unwrap();
            assert_eq!(group.wait(None).await.unwrap(), expected, "{script}");
        }
        let mut group = Group::spawn(&mut shell("kill -KILL $$"), Stdio::null()).unwrap();
        let exit = group.wait(None).await.unwrap();
        assert!(
            matches!(
                exit,
                Exit::Killed {
                    by: Killer::Outside,
                    ..
                }
            ),
            "{exit:?}"
        );
    }

    #[tokio::test]
    async fn a_child_over_its_limit_is_killed_and_its_size_told() {
        // A shell that doubles a text until it is stopped.
        let mut group = Group::spawn(
            &mut shell("x=0123456789abcdef; while :; do x=$x$x; done"),
            Stdio::null(),
        )
        .unwrap();
        let exit = group.wait(Some(64)).await.unwrap();
        let Exit::Killed {
            by: Killer::Limit,
            memory,
        } = exit
        else {
            panic!("{exit:?}")
        };
        assert!(memory > 64, "{memory}");
    }

    #[tokio::test]
    async fn dropping_a_group_kills_the_grandchildren_too() {
        use tokio::io::AsyncReadExt;
        let mut group = Group::spawn(&mut shell("sleep 1000 & echo ready; wait"), Stdio::piped()).unwrap();
        let mut stdout = group.stdout().unwrap();
        assert_eq!(stdout.read_u8().await.unwrap(), b'r');
        drop(group);
        // Both held the pipe; it ends when both are gone.
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "eady\n");
    }
}
