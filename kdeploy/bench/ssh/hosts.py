"""How a device is named: `user@device`, with `:python=...,folder=...` where its defaults fail."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kdeploy.errors import InputError, UnknownName

KEYS = ("python", "folder")
_OPTIONS = re.compile(r"(?P<name>.*?):(?P<options>\w+=.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine that ssh can reach; `name` is whatever ssh understands."""

    name: str
    python: str = "python3"
    """The program that runs there; relative paths start at the user's home."""
    folder: str = ""
    """Where the temporary folder is made; "" for the device's own place."""

    @property
    def slug(self) -> str:
        """The name as that of a folder."""
        return re.sub(r"[^\w.@-]+", "-", self.name).lstrip(".") or "host"


def parse_host(text: str) -> Host:
    """Return the host that `--host` names.

    Raises:
        InputError: no name, or one that ssh would take for an option; an option without a value.
        UnknownName: an option that does not exist.
    """
    match = _OPTIONS.fullmatch(text)
    name = match["name"] if match else text
    if not name or name.startswith("-") or any(c.isspace() for c in name):
        raise InputError(
            f"`--host {text}` names no machine", hint="write `user@device`, as for ssh"
        )
    pairs = [pair.partition("=") for pair in match["options"].split(",")] if match else []
    options = {key: value.removeprefix("~/") for key, _, value in pairs}
    for key, value in options.items():
        if key not in KEYS:
            raise UnknownName.among("option", key, KEYS, where=f"`--host {text}`")
        if not value:
            raise InputError(
                f"`--host {text}`: the option `{key}` has no value",
                hint=f"write `{name}:{key}=...`",
            )
    return Host(name=name, **options)
