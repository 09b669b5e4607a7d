"""What is written is what Nix and nixci read."""

import tomllib
import unittest

from driver import nix


class Toml(unittest.TestCase):
    def test_every_kind_of_value_comes_back(self) -> None:
        table = {
            "state_dir": "/var/lib/nixci",
            "listen": {"socket": "/run/nixci/socket", "http": "off", "nested": {"deep": 1}},
            "store": [{"name": "here", "slots": 2, "systems": ["a", "b"]}, {"name": "a \"quoted\" \n\t\\ name\x7f", "ratio": 0.5}],
            "flags": [True, False],
            "empty": [],
            "mixed": [{"in": "line"}, 1],
            "odd key.": {"with space": "é"},
        }
        self.assertEqual(tomllib.loads(nix.toml(table)), table)

    def test_keys_come_before_tables(self) -> None:
        self.assertEqual(tomllib.loads(nix.toml({"a": {"b": 1}, "c": 2})), {"a": {"b": 1}, "c": 2})


class Conf(unittest.TestCase):
    def test_values_are_written_as_nix_reads_them(self) -> None:
        settings = {"sandbox": True, "max-jobs": 3, "substituters": [], "trusted-users": ["root", "alice"], "key": "x\n"}
        self.assertEqual(
            nix.nix_conf(settings), "sandbox = true\nmax-jobs = 3\nsubstituters = \ntrusted-users = root alice\nkey = x\n"
        )
