//! What the service manager is told, at a real socket.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;

use crate::world::World;

const NO_STORE: &str = "http = \"off\"\n[[store]]\nname = \"none\"\nuri = \"unix:///nowhere\"\n";
const PATIENCE: Duration = Duration::from_mins(1);

/// The end that systemd holds.
struct Manager(UnixDatagram);

impl Manager {
    fn of(world: &World) -> Self {
        let socket = UnixDatagram::bind(world.home().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    fn next(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.0.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    /// The next one that has this line, and how many answers to the watchdog were before it. Nothing else may be.
    fn expect(&self, line: &str) -> (String, usize) {
        let mut beats = 0;
        loop {
            let told = self.next();
            if told.lines().any(|told| told == line) {
                return (told, beats);
            }
            assert_eq!(told, "WATCHDOG=1\n", "before {line}");
            beats += 1;
        }
    }
}

fn value(told: &str, key: &str) -> u64 {
    let text = told.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    text.unwrap_or_else(|| panic!("no {key} in {told}")).parse().unwrap()
}

#[test]
fn ready_alive_reloading_and_stopping_are_told_in_order() {
    let world = World::new(NO_STORE);
    let manager = Manager::of(&world);
    let world = world
        .with("NOTIFY_SOCKET", world_path(&manager))
        .with("WATCHDOG_USEC", "200000");
    let daemon = world.spawn();
    let first = manager.next();
    assert!(value(&first, "EXTEND_TIMEOUT_USEC") >= 30_000_000, "{first}");
    let (ready, _) = manager.expect("READY=1");
    assert!(ready.contains("\nSTATUS=listening on /"), "{ready}");
    for _ in 0..3 {
        manager.expect("WATCHDOG=1");
    }

    daemon.signal(Signal::HUP);
    let (reloading, _) = manager.expect("RELOADING=1");
    let since = value(&reloading, "MONOTONIC_USEC");
    let (ready, _) = manager.expect("READY=1");
    assert!(!ready.contains(';'), "{ready}");

    world.configure("nonsense = 1\n");
    daemon.signal(Signal::HUP);
    let (reloading, _) = manager.expect("RELOADING=1");
    assert!(value(&reloading, "MONOTONIC_USEC") > since, "{reloading}");
    let (ready, _) = manager.expect("READY=1");
    assert!(
        ready.contains("; the configuration was not reloaded, 1 mistake(s)"),
        "{ready}"
    );

    world.configure(&format!("mode = \"0600\"\n{NO_STORE}"));
    daemon.signal(Signal::HUP);
    manager.expect("RELOADING=1");
    let (ready, _) = manager.expect("READY=1");
    assert!(
        ready.contains("; a restart is needed for `mode` in [listen]"),
        "{ready}"
    );

    daemon.signal(Signal::TERM);
    let (stopping, _) = manager.expect("STOPPING=1");
    // `stop_time` is 20 s.
    assert!(value(&stopping, "EXTEND_TIMEOUT_USEC") > 20_000_000, "{stopping}");
    daemon.stop();
}

#[test]
fn the_watchdog_of_another_process_is_not_answered() {
    let world = World::new(NO_STORE);
    let manager = Manager::of(&world);
    let world = world
        .with("NOTIFY_SOCKET", world_path(&manager))
        .with("WATCHDOG_USEC", "2000")
        .with("WATCHDOG_PID", "1");
    let daemon = world.spawn();
    manager.next();
    manager.expect("READY=1");
    let mut beats = 0;
    for _ in 0..5 {
        daemon.signal(Signal::HUP);
        beats += manager.expect("RELOADING=1").1;
        beats += manager.expect("READY=1").1;
    }
    assert_eq!(beats, 0);
    daemon.stop();
}

fn world_path(manager: &Manager) -> String {
    let address = manager.0.local_addr().unwrap();
    address.as_pathname().unwrap().display().to_string()
}
