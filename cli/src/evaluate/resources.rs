//! How many evaluators this machine can bear.

use std::num::NonZero;

use super::Options;

/// MiB below which another evaluator is not worth starting: a package set of usual size takes this much.
const MIB_PER_WORKER: u64 = 2048;

/// MiB assumed free where the system does not tell.
const MIB_UNKNOWN: u64 = 4096;

/// What an evaluation may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// Evaluators at once, at least one.
    pub(super) workers: usize,
    /// MiB for each of them.
    pub(super) memory: u64,
}

impl Share {
    /// What the options say, and for the rest what the machine has now.
    pub(super) fn of(options: &Options) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self::divide(options, cores, free_mib().unwrap_or(MIB_UNKNOWN))
    }

    fn divide(options: &Options, cores: usize, free: u64) -> Self {
        // A quarter stays for Nix's daemon, the files read and everything else.
        let budget = free / 4 * 3;
        let per_worker = options.max_memory.unwrap_or(MIB_PER_WORKER).max(1);
        let fitting = usize::try_from(budget / per_worker).unwrap_or(usize::MAX);
        let workers = options.workers.unwrap_or(cores.min(fitting)).max(1);
        Self {
            workers,
            memory: options.max_memory.unwrap_or_else(|| (budget / workers as u64).max(512)),
        }
    }
}

/// MiB that can be had without swapping, also within a control group.
fn free_mib() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| field_kib(&text, "MemAvailable:"))?
        / 1024;
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let group = number("/sys/fs/cgroup/memory.max")
        .map(|max| max.saturating_sub(number("/sys/fs/cgroup/memory.current").unwrap_or(0)) >> 20);
    Some(group.map_or(machine, |group| group.min(machine)))
}

/// A field of `/proc/meminfo` or `/proc/PID/status`, in KiB.
pub(super) fn field_kib(text: &str, field: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(field))?;
    rest.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_fit_cores_and_memory() {
        let options = |workers, max_memory| Options {
            workers,
            max_memory,
            ..Options::default()
        };
        for (options, cores, free, expected) in [
            (options(None, None), 2, 24_000, (2, 9_000)),
            (options(None, None), 20, 8_000, (2, 3_000)),
            (options(None, None), 4, 1_000, (1, 750)),
            (options(None, Some(1_000)), 8, 8_000, (6, 1_000)),
            (options(Some(6), None), 2, 8_000, (6, 1_000)),
            (options(Some(0), Some(0)), 2, 0, (1, 0)),
        ] {
            let share = Share::divide(&options, cores, free);
            assert_eq!((share.workers, share.memory), expected, "{options:?}");
        }
    }

    #[test]
    fn fields_are_read_as_the_kernel_prints_them() {
        assert_eq!(field_kib("Name:\tnix\nVmRSS:\t  12345 kB\n", "VmRSS:"), Some(12345));
        assert_eq!(field_kib("Name:\tnix\n", "VmRSS:"), None);
    }
}
