"""Control groups: each container has one, so that all of it can be found, killed and removed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from .errors import DriverError

PREFIX = "nixci-vm-"
# Processes that were killed are gone a moment later.
PATIENCE = 10.0


def mounts() -> list[tuple[str, Path]]:
    """The trees that are mounted, as (type, path)."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        kind = after.split()[0]
        if kind in ("cgroup", "cgroup2"):
            found.append((kind, Path(before.split()[4])))
    return found


def available() -> bool:
    """Whether there is a tree of version 2."""
    return any(kind == "cgroup2" for kind, _ in mounts())


def unified() -> Path:
    """The group this process is in, in the tree of version 2."""
    trees = [path for kind, path in mounts() if kind == "cgroup2"]
    if not trees:
        raise DriverError("containers need control groups of version 2, and none are mounted: mount -t cgroup2 none /sys/fs/cgroup, or VM=qemu")
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        if line.startswith("0::"):
            own = trees[0] / line[3:].lstrip("/")
            # Seen from a container the path may be one of the host.
            return own if own.is_dir() else trees[0]
    return trees[0]


class Group:
    """A group of this run and all that is below it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def of_run(pid: int) -> Group:
        """The group of the run of process PID."""
        return Group(unified() / f"{PREFIX}{pid}")

    def make(self) -> None:
        """Makes it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DriverError(
                f"containers need a control group of their own, and {self.path} cannot be made ({error.strerror}): "
                "run as root, in a container with --privileged, or take VM=qemu"
            ) from error

    def below(self, name: str) -> Group:
        """A group in it."""
        return Group(self.path / name)

    def processes(self) -> list[int]:
        """All processes in it and below it."""
        found: list[int] = []
        # A walk goes on where a folder is gone by the time it is looked into.
        for folder, _, _ in os.walk(self.path):
            file = Path(folder) / "cgroup.procs"
            try:
                # 0 are those of other namespaces of processes, which are not ours.
                found += [pid for pid in map(int, file.read_text(encoding="ascii").split()) if pid > 0]
            except OSError:
                # It was removed meanwhile, or is of a kind without processes.
                continue
        return found

    def kill(self) -> None:
        """Kills all of it, and returns when there is nothing left."""
        deadline = time.monotonic() + PATIENCE
        while pids := self.processes():
            if time.monotonic() > deadline:
                raise DriverError(f"processes {pids} in {self.path} do not end")
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.005)

    def remove(self) -> None:
        """Removes it from all trees: systemd-nspawn makes the same groups in those of version 1."""
        trees = [tree for _, tree in mounts()]
        inner = next((self.path.relative_to(tree) for tree in trees if self.path.is_relative_to(tree)), None)
        if inner is None:
            return
        for tree in trees:
            remove_tree(tree / inner)


def remove_tree(top: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while top.is_dir():
        for folder, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:
                continue
        if time.monotonic() > deadline:
            raise DriverError(f"{top} cannot be removed: something runs in it")
        if top.is_dir():
            time.sleep(0.01)


def remove_stale() -> None:
    """Removes groups of runs whose process is gone, which were killed themselves."""
    for group in unified().glob(f"{PREFIX}*"):
        pid = group.name.removeprefix(PREFIX)
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            Group(group).kill()
            Group(group).remove()
