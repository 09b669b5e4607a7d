"""Runs the commands of a document, top to bottom, as somebody who follows it: `run.py docs/github.md`.

How a document is read is said in cli/tests/documents/page.rs. One login shell of root and one of `alice` live as long as
the document, so that `cd` and variables hold; files that it shows are written where it says before the commands after them.
The first command that does not end as it should, or does not print what the document shows, ends the run.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

USER = "alice"
# What somebody has who has built or downloaded the packages.
PACKAGES = "/srv/packages"
SENTINEL = "--- end of command:"


@dataclass
class Block:
    """A fenced block, with the comments in front of it."""

    line: int
    kind: str
    lines: list[str] = field(default_factory=list)
    marks: dict[str, str] = field(default_factory=dict)

    @property
    def file(self) -> str | None:
        """The file that its first line says it is."""
        if not self.lines or not self.lines[0].startswith("# "):
            return None
        word = re.split("[ :]", self.lines[0][2:])[0]
        return word if "." in word and not word.endswith(".") else None

    def commands(self) -> list[tuple[str, str, list[str]]]:
        """Prompt, command and expected output."""
        found: list[tuple[str, str, list[str]]] = []
        goes_on = False
        for line in self.lines:
            if goes_on:
                prompt, command, shown = found[-1]
                found[-1] = (prompt, f"{command}\n{line}", shown)
            elif line[:2] in ("$ ", "# "):
                found.append((line[0], line[2:], []))
            else:
                found[-1][2].append(line)
                continue
            goes_on = line.endswith("\\")
        return found


def blocks(text: str) -> list[Block]:
    found: list[Block] = []
    block: Block | None = None
    comment: str | None = None
    marks: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if block is not None:
            if line == "```":
                found.append(block)
                block = None
            else:
                block.lines.append(line)
            continue
        if comment is None and line.startswith("<!--"):
            comment = ""
            line = line[len("<!--") :]
        if comment is not None:
            before, end, _ = line.partition("-->")
            comment += before + "\n"
            if end:
                what, _, how = comment.strip().partition(": ")
                marks[what] = how
                comment = None
        elif line.startswith("```"):
            block = Block(number, line[3:], marks=marks)
            marks = {}
    return found


class Shell:
    """A login shell that takes one command after the other."""

    def __init__(self, user: str, folder: str) -> None:
        self.user = user
        self.folder = folder
        self.login()

    def login(self) -> None:
        self.process = subprocess.Popen(
            ["runuser", "--login", self.user, "--shell", "/bin/bash", "--command", "exec bash --norc"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        status, said = self.run(f"set -o pipefail; export PAGER=cat; cd {self.folder}")
        if status != 0:
            sys.exit(f"{self.user} cannot log in: {said}")

    def run(self, command: str) -> tuple[int, str]:
        """Status and everything printed. The command has no standard input."""
        with tempfile.NamedTemporaryFile("w", prefix="command-", suffix=".sh", delete=False) as file:
            file.write(command + "\n")
        os.chmod(file.name, 0o644)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f". {file.name} </dev/null; printf '\\n{SENTINEL} %s\\n' $?\n")
        self.process.stdin.flush()
        said: list[str] = []
        for line in self.process.stdout:
            if line.startswith(SENTINEL):
                os.unlink(file.name)
                return int(line.removeprefix(SENTINEL)), "".join(said).removesuffix("\n")
            said.append(line)
        return self.process.wait(), "".join(said)


def missing(shown: list[str], said: str) -> str | None:
    """The first line of what the document shows that is not printed, in this order. `…` stands for any text."""
    lines = iter(line.strip() for line in said.splitlines())
    for wanted in shown:
        if wanted.strip() == "…":
            continue
        pattern = ".*".join(re.escape(part) for part in re.split(" *… *", wanted.strip()))
        if not any(re.fullmatch(pattern, line) for line in lines):
            return wanted
    return None


class Run:
    """One document."""

    def __init__(self, page: str) -> None:
        self.page = page
        self.home = f"/home/{USER}/{Path(page).stem}"
        subprocess.run(["install", "-d", "-o", USER, "-g", USER, self.home], check=True)
        self.shells = {"$": Shell(USER, self.home), "#": Shell("root", PACKAGES)}
        self.count = 0

    def everything(self) -> None:
        for block in blocks(Path(page_file(self.page)).read_text(encoding="utf-8")):
            if block.kind != "console":
                self.write(block)
            elif "not run" in block.marks:
                print(f"{self.page}:{block.line}: not run: {block.marks['not run']}", flush=True)
            else:
                for line in block.marks.get("before", "").splitlines():
                    self.command(block, line[0], line[2:], [], 0)
                ends = int(block.marks.get("ends", "0").split(",")[0])
                for prompt, command, shown in block.commands():
                    self.command(block, prompt, command, shown, ends)
                    self.count += 1

    def write(self, block: Block) -> None:
        if block.file is None:
            return
        path = Path(self.home, block.file)
        owner = pwd.getpwnam("root" if block.file.startswith("/") else USER)
        made = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in block.lines), encoding="utf-8")
        for item in [path, *made]:
            os.chown(item, owner.pw_uid, owner.pw_gid)

    def command(self, block: Block, prompt: str, command: str, shown: list[str], ends: int) -> None:
        begin = time.monotonic()
        place = f"{self.page}:{block.line}: {prompt} {command}"
        status, said = self.shells[prompt].run(command)
        print(f"{place} ({time.monotonic() - begin:.1f} s)", flush=True)
        gone = missing(shown, said)
        if status != ends or gone is not None:
            why = f"ended with {status}, not {ends}" if status != ends else f"did not print {gone!r}"
            sys.exit(f"{place}\n{why}; it said:\n{said}")
        if "usermod" in command:
            # "At their next login", as the document says.
            self.shells["$"].login()


def page_file(page: str) -> str:
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), page)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        start = time.monotonic()
        run = Run(name)
        run.everything()
        print(f"{name}: {run.count} commands in {time.monotonic() - start:.0f} s", flush=True)
