"""A story: what machines there are, as pure data that Nix evaluates, and the script of what happens to them."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import DriverError

# Names are attributes and variables of a script, and host names.
KNOWN = {"daemon", "client", "nix", "sshd", "users", "files", "tools", "memory", "bare", "rendered"}

# What the module does beyond rendering is said once more here: `store.enable` has uploads go through.
EXPRESSION = """
{ file, render }:
let
  story = import file;
  through = daemon:
    if (daemon.store or { }).enable or false then daemon // { listen = { writes = "through"; } // daemon.listen or { }; } else daemon;
in
{
  inherit (story) description;
  script = toString story.script;
  machines = builtins.mapAttrs (
    name: machine: machine // (if machine ? daemon then { rendered = import render (through machine.daemon); } else { })
  ) story.machines;
}
"""


@dataclass(frozen=True)
class File:
    """A file that is there before any service starts."""

    text: str
    mode: int


@dataclass(frozen=True)
class Spec:
    """One machine, as the story wants it."""

    name: str
    # 1 and so on, in alphabetical order; the last part of its address.
    number: int
    # The values of services.nixci, and what nixos-module/render.nix makes of them.
    daemon: dict[str, Any] | None = None
    rendered: dict[str, Any] | None = None
    client: dict[str, Any] | None = None
    nix: dict[str, Any] = field(default_factory=dict)
    sshd: bool = False
    users: list[str] = field(default_factory=list)
    files: dict[str, File] = field(default_factory=dict)
    tools: list[str] = field(default_factory=list)
    memory: int = 1024
    # Without Nix and nixci, whose packages lie in /srv/debian and /srv/packages: for the documented installation.
    bare: bool = False

    @property
    def address(self) -> str:
        """Where the others find it."""
        return f"192.168.1.{self.number}"

    @property
    def mac(self) -> str:
        """The address of its network card, which stays over a crash, since the others remember it."""
        return f"52:54:00:12:01:{self.number:02x}"


@dataclass(frozen=True)
class Story:
    """A story, as it is run."""

    name: str
    description: str
    script: Path
    machines: list[Spec]


def available(folder: Path) -> list[str]:
    """The names of the stories in a folder: every NAME.nix with its NAME.py."""
    return sorted(path.stem for path in folder.glob("*.nix") if path.with_suffix(".py").exists())


def load(folder: Path, name: str, nix: Path, render: Path) -> Story:
    """Evaluates a story. NIX is the folder of Nix's programs, RENDER the module's render.nix."""
    file = folder / f"{name}.nix"
    if not file.exists():
        raise DriverError(f"there is no story '{name}'; there are: {', '.join(available(folder))}")
    command = [
        str(nix / "nix-instantiate"), "--eval", "--strict", "--json", "--store", "dummy://", "--expr", EXPRESSION,
        "--arg", "file", str(file), "--arg", "render", str(render),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise DriverError(f"{command[0]} does not run ({error.strerror}): run `make vm-test`, or .ci/setup vm") from error
    if done.returncode != 0:
        raise DriverError(f"failed to evaluate {file}:\n{done.stderr.strip()}")
    return parse(name, json.loads(done.stdout))


def parse(name: str, data: dict[str, Any]) -> Story:
    """The story of evaluated data."""
    machines = [
        parse_machine(machine, number, values)
        for number, (machine, values) in enumerate(sorted(data["machines"].items()), start=1)
    ]
    return Story(name, data["description"], Path(data["script"]), machines)


def parse_machine(name: str, number: int, values: dict[str, Any]) -> Spec:
    if strange := sorted(set(values) - KNOWN):
        raise DriverError(f"machine {name} has `{strange[0]}`, which is not known; known are {', '.join(sorted(KNOWN - {'rendered'}))}")
    files = {path: File(file["text"], int(file.get("mode", "0644"), 8)) for path, file in values.get("files", {}).items()}
    known = {key: value for key, value in values.items() if key != "files"}
    return Spec(name=name, number=number, files=files, **known)
