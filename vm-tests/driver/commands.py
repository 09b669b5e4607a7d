"""Programs of the host that the driver needs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Sequence

from .errors import DriverError


def call(command: Sequence[str]) -> str:
    """What a program prints; its failure ends the run with what it said."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise DriverError(f"failed to run {command[0]}: {error.strerror}") from error
    if done.returncode != 0:
        raise DriverError(f"`{' '.join(command)}` failed (exit code {done.returncode}): {done.stdout.strip()}")
    return done.stdout


def chroot(root: Path, command: Sequence[str]) -> str:
    """The same inside a root."""
    clean = ["/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"]
    return call(["chroot", str(root), *clean, *command])
