"""Runs the script of a story over its machines."""

from __future__ import annotations

import re
import traceback
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

from .errors import DriverError
from .log import Log
from .machine import Machine, retry
from .story import Story

# Lines of each machine's journal that are shown when a story fails.
JOURNAL_LINES = 80
# What each `su` of a script leaves in the journal.
NOISE = re.compile(r"(\[ *[0-9.]+\] )?(su\[|systemd-logind\[|systemd\[1\]: (Started )?session-)")
# Colours, moves of the cursor, and titles.
ESCAPES = re.compile(r"\x1b\[[0-9:;?!]*[A-Za-z]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)|\x1b[!-/]*[0-~]")


def names(machines: list[Machine], log: Log) -> dict[str, Any]:
    """What a script finds: its machines by name, and the functions of the NixOS test driver."""

    @contextmanager
    def subtest(name: str) -> Iterator[None]:
        with log.step(f"subtest: {name}"):
            yield

    def start_all() -> None:
        for machine in machines:
            machine.start()

    found: dict[str, Any] = {machine.name.replace("-", "_"): machine for machine in machines}
    if len(machines) == 1:
        found.setdefault("machine", machines[0])
    found.update(__name__="__story__", machines=machines, start_all=start_all, subtest=subtest, retry=retry)
    return found


def run(story: Story, machines: list[Machine], log: Log) -> str | None:
    """Runs it, and gives in one line why it failed, after the log has all that is known."""
    try:
        source = story.script.read_text(encoding="utf-8")
        exec(compile(source, str(story.script), "exec"), names(machines, log))
    except KeyboardInterrupt:
        log.line("interrupted")
        raise
    except Exception as error:  # whatever a script does wrong is a failure of the story
        where = place(story.script, error)
        reason = f"{where}{describe(error)}"
        log.line(f"FAILED at {reason}")
        if not isinstance(error, (DriverError, AssertionError)) and not where:
            log.line(traceback.format_exc())
        show_journals(machines, log)
        return reason.splitlines()[0]
    return None


def place(script: Path, error: BaseException) -> str:
    """The lines of the script that led to the error, the innermost last."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(script)]
    return "".join(f"{script.name}:{frame.lineno}: {frame.line}: " for frame in frames[-1:])


def describe(error: BaseException) -> str:
    text = str(error)
    kind = type(error).__name__
    if isinstance(error, (DriverError,)) or kind == "StepFailed":
        return text
    return f"{kind}: {text}" if text else kind


def show_journals(machines: list[Machine], log: Log) -> None:
    """The end of what all machines wrote, and where the rest is."""
    for machine in machines:
        machine.settle_console()
        log.plain(f"---- the last {JOURNAL_LINES} lines of {machine.name}; all of them are in {machine.console}")
        for line in tail(machine.console, JOURNAL_LINES):
            log.plain(f"{machine.name}| {line}")
    log.plain("----")


def tail(file: Path, count: int) -> list[str]:
    """The last lines of a file, without what a terminal would act on."""
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            return list(deque((line for line in map(printable, lines) if line and not NOISE.match(line)), count))
    except OSError as error:
        return [f"(there is no log: {error.strerror})"]


def printable(line: str) -> str:
    return "".join(c for c in ESCAPES.sub("", line).rstrip() if c.isprintable() or c == "\t")
