"""The fast lane: each machine is a container of systemd-nspawn with a systemd of its own, on a bridge of this run's
network namespace."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from .cgroup import Group
from .commands import call
from .log import Log
from .machine import Machine
from .provision import provision
from .story import Spec

BRIDGE = "vlan1"
# Where the driver's folder of a machine is in it.
INSIDE = "/run/vm"


class Container(Machine):
    """A machine that is a container."""

    boot_timeout = 120.0

    def __init__(self, spec: Spec, log: Log, folder: Path, logs: Path, root: Path, group: Group) -> None:
        super().__init__(spec.name, log, folder, logs)
        self._root = root
        self._group = group
        self._cable = f"vm{spec.number}"
        self._mac = spec.mac
        self._process: subprocess.Popen[bytes] | None = None

    def _launch(self) -> None:
        self._group.make()
        # Its other end went away with the container that had it, or does so in a moment.
        subprocess.run(["ip", "link", "delete", self._cable], capture_output=True, check=False)
        call(["ip", "link", "add", self._cable, "type", "veth", "peer", "name", f"{self._cable}-lan", "address", self._mac])
        call(["ip", "link", "set", self._cable, "master", BRIDGE, "up"])
        command = [
            "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", "--console=read-only",
            f"--directory={self._root}", f"--machine={self.name}", f"--network-interface={self._cable}-lan",
            f"--bind={self.folder}:{INSIDE}", "--link-journal=no", "--resolv-conf=off", "--timezone=off",
        ]  # fmt: skip
        # The shell goes into the group before it becomes the container.
        enter = 'echo 0 > "$0/cgroup.procs" && exec "$@"'
        with self.console.open("ab") as console:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", enter, str(self._group.path), *command],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1", "SYSTEMD_NSPAWN_TMPFS_TMP": "0", "SYSTEMD_LOG_COLOR": "0"},
                start_new_session=True,
            )

    def _running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _kill(self) -> None:
        if self._process is None:
            return
        self._group.kill()
        self._process.wait()
        self._process = None
        self._group.remove()

    def _set_link(self, up: bool) -> None:
        call(["ip", "link", "set", self._cable, "up" if up else "down"])


class Nspawn:
    """The lane."""

    name = "nspawn"

    def __init__(self, group: Group) -> None:
        self._group = group
        group.make()
        call(["systemd-nspawn", "--version"])
        # Where /sys may be written, systemd-nspawn asks udev about network cards, which knows none of this namespace.
        call(["mount", "-o", "remount,bind,ro", "/sys"])
        call(["ip", "link", "add", BRIDGE, "type", "bridge"])
        call(["ip", "link", "set", BRIDGE, "up"])

    def machine(self, spec: Spec, all_machines: list[Spec], keys: Path, log: Log, folder: Path, logs: Path, root: Path) -> Machine:
        """One machine of a story, that is off."""
        provision(root, spec, all_machines, keys, f"unix:{INSIDE}/agent")
        return Container(spec, log, folder, logs, root, self._group.below(spec.name))
