"""Makes the root of a machine what its story says, before it boots: what the NixOS module would do there."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from . import nix
from .commands import chroot
from .errors import DriverError
from .story import Spec

SERVICE = "nixci-daemon.service"
SOCKET = "nixci-daemon.socket"
HTTP_SOCKET = "nixci-daemon-http.socket"

# As the packages have them.
DEFAULT_SOCKET = "/run/nixci/socket"
DEFAULT_HTTP = "127.0.0.1:8480"

# Parts of services.nixci that these machines have no counterpart of.
ONLY_NIXOS = ("nginx",)

# Work that would begin at some moment of a story and has nothing to do with it, and prompts nobody answers.
MASKED = (
    # On disk, as on NixOS; half of a small memory is less than builds may want.
    "tmp.mount",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "fstrim.timer",
    "e2scrub_all.timer",
    "systemd-firstboot.service",
    "console-getty.service",
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
)

AGENT_UNIT = """\
[Unit]
Description=Commands of the driver of VM tests

[Service]
# What a login would have in its environment; the driver's commands are root's.
Environment=HOME=/root USER=root LOGNAME=root SHELL=/bin/bash
WorkingDirectory=/tmp
ExecStart=/bin/bash -c '. /etc/profile; exec python3 -u /usr/local/lib/vm/agent.py {channel}'
# What a step left behind is killed at a shutdown and not waited for.
KillSignal=SIGKILL
OOMScoreAdjust=-1000
Restart=always

[Install]
WantedBy=multi-user.target
"""

NETWORK_UNIT = """\
[Unit]
Description=Network between the machines of VM tests
DefaultDependencies=no
Before=sysinit.target network.target network-online.target shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/lib/vm/network {address}/24

[Install]
WantedBy=sysinit.target
"""

# There is no udev, which would load drivers and say when the card is there. Containers have no modules.
NETWORK_SCRIPT = """\
#!/bin/sh
set -e
if [ -s /etc/vm-modules ]; then xargs modprobe -a </etc/vm-modules; fi
tries=100
while :; do
    for card in /sys/class/net/*; do
        case $card in */lo | */'*') continue ;; esac
        [ "${card##*/}" = eth1 ] || ip link set "${card##*/}" name eth1
        ip address add "$1" dev eth1
        ip link set eth1 up
        exit 0
    done
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || { echo "there is no network card" >&2; exit 1; }
    sleep 0.1
