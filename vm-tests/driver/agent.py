"""Runs inside a machine as root and does what the driver asks, one request after the other.

Requests and answers are lines of JSON. In a container they go over a Unix socket that the driver listens on, in a
virtual machine over a virtio port of this name:

    agent.py unix:/path/of/socket
    agent.py port:NAME

The first line after each start says hello, so that the driver knows an earlier machine's answers from this one's.
"""

from __future__ import annotations

import base64
import glob
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import BinaryIO

# Of standard error only the end is told.
STDERR_BYTES = 64 * 1024
KILLED_BY_TIMEOUT = 124


def run(command: str, timeout: float) -> dict[str, object]:
    """The command's status, standard output, and the end of standard error.

    Waits for standard output to be closed, and not for standard error: a command leaves a process behind with
    `process >&2 &`, as on NixOS.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            ["/bin/bash", "-c", f"set -euo pipefail; {command}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd="/tmp",
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=timeout)
            status = process.returncode
            if status < 0:
                status = 128 - status
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            status = KILLED_BY_TIMEOUT
        size = errors.seek(0, os.SEEK_END)
        errors.seek(max(0, size - STDERR_BYTES))
        said = errors.read()
    return {"status": status, "stdout": encode(output), "stderr": encode(said)}


def append(path: str, data: str) -> dict[str, object]:
    """Adds bytes to the end of a file, which is made where it is missing."""
    with open(path, "ab") as file:
        file.write(base64.b64decode(data))
    return {"status": 0, "stdout": "", "stderr": ""}


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def answer(line: bytes) -> dict[str, object]:
    request = json.loads(line)
    try:
        if "run" in request:
            result = run(request["run"], request["timeout"])
        else:
            result = append(request["append"], request["data"])
    except OSError as error:
        result = {"status": 125, "stdout": "", "stderr": encode(f"{error}\n".encode())}
    result["id"] = request["id"]
    return result


def open_port(name: str) -> BinaryIO:
    """The virtio port of this name; there need be no udev that makes links."""
    for entry in glob.glob("/sys/class/virtio-ports/*/name"):
        with open(entry, encoding="utf-8") as file:
            if file.read().strip() == name:
                device = "/dev/" + os.path.basename(os.path.dirname(entry))
                return os.fdopen(os.open(device, os.O_RDWR), "r+b", buffering=0)
    raise OSError(f"there is no virtio port '{name}'")


def open_channel(where: str) -> BinaryIO:
    kind, _, name = where.partition(":")
    if kind == "port":
        return open_port(name)
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    peer.connect(name)
    return os.fdopen(peer.detach(), "r+b", buffering=0)


def send(channel: BinaryIO, message: dict[str, object]) -> None:
    rest = memoryview(json.dumps(message).encode("ascii") + b"\n")
    while rest:
        rest = rest[channel.write(rest) :]


def serve(channel: BinaryIO) -> None:
    """Until the driver is gone."""
    send(channel, {"hello": os.getpid()})
    waiting = b""
    while chunk := channel.read(1 << 20):
        waiting += chunk
        while b"\n" in waiting:
            line, waiting = waiting.split(b"\n", 1)
            send(channel, answer(line))


def main() -> None:
    while True:
        try:
            with open_channel(sys.argv[1]) as channel:
                serve(channel)
        except OSError as error:
            print(f"agent: {error}", file=sys.stderr, flush=True)
        # The driver is not there yet, or was replaced.
        time.sleep(0.1)


if __name__ == "__main__":
    main()
