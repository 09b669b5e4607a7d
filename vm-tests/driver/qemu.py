"""The true lane: each machine is a virtual machine of QEMU with a kernel of its own, emulated where there is no KVM, on a
switch in this process."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

from .commands import call, chroot
from .errors import DriverError
from .log import Log
from .machine import Machine
from .provision import Root, provision
from .story import Spec
from .switch import Switch

# The name of the port that the agent looks for.
PORT = "vm-agent"
CARD = "card"
# Room for what a story writes; only what is written takes space here.
DISK = "16G"
# The kernel has drivers of the disk and the port built in. What it needs beyond, in the order of need.
MODULES = ("failover", "net_failover", "virtio_net", "virtio-rng")
# Where this run's folders are for QEMU, which runs in a root of its own.
SOCKETS, DISKS, KERNEL = Path("/run"), Path("/mnt"), Path("/srv")
QMP_SECONDS = 30.0


class VirtualMachine(Machine):
    """A machine of QEMU."""

    patience = 5.0

    def __init__(self, spec: Spec, log: Log, folder: Path, logs: Path, disk: Path, qemu: Path, switch: Path) -> None:
        super().__init__(spec.name, log, folder, logs)
        self._spec = spec
        self._disk = disk
        self._qemu = qemu
        self._switch = switch
        self._process: subprocess.Popen[bytes] | None = None

    def _launch(self) -> None:
        monitor = self.folder / "monitor"
        monitor.unlink(missing_ok=True)
        options = [
            # Emulated with a thread for each core; the model of processor is one that TCG does well.
            "-accel", "tcg,thread=multi", "-cpu", "Nehalem", "-machine", "q35", "-smp", "2", "-m", str(self._spec.memory),
            "-nodefaults", "-nographic", "-no-reboot",
            "-kernel", str(KERNEL / "vmlinuz"),
            "-append", "console=ttyS0 root=/dev/nvme0n1 rw init=/lib/systemd/systemd panic=-1 mitigations=off quiet",
            # What the machine has synced is safe from its crash in the page cache of this one.
            "-drive", f"file={DISKS / self._disk.name},if=none,id=disk,format=raw,cache=unsafe",
            "-device", "nvme,drive=disk,serial=disk",
            "-netdev", f"stream,id={CARD},server=off,addr.type=unix,addr.path={self._switch}",
            "-device", f"virtio-net-pci,netdev={CARD},mac={self._spec.mac},romfile=",
            "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
            "-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,path={self.folder / 'agent'},server=off",
            "-device", f"virtserialport,chardev=agent,name={PORT}",
            "-device", "virtio-rng-pci",
            "-qmp", f"unix:{monitor},server=on,wait=off",
        ]  # fmt: skip
        with self.console.open("ab") as console:
            self._process = subprocess.Popen(
                ["chroot", str(self._qemu), "/usr/bin/qemu-system-x86_64", *options],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _set_link(self, up: bool) -> None:
        self._monitor({"execute": "set_link", "arguments": {"name": CARD, "up": up}})

    def _monitor(self, request: dict[str, Any]) -> None:
        """Asks QEMU itself."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
                peer.settimeout(QMP_SECONDS)
                peer.connect(str(self.folder / "monitor"))
                lines = peer.makefile("rw", encoding="utf-8")
                for each in ({"execute": "qmp_capabilities"}, request):
                    lines.write(json.dumps(each) + "\n")
                    lines.flush()
                    answer: dict[str, Any] = {}
                    # Greetings and events come between.
                    while "return" not in answer and "error" not in answer:
                        answer = json.loads(lines.readline())
                    if "error" in answer:
                        raise DriverError(f"{self.name}: QEMU refused {request['execute']}: {answer['error'].get('desc')}")
        except (OSError, ValueError) as error:
            raise DriverError(f"{self.name}: QEMU's monitor does not answer: {error}") from error


class Qemu:
    """The lane."""

    name = "qemu"

    def __init__(self, made: Path, sockets: Path, scratch: Path) -> None:
        self._root = made / "root"
        self._modules = made / "kernel" / "modules"
        self._disks = scratch
        if not self._modules.is_dir():
            raise DriverError(f"{made} is missing: run .ci/setup vm")
        scratch.mkdir(parents=True, exist_ok=True)
        for source, target in ((sockets, SOCKETS), (scratch, DISKS), (made / "kernel", KERNEL), (Path("/dev"), Path("/dev"))):
            call(["mount", "--bind", str(source), str(self._root / target.relative_to("/"))])
        self._switch = Switch(sockets / "switch")

    def machine(self, spec: Spec, all_machines: list[Spec], keys: Path, log: Log, folder: Path, logs: Path, root: Path) -> Machine:
        """One machine of a story, that is off."""
        provision(root, spec, all_machines, keys, f"port:{PORT}")
        self._install_modules(root)
        disk = self._disks / f"{spec.name}.ext4"
        disk.unlink(missing_ok=True)
        call(["mke2fs", "-q", "-t", "ext4", "-m", "0", "-N", "200000", "-J", "size=16", "-d", str(root), str(disk), DISK])
        return VirtualMachine(spec, log, folder, logs, disk, self._root, self._switch.path)

    def _install_modules(self, root: Path) -> None:
        for version in self._modules.iterdir():
            target = root / "usr" / "lib" / "modules" / version.name
            target.mkdir(parents=True)
            for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
                shutil.copy(version / name, target)
            for module in MODULES:
                for file in version.glob(f"kernel/**/{module}.ko*"):
                    shutil.copy(file, target)
            chroot(root, ["depmod", version.name])
        Root(root).write("/etc/vm-modules", "".join(f"{module}\n" for module in MODULES))
