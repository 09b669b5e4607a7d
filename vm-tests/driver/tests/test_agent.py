"""The driver's end and the machine's end of the line, without a machine between them."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from driver import agent
from driver.channel import Channel, Gone


class Commands(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.agent: subprocess.Popen[bytes] | None = None
        self.channel = Channel(self.folder / "agent", lambda: self.agent is not None and self.agent.poll() is None)
        self.addCleanup(self.channel.close)
        self.start()

    def start(self) -> None:
        self.agent = subprocess.Popen([sys.executable, agent.__file__, f"unix:{self.folder / 'agent'}"])
        self.addCleanup(self.agent.wait)
        self.addCleanup(self.agent.kill)
        self.channel.wait_for_hello(30)

    def run_command(self, command: str, timeout: float = 30) -> tuple[int, str, str]:
        return self.channel.run(command, timeout, 30)

    def test_status_output_and_errors_are_told_apart(self) -> None:
        self.assertEqual(self.run_command("echo out; echo err >&2; exit 3"), (3, "out\n", "err\n"))

    def test_a_pipe_fails_with_any_part_and_a_variable_must_be_there(self) -> None:
        self.assertEqual(self.run_command("false | true")[0], 1)
        self.assertNotEqual(self.run_command("echo $not_there")[0], 0)
        self.assertEqual(self.run_command("kill -9 $$")[0], 128 + 9)

    def test_time_that_is_up_ends_the_command_and_not_the_line(self) -> None:
        status, output, _ = self.run_command("echo begun; sleep 60", timeout=0.5)
        self.assertEqual((status, output), (124, "begun\n"))
        self.assertEqual(self.run_command("echo next")[1], "next\n")

    def test_a_process_that_is_left_behind_is_not_waited_for(self) -> None:
        self.assertEqual(self.run_command("sleep 60 >&2 & echo $!; true", timeout=10)[0], 0)

    def test_large_output_and_uploads_arrive_whole(self) -> None:
        data = bytes(range(256)) * 4096
        self.channel.upload(data, str(self.folder / "copy"), 30)
        self.assertEqual((self.folder / "copy").read_bytes(), data)
        self.assertEqual(len(self.run_command("head -c 3000000 /dev/zero | tr '\\0' x")[1]), 3_000_000)

    def test_a_machine_that_dies_is_an_error_and_the_next_one_is_heard(self) -> None:
        assert self.agent is not None
        with self.assertRaises(Gone):
            self.run_command(f"kill -9 {self.agent.pid}; sleep 5")
        self.start()
        self.assertEqual(self.run_command("echo again")[1], "again\n")