done
"""

# Everything of the journal also goes to the console, which the driver keeps: it can be read when the machine is gone.
JOURNAL = """\
[Journal]
Storage=persistent
ForwardToConsole=yes
MaxLevelConsole=debug
RateLimitIntervalSec=0
"""

SYSTEM = """\
[Manager]
ShowStatus=no
LogColor=no
"""


class Root:
    """The root folder of a machine that is off."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def at(self, target: str) -> Path:
        """Where an absolute path of the machine is; links must not lead out of it."""
        path = self.path / target.lstrip("/")
        if not path.parent.resolve().is_relative_to(self.path.resolve()):
            raise DriverError(f"{target}: a folder on the way is a link that leads out of the machine")
        return path

    def write(self, target: str, text: str, mode: int = 0o644) -> Path:
        """Writes a file of root, with the folders on the way."""
        path = self.at(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
        return path

    def unit(self, name: str, text: str) -> None:
        """Installs and enables a unit."""
        self.write(f"/etc/systemd/system/{name}", text)
        target = text.rsplit("WantedBy=", 1)[1].strip()
        self.link(f"/etc/systemd/system/{target}.wants/{name}", f"../{name}")

    def drop_in(self, unit: str, section: str, lines: list[str]) -> None:
        """Changes settings of a unit."""
        if lines:
            self.write(f"/etc/systemd/system/{unit}.d/vm.conf", "\n".join([f"[{section}]", *lines]) + "\n")

    def mask(self, unit: str) -> None:
        """Takes care that nothing starts the unit."""
        self.link(f"/etc/systemd/system/{unit}", "/dev/null")

    def link(self, target: str, to: str) -> None:
        path = self.at(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(to)


def provision(path: Path, spec: Spec, all_machines: list[Spec], keys: Path, channel: str) -> None:
    """Writes what makes the root at PATH this machine. CHANNEL is where the agent finds the driver."""
    root = Root(path)
    base(root, spec, all_machines, channel)
    identity(root, spec, keys)
    for user in spec.users:
        groups = ["--groups", "nix-users"] if group_exists(root, "nix-users") else []
        chroot(path, ["useradd", "--create-home", "--shell", "/bin/bash", *groups, user])
    for tool in spec.tools:
        if not any(os.path.lexists(path / folder / tool) for folder in ("usr/bin", "usr/sbin")):
            raise DriverError(f"machine {spec.name} wants the tool '{tool}', which is not in .ci/machines")
    settings = nix_settings(spec)
    if spec.daemon is not None:
        daemon(root, spec, settings)
    if spec.client is not None and spec.client.get("to") is not None:
        root.write("/etc/profile.d/nixci.sh", f"export NIXCI_TO='{spec.client['to']}'\n")
    if not spec.bare:
        root.write("/etc/nix/nix.conf", nix.nix_conf(settings))
    for target, content in spec.files.items():
        root.write(target, content.text, content.mode)


def base(root: Root, spec: Spec, all_machines: list[Spec], channel: str) -> None:
    """Name, network, journal, and the driver's agent."""
    root.write("/etc/hostname", f"{spec.name}\n")
    root.write("/etc/machine-id", hashlib.md5(spec.name.encode()).hexdigest() + "\n")
    names = "".join(f"{machine.address} {machine.name}\n" for machine in all_machines)
    root.write("/etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n{names}")
    root.write("/etc/resolv.conf", "")
    root.write("/etc/systemd/journald.conf.d/vm.conf", JOURNAL)
    root.write("/etc/systemd/system.conf.d/vm.conf", SYSTEM)
    root.write("/usr/local/lib/vm/agent.py", Path(__file__).with_name("agent.py").read_text(encoding="utf-8"))
    root.write("/usr/local/lib/vm/network", NETWORK_SCRIPT, 0o755)
    root.unit("vm-agent.service", AGENT_UNIT.format(channel=channel))
    root.unit("vm-network.service", NETWORK_UNIT.format(address=spec.address))
    for unit in MASKED:
        root.mask(unit)
    # What systemd would make anew after an update of /usr is there.
    for folder in ("etc", "var"):
        (root.path / folder / ".updated").touch()


def identity(root: Root, spec: Spec, keys: Path) -> None:
    """Root's throw-away key; who has it is let in where there is a server."""
    home = root.path / "root" / ".ssh"
    home.mkdir(mode=0o700, exist_ok=True)
    for name, mode in (("id_ed25519", 0o600), ("id_ed25519.pub", 0o644)):
        shutil.copyfile(keys / name, home / name)
        (home / name).chmod(mode)
    root.write(
        "/etc/ssh/ssh_config.d/vm.conf",
        "Host *\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n",
    )
    if spec.sshd:
        shutil.copyfile(keys / "id_ed25519.pub", home / "authorized_keys")
    else:
        root.mask("ssh.service")
        root.mask("ssh.socket")


def nix_settings(spec: Spec) -> dict[str, Any]:
    """What is in nix.conf, with the story's own settings over it."""
    return {
        "build-users-group": "nixbld",
        "sandbox": True,
        "sandbox-paths": ["/bin/sh=/usr/bin/busybox"],
        "experimental-features": ["nix-command", "flakes"],
        "substituters": [],
        "trusted-users": ["root"],
        **spec.nix,
    }


def daemon(root: Root, spec: Spec, settings: dict[str, Any]) -> None:
    """The daemon's configuration, secrets, sockets, and what this host has of it."""
    values, rendered = spec.daemon, spec.rendered
    if values is None or rendered is None:
        raise DriverError(f"machine {spec.name}: services.nixci was not rendered")
    for name in ONLY_NIXOS:
        if (values.get(name) or {}).get("enable"):
            raise DriverError(f"machine {spec.name}: services.nixci.{name} is only there on NixOS")
    listen = rendered["toml"].get("listen", {})
    root.write("/etc/nixci/nixci.toml", nix.toml(rendered["toml"]))

    service = [f"LoadCredential={name}:{path}" for name, path in rendered["credentials"].items()]
    service += [f"Environment={name}={value}" for name, value in rendered.get("environment", {}).items()]
    if arguments := rendered.get("arguments"):
        service += ["ExecStart=", f"ExecStart=/usr/bin/nixci-daemon {' '.join(arguments)}"]
    root.drop_in(SERVICE, "Service", service)

    socket = listen.get("socket", DEFAULT_SOCKET)
    changed = [] if socket == DEFAULT_SOCKET else ["ListenStream=", f"ListenStream={socket}"]
    if (mode := listen.get("mode")) is not None:
        changed.append(f"SocketMode={mode}")
    root.drop_in(SOCKET, "Socket", changed)
    http = listen.get("http", DEFAULT_HTTP)
    if http == "off":
        root.mask(HTTP_SOCKET)
    elif http != DEFAULT_HTTP:
        root.drop_in(HTTP_SOCKET, "Socket", ["ListenStream=", f"ListenStream={http}"])

    if rendered["authorizedKeys"]:
        keys = root.write("/var/lib/nixci/.ssh/authorized_keys", rendered["authorizedKeys"], 0o600)
        keys.parent.chmod(0o700)
        chroot(root.path, ["chown", "-R", "nixci:nixci", "/var/lib/nixci/.ssh"])

    substituter = values.get("substituter") or {}
    if substituter.get("enable"):
        settings["substituters"] = [*settings["substituters"], f"http://{http.replace('0.0.0.0:', '127.0.0.1:')}"]
        settings["trusted-public-keys"] = [*settings.get("trusted-public-keys", []), substituter["publicKey"]]
    if (values.get("store") or {}).get("enable"):
        # Not for root, whose commands mend the daemon.
        root.write("/etc/profile.d/nixci-store.sh", f'[ "$(id -u)" = 0 ] || export NIX_REMOTE=unix://{socket}\n')


def group_exists(root: Root, group: str) -> bool:
    lines = root.at("/etc/group").read_text(encoding="utf-8").splitlines()
    return any(line.startswith(f"{group}:") for line in lines)
