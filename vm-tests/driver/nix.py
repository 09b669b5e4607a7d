"""How settings are written for Nix and for nixci."""

from __future__ import annotations

import json
import re
from typing import Any, Mapping

from .errors import DriverError

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def nix_conf(settings: Mapping[str, Any]) -> str:
    """The settings as `nix.conf` has them."""
    return "".join(f"{name} = {nix_value(value)}\n" for name, value in settings.items())


def nix_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return " ".join(nix_value(each) for each in value)
    return str(value).strip()


def toml(table: Mapping[str, Any]) -> str:
    """The attribute set as a TOML document."""
    return "\n".join(toml_lines(table, ()))+ "\n"


def toml_lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"{toml_key(name)} = {toml_value(value)}" for name, value in table.items() if not is_section(value)]
    for name, value in table.items():
        inner = (*path, name)
        title = ".".join(toml_key(part) for part in inner)
        if isinstance(value, Mapping):
            lines += ["", f"[{title}]", *toml_lines(value, inner)]
        elif is_section(value):
            for entry in value:
                lines += ["", f"[[{title}]]", *toml_lines(entry, inner)]
    return lines


def is_section(value: Any) -> bool:
    """A table, or a list of nothing but tables."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(entry, Mapping) for entry in value)
    return isinstance(value, Mapping)


def toml_key(name: str) -> str:
    return name if BARE_KEY.fullmatch(name) else json.dumps(name)


def toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        # A string of JSON is one of TOML, but for the one control character that JSON leaves as it is.
        return json.dumps(value).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(each) for each in value) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{toml_key(name)} = {toml_value(each)}" for name, each in value.items()) + " }"
    raise DriverError(f"TOML has no way to write {value!r}")
