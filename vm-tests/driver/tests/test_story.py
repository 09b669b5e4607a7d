"""What is wrong with a story is said before a machine starts."""

import io
import tempfile
import unittest
from pathlib import Path
from typing import Any

from driver import script, story
from driver.errors import DriverError
from driver.log import Log
from driver.provision import Root


def parsed(machines: dict[str, Any], source: Path = Path("/none")) -> story.Story:
    return story.parse("some", {"description": "", "script": str(source), "machines": machines})


class Data(unittest.TestCase):
    def test_machines_are_numbered_by_name(self) -> None:
        told = parsed({"b": {}, "a": {"files": {"/x": {"text": "t", "mode": "0600"}}}})
        self.assertEqual([(each.name, each.address) for each in told.machines], [("a", "192.168.1.1"), ("b", "192.168.1.2")])
        self.assertEqual(told.machines[0].files["/x"].mode, 0o600)

    def test_what_is_not_known_is_refused(self) -> None:
        with self.assertRaisesRegex(DriverError, "machine a has `deamon`"):
            parsed({"a": {"deamon": {}}})


class Files(unittest.TestCase):
    def test_a_link_does_not_lead_out_of_the_machine(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "var").mkdir()
            (Path(folder) / "var" / "run").symlink_to("/run")
            with self.assertRaisesRegex(DriverError, "leads out"):
                Root(Path(folder)).write("/var/run/secret", "text")
            Root(Path(folder)).write("/etc/some/file", "text", 0o600)
            self.assertEqual((Path(folder) / "etc/some/file").stat().st_mode & 0o777, 0o600)


class Scripts(unittest.TestCase):
    def run_script(self, source: str) -> tuple[str | None, str]:
        out = io.StringIO()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "some.py"
            file.write_text(source, encoding="utf-8")
            return script.run(parsed({}, file), [], Log(out)), out.getvalue()

    def test_a_failure_names_the_line(self) -> None:
        reason, said = self.run_script("start_all()\nwith subtest('one'):\n    assert 1 == 2, 'not the same'\n")
        self.assertEqual(reason, "some.py:3: assert 1 == 2, 'not the same': AssertionError: not the same")
        self.assertIn("subtest: one", said)

    def test_a_mistake_in_the_script_is_a_failure_too(self) -> None:
        self.assertIn("NameError", self.run_script("machine.succeed('true')\n")[0] or "")
        self.assertIn("SyntaxError", self.run_script("if\n")[0] or "")

    def test_a_script_that_holds_has_no_reason(self) -> None:
        self.assertIsNone(self.run_script("retry(lambda last: True)\n")[0])

    def test_waiting_ends(self) -> None:
        self.assertIn("timed out", self.run_script("retry(lambda last: False, timeout=0.2)\n")[0] or "")

    def test_journals_are_shown_without_escapes_and_sessions(self) -> None:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("\x1b[0;1;39mone\x1b[0m\r\nsu[3]: (to alice) root on none\n\n[   1.5] systemd[1]: session-1.scope: Deactivated\ntwo\n")
            file.flush()
            self.assertEqual(script.tail(Path(file.name), 5), ["one", "two"])
