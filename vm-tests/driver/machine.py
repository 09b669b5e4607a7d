"""One machine, as a story's script sees it: the common part of the NixOS test driver's API.

Commands run as root by bash with `set -euo pipefail`; a command that leaves a process behind closes standard output
(`sleep 60 >&2 &`), since standard output is read to its end.
"""

from __future__ import annotations

import io
import shlex
import tarfile
import time
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Callable

from .channel import Channel, Gone
from .errors import DriverError, StepFailed, TimedOut
from .log import Log

DEFAULT_TIMEOUT = 900.0
# After a command's own time is up its processes are killed and its answer comes.
GRACE = 60.0
# Between tries, growing: most things come soon, and a try may be costly.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
# What the last lines of a console may lag behind the journal, and where they are looked for.
SETTLE = 15.0
CONSOLE_TAIL = 1 << 16
# A command's output in an error.
OUTPUT_CHARS = 20_000


def retry(fn: Callable[[bool], bool], timeout: float = DEFAULT_TIMEOUT, timeout_seconds: float | None = None) -> None:
    """Calls FN until it returns true. It is given whether this is the last call."""
    limit = timeout if timeout_seconds is None else timeout_seconds
    begin = time.monotonic()
    pause = FIRST_PAUSE
    while time.monotonic() - begin < limit:
        if fn(False):
            return
        time.sleep(pause)
        pause = min(pause * 1.3, LONGEST_PAUSE)
    if not fn(True):
        raise TimedOut(f"timed out after {time.monotonic() - begin:.1f} s (timeout={limit:g})")


