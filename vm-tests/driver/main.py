"""vm-tests/run: runs stories in Debian machines.

    vm-tests/run [--list] [--times N] [STORY...]      VM=nspawn (default) or VM=qemu

The program starts itself a second time, in namespaces of its own for mounts, processes and network: nothing that a story
does touches the host, and all of it ends when the first process does, however that ends.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence
from xml.sax.saxutils import quoteattr

from . import cgroup, script, story
from .commands import call
from .errors import DriverError
from .image import Images, unmount
from .log import Log
from .nspawn import Nspawn
from .qemu import Qemu

ROOT = Path(__file__).resolve().parent.parent.parent
NIX_VERSION = "2.34.8"
# What is mounted over in the namespace; short, as paths of sockets have to be.
RUN = Path("/run")
PR_SET_PDEATHSIG = 1
LANES = ("nspawn", "qemu")
# What root needs of the environment of who asks for it.
KEPT = ("HOME", "PATH", "VM", "CARGO_TARGET_DIR", "NIXCI_TEST_CACHE", "XDG_CACHE_HOME")


@dataclass(frozen=True)
class Options:
    """What was asked for."""

    stories: list[str]
    folder: Path
    lane: str
    packages: Path
    times: int
    # The process that waits outside, once inside.
    outside: int | None


def target() -> Path:
    return Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").absolute()


def cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("NIXCI_TEST_CACHE") or Path(home) / "nixci-test")


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 when all stories held, 1 when one failed, 2 when they could not be run."""
    parser = argparse.ArgumentParser(prog="vm-tests/run", description="Runs stories of the VM tests in Debian machines.")
    parser.add_argument("stories", nargs="*", metavar="STORY", help="all without one")
    parser.add_argument("--list", action="store_true", help="name the stories and end")
    parser.add_argument("--times", type=int, default=1, metavar="N", help="run each story N times, until one fails")
    parser.add_argument("--packages", type=Path, default=target() / "debian", metavar="DIR", help="where nixci_*.deb and nixci-daemon_*.deb are")
    parser.add_argument("--stories", type=Path, default=ROOT / "vm-tests", dest="folder", metavar="DIR", help="where the stories are")
    parser.add_argument("--inside", type=int, metavar="PID", help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    try:
        names = story.available(parsed.folder)
        if parsed.list:
            for name in names:
                told = story.load(parsed.folder, name, cache() / f"nix-{NIX_VERSION}" / "bin", render())
                print(f"{name:20} {told.description}")
            return 0
        lane = os.environ.get("VM") or "nspawn"
        if lane not in LANES:
            raise DriverError(f"VM={lane} is not known; it may be {' or '.join(LANES)}")
        if unknown := sorted(set(parsed.stories) - set(names)):
            raise DriverError(f"there is no story '{unknown[0]}'; there are: {', '.join(names)}")
        chosen = parsed.stories or names
        options = Options(chosen, parsed.folder.absolute(), lane, parsed.packages.absolute(), parsed.times, parsed.inside)
        return outside(arguments) if options.outside is None else inside(options)
    except DriverError as error:
        print(f"vm-tests: {error}", file=sys.stderr)
        return 2


def render() -> Path:
    return ROOT / "nixos-module" / "render.nix"


def outside(arguments: Sequence[str]) -> int:
    """Starts the run in namespaces, and cleans up what outlives them."""
    if os.geteuid() != 0:
        if shutil.which("sudo") is None:
            raise DriverError("machines need root: run this as root, or install sudo")
        # With this user's cache, where .ci/setup has put the roots.
        kept = [f"{name}={os.environ[name]}" for name in KEPT if name in os.environ]
        os.execvp("sudo", ["sudo", "--", "env", *kept, sys.executable, "-u", str(ROOT / "vm-tests" / "run"), *arguments])
    remove_stale()
    namespaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private", "--"]
    try:
        call([*namespaces, "true"])
    except DriverError as error:
        raise DriverError(f"machines need namespaces, in a container --privileged or CAP_SYS_ADMIN without a seccomp profile: {error}") from error
    command = [
        *namespaces,
        sys.executable, "-u", str(ROOT / "vm-tests" / "run"), "--inside", str(os.getpid()), *arguments,
    ]  # fmt: skip
    parent = os.getpid()
    try:
        process = subprocess.Popen(command, preexec_fn=lambda: die_with(parent))
    except OSError as error:
        raise DriverError(f"failed to start {command[0]}: {error.strerror}") from error
    # A terminal's Ctrl-C reaches the run by itself, which says where it stood; anything else ends it at once.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: process.kill())
    try:
        code = process.wait()
    finally:
        shutil.rmtree(scratch(os.getpid()), ignore_errors=True)
        if cgroup.available():
            group = cgroup.Group.of_run(os.getpid())
            group.kill()
            group.remove()
    return code if code >= 0 else 128 - code


def die_with(parent: int) -> None:
    """Has the kernel end this process when its parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def scratch(pid: int) -> Path:
    """Where a run has what is too large for memory."""
    return target() / "vm-tests" / f"scratch-{pid}"


def remove_stale() -> None:
    """What runs left that were killed."""
    for folder in (target() / "vm-tests").glob("scratch-*"):
        if not Path(f"/proc/{folder.name.removeprefix('scratch-')}").exists():
            shutil.rmtree(folder, ignore_errors=True)
    if cgroup.available():
        cgroup.remove_stale()


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def inside(options: Options) -> int:
    """The run itself."""
    # This is the first process of its namespace, to which signals only do what was asked for.
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    call(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(RUN)])
    call(["ip", "link", "set", "lo", "up"])
    assert options.outside is not None
    lane: Nspawn | Qemu
    if options.lane == "nspawn":
        lane = Nspawn(cgroup.Group.of_run(options.outside))
    else:
        lane = Qemu(cache() / "qemu", RUN, scratch(options.outside))
    images = Images(cache() / "machine", options.packages, RUN / "images")
    log = Log()
    results: list[tuple[str, float, str | None]] = []
    try:
        for name in options.stories:
            for _ in range(options.times):
                begin = time.monotonic()
                log.restart_clock()
                try:
                    reason = tell(options, name, lane, images, log)
                except DriverError as error:
                    log.line(f"FAILED before the story began: {error}")
                    reason = str(error).splitlines()[0]
                results.append((name, time.monotonic() - begin, reason))
                if reason is not None:
                    break
    except KeyboardInterrupt:
        return 130
    finally:
        report(options.lane, results)
    return 1 if any(reason for _, _, reason in results) else 0


def tell(options: Options, name: str, lane: Nspawn | Qemu, images: Images, log: Log) -> str | None:
    """Runs one story; why it failed, in one line."""
    told = story.load(options.folder, name, cache() / f"nix-{NIX_VERSION}" / "bin", render())
    log.plain(f"==== {name} ({options.lane}): {told.description}")
    logs = target() / "vm-tests" / f"{name}-{options.lane}"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    roots = RUN / "machines" / name
    machines = []
    try:
        for spec in told.machines:
            root = images.root(spec, roots)
            folder = RUN / "vm" / spec.name
            machines.append(lane.machine(spec, told.machines, ROOT / "vm-tests" / "keys", log, folder, logs, root))
        return script.run(told, machines, log)
    finally:
        for machine in machines:
            machine.release()
        for folder in roots.glob("*"):
            unmount(folder)
        shutil.rmtree(RUN / "vm", ignore_errors=True)


def report(lane: str, results: list[tuple[str, float, str | None]]) -> None:
    """A line for each run of a story, and the same for machines to read."""
    for name, took, reason in results:
        print(f"{'ok    ' if reason is None else 'FAILED'}  {name} ({lane}) {took:.1f} s{'' if reason is None else f': {reason}'}")
    failed = sum(reason is not None for _, _, reason in results)
    print(f"vm-tests: {len(results) - failed} of {len(results)} held", flush=True)
    cases = "".join(
        f'  <testcase classname="vm-tests.{lane}" name={quoteattr(name)} time="{took:.3f}">'
        + ("" if reason is None else f"<failure message={quoteattr(reason)}/>")
        + "</testcase>\n"
        for name, took, reason in results
    )
    file = target() / "vm-tests" / f"junit-{lane}.xml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuite name="vm-tests.{lane}" tests="{len(results)}" failures="{failed}">\n{cases}</testsuite>\n',
        encoding="utf-8",
    )
