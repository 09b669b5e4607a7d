"""The log of a run: plain lines with the seconds since the story began, indented by what they belong to."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from typing import Iterator, TextIO

# Steps that took less are not mentioned again when they end.
WORTH_SAYING = 0.5


class Log:
    """Where steps and what machines say are written."""

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out
        self._begin = time.monotonic()
        self._lock = threading.Lock()
        self._depth = 0

    def restart_clock(self) -> None:
        """Counts from here on; a new story begins."""
        self._begin = time.monotonic()
        self._depth = 0

    def elapsed(self) -> float:
        """Seconds since the story began."""
        return time.monotonic() - self._begin

    def line(self, text: str) -> None:
        """Writes TEXT, which may have several lines."""
        with self._lock:
            for part in text.splitlines() or [""]:
                self._out.write(f"{self.elapsed():8.2f}  {'  ' * self._depth}{part}\n")
            self._out.flush()

    def plain(self, text: str) -> None:
        """Writes TEXT as it is, without a time."""
        with self._lock:
            self._out.write(text if text.endswith("\n") else text + "\n")
            self._out.flush()

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """A step; what is written inside belongs to it."""
        self.line(text)
        begin = time.monotonic()
        self._depth += 1
        try:
            yield
        finally:
            took = time.monotonic() - begin
            if took >= WORTH_SAYING:
                self.line(f"({took:.2f} s)")
            self._depth -= 1
