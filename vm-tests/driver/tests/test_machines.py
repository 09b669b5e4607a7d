"""The driver with real machines, in the fast lane: what scripts are promised, what is told of a failure, and that nothing
stays behind. Needs root and what .ci/setup makes."""

import os
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

from driver import cgroup

HERE = Path(__file__).resolve().parent
RUN = HERE.parent.parent / "run"
LIMIT = 600


def start(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(RUN), "--stories", str(HERE), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "VM": "nspawn"},
    )


class Machines(unittest.TestCase):
    def assert_nothing_stays(self, pid: int) -> None:
        for kind, tree in cgroup.mounts():
            self.assertEqual(list(tree.glob(f"**/{cgroup.PREFIX}{pid}")), [], kind)
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
        self.assertNotIn("/run/machines", mounts)
        left = [file.parent.name for file in Path("/proc").glob("[0-9]*/cmdline") if f"--inside\0{pid}\0".encode() in read(file)]
        self.assertEqual(left, [])

    def test_two_machines(self) -> None:
        process = start("pair")
        output, _ = process.communicate(timeout=LIMIT)
        self.assertEqual(process.returncode, 0, output)
        self.assertIn("ok      pair (nspawn)", output)
        self.assert_nothing_stays(process.pid)

    def test_a_story_that_fails_says_all_it_knows(self) -> None:
        process = start("broken")
        output, _ = process.communicate(timeout=LIMIT)
        self.assertEqual(process.returncode, 1, output)
        for part in (
            "output: said",
            "stderr: complained",
            "broken.py:4: left.succeed(",
            "failed (exit code 3)",
            "written by left",
            "written by right",
            "FAILED  broken (nspawn)",
        ):
            self.assertIn(part, output)
        self.assert_nothing_stays(process.pid)

    def test_a_driver_that_is_killed_takes_everything_along(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            process = start("pair")
            assert process.stdout is not None
            for line in process.stdout:
                if "up (" in line:
                    break
            process.send_signal(number)
            process.wait(timeout=LIMIT)
            process.stdout.close()
            self.assertNotEqual(process.returncode, 0)
            if number == signal.SIGKILL:
                # Its processes end with it. What else is left, which none of them can remove, goes with the next run.
                deadline = time.monotonic() + 30
                while cgroup.Group(cgroup.unified() / f"{cgroup.PREFIX}{process.pid}").processes():
                    self.assertLess(time.monotonic(), deadline)
                cgroup.remove_stale()
            self.assert_nothing_stays(process.pid)


def read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        # It has ended meanwhile.
        return b""
