"""The driver's end of the line to the agent inside a machine."""

from __future__ import annotations

import base64
import json
import select
import socket
import time
from pathlib import Path
from typing import Any, Callable

from .errors import DriverError

CHUNK = 192 * 1024
# How often it is looked whether the machine still lives.
TICK = 0.05


class Gone(DriverError):
    """The machine went away while it was asked."""


class Channel:
    """Listens where the agent, or the machine's serial port, connects to."""

    def __init__(self, path: Path, alive: Callable[[], bool]) -> None:
        self._path = path
        self._alive = alive
        self._peer: socket.socket | None = None
        self._waiting = b""
        self._last = 0
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(1)

    def close(self) -> None:
        """Hangs up."""
        self._listener.close()
        if self._peer is not None:
            self._peer.close()
            self._peer = None
        self._path.unlink(missing_ok=True)

    def wait_for_hello(self, timeout: float) -> None:
        """Until the agent has started."""
        deadline = time.monotonic() + timeout
        while self._message(deadline).get("hello") is None:
            pass

    def run(self, command: str, timeout: float, grace: float) -> tuple[int, str, str]:
        """Status, standard output and the end of standard error."""
        return self._ask({"run": command, "timeout": timeout}, timeout + grace)

    def upload(self, data: bytes, target: str, timeout: float) -> None:
        """Adds DATA to the end of the file TARGET."""
        for at in range(0, len(data), CHUNK):
            piece = base64.b64encode(data[at : at + CHUNK]).decode("ascii")
            status, _, errors = self._ask({"append": target, "data": piece}, timeout)
            if status != 0:
                raise DriverError(f"failed to write {target}: {errors.strip()}")

    def _ask(self, request: dict[str, Any], timeout: float) -> tuple[int, str, str]:
        self._last += 1
        request["id"] = self._last
        deadline = time.monotonic() + timeout
        self._send(json.dumps(request).encode("ascii") + b"\n")
        while True:
            message = self._message(deadline)
            if "hello" in message:
                raise Gone("the machine started anew while it ran a command")
            if message.get("id") == self._last:
                return message["status"], decode(message["stdout"]), decode(message["stderr"])

    def _send(self, data: bytes) -> None:
        if self._peer is None:
            raise Gone("the machine is not connected")
        try:
            self._peer.sendall(data)
        except OSError as error:
            raise Gone(f"the machine does not listen: {error}") from error

    def _message(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._waiting:
            self._receive(deadline)
        line, self._waiting = self._waiting.split(b"\n", 1)
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        # What is no message was cut off when a machine died.
        return message if isinstance(message, dict) else {}

    def _receive(self, deadline: float) -> None:
        source = self._peer or self._listener
        while not select.select([source], [], [], TICK)[0]:
            if time.monotonic() >= deadline:
                raise Gone("the machine does not answer")
            if not self._alive():
                raise Gone("the machine has gone off")
        if self._peer is None:
            self._peer, _ = self._listener.accept()
            self._waiting = b""
            return
        try:
            data = self._peer.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            self._peer.close()
            self._peer = None
            raise Gone("the machine hung up")
        self._waiting += data


def decode(data: str) -> str:
    return base64.b64decode(data).decode("utf-8", errors="replace")