class Machine(ABC):
    """What both lanes share: everything that is done by commands inside the machine."""

    # How long a boot may take.
    boot_timeout = DEFAULT_TIMEOUT
    # Times that scripts give are for machines at full speed; an emulated one gets so many times as much.
    patience = 1.0

    def __init__(self, name: str, log: Log, folder: Path, logs: Path) -> None:
        self.name = name
        self._log = log
        # Sockets, for as long as the machine is there.
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # What the machine writes on its console; its journal is there too.
        self.console = logs / f"{name}.log"
        self._channel: Channel | None = None
        self._connected = False
        # What the last command wrote on standard error.
        self._last_errors = ""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} '{self.name}'>"

    # What a lane does.

    @abstractmethod
    def _launch(self) -> None:
        """Starts the machine; it connects to the channel."""

    @abstractmethod
    def _running(self) -> bool:
        """Whether the machine is on."""

    @abstractmethod
    def _kill(self) -> None:
        """Takes the power away and returns when nothing of the machine runs."""

    @abstractmethod
    def _set_link(self, up: bool) -> None:
        """Plugs the network cable in or out."""

    def release(self) -> None:
        """Ends the machine for good."""
        self._kill()
        self._hang_up()

    # Power.

    def start(self, allow_reboot: bool = False) -> None:
        """Switches the machine on without waiting for it; the next command waits."""
        if self._running():
            return
        self._hang_up()
        self.log("start")
        self._channel = Channel(self.folder / "agent", self._running)
        self._launch()

    def shutdown(self) -> None:
        """Powers off in order and waits until the machine is off."""
        if not self._running():
            return
        with self._step("shutdown"):
            self._leave("poweroff")

    def crash(self) -> None:
        """Takes the power away."""
        if not self._running():
            return
        self.log("crash")
        self._kill()
        self._hang_up()

    def reboot(self) -> None:
        """Goes down in order and starts again; the next command waits for it."""
        with self._step("reboot"):
            self._leave("reboot")
        self.start()

    def block(self) -> None:
        """Pulls the network cable."""
        self.log("network off")
        self._set_link(False)

    def unblock(self) -> None:
        """Plugs the network cable in again."""
        self.log("network on")
        self._set_link(True)

    def _leave(self, how: str) -> None:
        self.connect()
        assert self._channel is not None
        try:
            status, _, errors = self._channel.run(f"systemctl --no-block {how}", DEFAULT_TIMEOUT, GRACE)
        except Gone:
            # It may be faster than its answer.
            status, errors = 0, ""
        if status != 0:
            raise StepFailed(f"{self.name}: systemctl {how} failed (exit code {status}): {errors.strip()}")
        deadline = time.monotonic() + self.boot_timeout
        while self._running():
            if time.monotonic() > deadline:
                raise StepFailed(f"{self.name} is not off after {self.boot_timeout:g} s")
            time.sleep(0.02)
        self._kill()
        self._hang_up()

    def _hang_up(self) -> None:
        self._connected = False
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    # Commands.

    def connect(self) -> None:
        """Waits until the machine takes commands, and starts it where it is off."""
        if self._connected and self._running():
            return
        self.start()
        assert self._channel is not None
        begin = time.monotonic()
        try:
            self._channel.wait_for_hello(self.boot_timeout)
        except Gone as error:
            raise DriverError(f"{self.name} did not boot: {error}") from error
        self._connected = True
        self.log(f"up ({time.monotonic() - begin:.2f} s)")

    def _run(self, command: str, timeout: float | None) -> tuple[int, str]:
        """Status and standard output; what it wrote on standard error goes to the log when it failed."""
        self.connect()
        assert self._channel is not None
        limit = DEFAULT_TIMEOUT if timeout is None else timeout * self.patience
        try:
            status, output, errors = self._channel.run(command, limit, GRACE)
        except Gone as error:
            self._connected = False
            raise DriverError(f"{self.name}: {error}, at: {command}") from error
        self._last_errors = errors
        return status, output

    def execute(
        self, command: str, check_return: bool = True, check_output: bool = True, timeout: float | None = DEFAULT_TIMEOUT
    ) -> tuple[int, str]:
        """Status and standard output of a command, whatever they are. 124 is the status when time was up."""
        del check_return, check_output
        return self._run(command, timeout)

    def succeed(self, *commands: str, timeout: float | None = None) -> str:
        """What the commands print; fails when one of them does."""
        output = ""
        for command in commands:
            with self._step(f"must succeed: {command}"):
                status, out = self._run(command, timeout)
                if status != 0:
                    self._tell(out)
                    raise StepFailed(f"{self.name}: command `{command}` failed (exit code {status})")
                output += out
        return output

    def fail(self, *commands: str, timeout: float | None = None) -> str:
        """What the commands print; fails when one of them does not."""
        output = ""
        for command in commands:
            with self._step(f"must fail: {command}"):
                status, out = self._run(command, timeout)
                if status == 0:
                    self._tell(out)
                    raise StepFailed(f"{self.name}: command `{command}` unexpectedly succeeded")
                output += out
        return output

    def wait_until_succeeds(self, command: str, timeout: float = DEFAULT_TIMEOUT) -> str:
        """Repeats a command until it succeeds."""
        return self._until(command, timeout, "success", lambda status: status == 0)

    def wait_until_fails(self, command: str, timeout: float = DEFAULT_TIMEOUT) -> str:
        """Repeats a command until it fails."""
        return self._until(command, timeout, "failure", lambda status: status != 0)

    def _until(self, command: str, timeout: float, what: str, good: Callable[[int], bool]) -> str:
        output = ""

        def check(last: bool) -> bool:
            nonlocal output
            status, output = self._run(command, timeout)
            if last and not good(status):
                self._tell(output)
            return good(status)

        with self._step(f"waiting for {what}: {command}"):
            self._wait(check, timeout, f"`{command}`")
        return output

    def sleep(self, secs: float) -> None:
        """Waits, by the machine's clock."""
        self.succeed(f"sleep {secs}")

    # Units, ports, files.

    def systemctl(self, q: str) -> tuple[int, str]:
        """Status and output of `systemctl Q`."""
        return self.execute(f"systemctl {q}")

    def get_unit_property(self, unit: str, property: str) -> str:
        """The value of a unit's property."""
        status, output = self.systemctl(f"--no-pager show {shlex.quote(unit)} --property={shlex.quote(property)} --value")
        if status != 0:
            raise StepFailed(f"{self.name}: failed to ask for {property} of {unit} (exit code {status})")
        return output.strip()

    def get_unit_info(self, unit: str) -> dict[str, str]:
        """All properties of a unit."""
        output = self.succeed(f"systemctl --no-pager show {shlex.quote(unit)}")
        return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)

    def require_unit_state(self, unit: str, require_state: str = "active") -> None:
        """Fails unless the unit is in this state."""
        state = self.get_unit_property(unit, "ActiveState")
        if state != require_state:
            raise StepFailed(f"{self.name}: unit {unit} is {state}, not {require_state}")

    def start_job(self, jobname: str) -> tuple[int, str]:
        """Starts a unit."""
        return self.systemctl(f"start {jobname}")

    def stop_job(self, jobname: str) -> tuple[int, str]:
        """Stops a unit."""
        return self.systemctl(f"stop {jobname}")

    def wait_for_unit(self, unit: str, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Until the unit is active; fails at once when it failed, or is inactive and nothing is about to start it."""

        def check(_last: bool) -> bool:
            state = self.get_unit_property(unit, "ActiveState")
            if state == "failed":
                self._tell(self.execute(f"systemctl --no-pager --full status {shlex.quote(unit)}")[1])
                raise StepFailed(f"{self.name}: unit {unit} failed")
            if state == "inactive":
                _, jobs = self.systemctl("list-jobs --full 2>&1")
                if "No jobs" in jobs and self.get_unit_property(unit, "ActiveState") == state:
                    raise StepFailed(f"{self.name}: unit {unit} is inactive and there are no pending jobs")
            return state == "active"

        with self._step(f"waiting for unit {unit}"):
            self._wait(check, timeout, f"unit {unit}")

    def wait_for_file(self, filename: str, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Until the file exists."""
        self._wait_for(f"file {filename}", f"test -e {filename}", True, timeout)

    def wait_for_open_port(self, port: int, addr: str = "localhost", timeout: float = DEFAULT_TIMEOUT) -> None:
        """Until something listens there."""
        self._wait_for(f"TCP port {port} on {addr}", port_open(port, addr), True, timeout)

    def wait_for_closed_port(self, port: int, addr: str = "localhost", timeout: float = DEFAULT_TIMEOUT) -> None:
        """Until nothing listens there."""
        self._wait_for(f"TCP port {port} on {addr} to be closed", port_open(port, addr), False, timeout)

    def wait_for_open_unix_socket(self, addr: str, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Until something listens on this Unix socket."""
        connect = f"import socket; socket.socket(socket.AF_UNIX).connect({addr!r})"
        self._wait_for(f"Unix socket {addr}", f"python3 -c {shlex.quote(connect)}", True, timeout)

    def _wait_for(self, what: str, command: str, success: bool, timeout: float) -> None:
        with self._step(f"waiting for {what}"):
            self._wait(lambda _last: (self._run(command, timeout)[0] == 0) == success, timeout, what)

    def _wait(self, check: Callable[[bool], bool], timeout: float, what: str) -> None:
        try:
            retry(check, timeout * self.patience)
        except TimedOut as error:
            raise StepFailed(f"{self.name}: {what}: {error}") from None

    def copy_from_host(self, source: str, target: str) -> None:
        """Copies a file or folder into the machine, as `cp -r` would."""
        name = Path(source).name
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w", dereference=True) as tar:
            tar.add(source, arcname=name, filter=owned_by_root)
        with self._step(f"copy {source} to {target}"):
            self.connect()
            assert self._channel is not None
            folder = self._checked("mktemp -d").strip()
            self._channel.upload(archive.getvalue(), f"{folder}/tar", DEFAULT_TIMEOUT)
            inside, quoted = shlex.quote(f"{folder}/{name}"), shlex.quote(target)
            self._checked(f"tar -C {folder} -xf {folder}/tar; mkdir -p \"$(dirname {quoted})\"; cp -r {inside} {quoted}; rm -r {folder}")

    def _checked(self, command: str) -> str:
        status, output = self._run(command, None)
        if status != 0:
            self._tell(output)
            raise StepFailed(f"{self.name}: command `{command}` failed (exit code {status})")
        return output

    # The log.

    def settle_console(self) -> None:
        """Waits a moment for what the journal has to be on the console."""
        mark = f"the driver reads the journal, {time.monotonic_ns()}"
        try:
            if not self._connected or not self._running():
                return
            self._run(f"echo {mark} | systemd-cat --identifier=vm-agent; journalctl --sync", SETTLE)
            retry(lambda _last: mark.encode() in self.console.read_bytes()[-CONSOLE_TAIL:], SETTLE)
        except (DriverError, StepFailed, OSError):
            # It is in no state to do that; what there is has to do.
            return

    def log(self, msg: str) -> None:
        """Writes a line about this machine."""
        self._log.line(f"{self.name}: {msg}")

    def _step(self, text: str) -> AbstractContextManager[None]:
        return self._log.step(f"{self.name}: {text}")

    def _tell(self, output: str) -> None:
        """What a command printed that did not do what it should."""
        for what, text in ("output", output), ("stderr", self._last_errors):
            if text.strip():
                if len(text) > OUTPUT_CHARS:
                    text = f"[… {len(text) - OUTPUT_CHARS} characters before]\n{text[-OUTPUT_CHARS:]}"
                self._log.line(f"{what}: {text.rstrip()}")


def port_open(port: int, addr: str) -> str:
    """A command that succeeds when something listens there."""
    return f"timeout 5 bash -c {shlex.quote(f': </dev/tcp/{addr}/{port}')}"


def owned_by_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    return info
