"""Roots of machines: what .ci/machines made, with packages installed over it, and a layer for each machine.

All of it is overlays on a tmpfs of this run's mount namespace, so that nothing is copied and nothing stays.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from .commands import call, chroot
from .errors import DriverError
from .story import Spec

# The packages of a machine, by what its story sets.
DAEMON, CLIENT = "nixci-daemon", "nixci"


@dataclass(frozen=True)
class Layers:
    """What a root is stacked of, lowest first."""

    folders: tuple[Path, ...]


class Images:
    """Makes roots below FOLDER."""

    def __init__(self, machine: Path, packages: Path, folder: Path) -> None:
        self._machine = machine
        self._packages = packages
        self._folder = folder
        self._installed: dict[tuple[str, ...], Layers] = {}

    def root(self, spec: Spec, story: Path) -> Path:
        """A root for one machine of a story, whose folder is STORY."""
        if spec.bare:
            path = mount(Layers((self._base("bare"),)), story / spec.name)
            for package in (DAEMON, CLIENT):
                shutil.copy(self._package(package), path / "srv" / "packages")
            return path
        wanted = [CLIENT] if spec.client is not None else []
        if spec.daemon is not None:
            wanted.append(DAEMON)
        return mount(self._with_packages(tuple(wanted)), story / spec.name)

    def _base(self, name: str) -> Path:
        root = self._machine / name
        if not (root / "usr").is_dir():
            raise DriverError(f"{root} is missing: run .ci/setup vm")
        return root

    def _with_packages(self, wanted: tuple[str, ...]) -> Layers:
        """The root with Nix and these packages, installed once in a run."""
        base = Layers((self._base("nix"),))
        if not wanted:
            return base
        if wanted not in self._installed:
            folder = self._folder / "+".join(wanted)
            path = mount(base, folder)
            files = [self._package(name) for name in wanted]
            for file in files:
                shutil.copy(file, path / "srv" / "packages")
            call(["mount", "-t", "proc", "proc", str(path / "proc")])
            chroot(path, ["dpkg", "--force-unsafe-io", "--install", *(f"/srv/packages/{file.name}" for file in files)])
            call(["umount", str(path / "proc")])
            for file in files:
                (path / "srv" / "packages" / file.name).unlink()
            call(["umount", str(path)])
            self._installed[wanted] = Layers((*base.folders, folder / "upper"))
        return self._installed[wanted]

    def _package(self, name: str) -> Path:
        found = sorted(self._packages.glob(f"{name}_*.deb"))
        if len(found) != 1:
            raise DriverError(f"{self._packages} holds {len(found)} packages {name}_*.deb, not one: run `make deb PROFILE=dev`")
        return found[0]


def mount(layers: Layers, folder: Path) -> Path:
    """A root that may be written to, as FOLDER/root; what is written is in FOLDER/upper."""
    for name in ("upper", "work", "root"):
        (folder / name).mkdir(parents=True)
    lower = ":".join(str(layer) for layer in reversed(layers.folders))
    options = f"lowerdir={lower},upperdir={folder / 'upper'},workdir={folder / 'work'}"
    call(["mount", "-t", "overlay", "overlay", "-o", options, str(folder / "root")])
    return folder / "root"


def unmount(folder: Path) -> None:
    """Takes a root and what was written to it away."""
    call(["umount", "--lazy", str(folder / "root")])
    shutil.rmtree(folder)
