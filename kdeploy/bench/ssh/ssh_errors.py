"""Why a device does not measure: what ssh and the runner said, as errors with the way out."""

from __future__ import annotations

import re
from typing import Any

from kdeploy.bench.ssh.hosts import Host
from kdeploy.errors import Unavailable

# What ssh itself ends with; any other code is that of the command on the device.
SSH_FAILED = 255
NOT_EXECUTABLE, NOT_FOUND = 126, 127  # of a shell, POSIX 2.8.2
NO_SUCH_FILE = 2  # of Python: the runner lay in a temporary folder, which is gone
KILLED = 128
# Of ssh's own words, the part that tells the cause; what is not here may pass by itself.
_LASTING = {
    r"REMOTE HOST IDENTIFICATION HAS CHANGED": (
        "its host key is not the one that is known",
        "if the device was set up anew: `ssh-keygen -R {address}`, then `ssh {name}` by hand",
    ),
    r"Host key verification failed|No .* host key is known": (
        "its host key is not known here",
        "connect once by hand, `ssh {name}`, and compare the fingerprint that it shows",
    ),
    r"Permission denied": (
        "permission denied",
        "`ssh {name}` must work without a password: `ssh-copy-id {name}`; a key with a passphrase "
        "needs ssh-agent",
    ),
    r"Bad owner or permissions|Bad configuration option|Can't open user config": (
        "ssh refuses its configuration: {told}",
        "`ssh {name}` says the same; correct the file that it names",
    ),
}
_ANSWERS = {
    "python": (
        "Python {told} is too old, 3.9 is needed",
        "name a later one: `--host {name}:python=PATH`",
    ),
    "folder": (
        "the temporary folder cannot be used: {told}",
        "name another: `--host {name}:folder=PATH`",
    ),
    "full": (
        "the disk is full: {told}",
        "make room, or name another place: `--host {name}:folder=PATH`",
    ),
    "library": (
        "Python there cannot import {told}",
        "`ssh {name} {python} -m pip install numpy onnxruntime`; in a virtual environment: "
        "`--host {name}:python=PATH/bin/python`",
    ),
    "runtime": (
        "it has none of the runtimes that are asked for: {told}",
        "install one there, or ask for another: `--runtime onnxruntime_cpu`",
    ),
    "system": (
        "its system is `{told}`",
        "a device runs Linux: memory and other load are read from /proc",
    ),
    "busy": (
        "it is measuring already: {told}",
        "wait for that, or end it; one that nobody follows ends by itself within 15 minutes",
    ),
}


class Unreachable(Unavailable):
    """A connection that failed, or a device that went away: it may be there again in a moment."""


class Died(Unreachable):
    """The process that measured has ended without a word of its own."""


def of_ssh(code: int, said: str, host: Host) -> Unavailable:
    """Return the error for a command that gave no answer."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    told = lines[-1][:300] if lines else "without a word"
    if code == SSH_FAILED:
        for pattern, (what, hint) in _LASTING.items():
            if re.search(pattern, said):
                return Unavailable(**_error(host, what, hint, told))
        if "Could not resolve hostname" in said:
            what = "there is no machine of that name"
            hint = "write it as for ssh: a host of ~/.ssh/config, or `user@address`"
            return Unreachable(**_error(host, what, hint, ""))  # or no name server for a moment
        hint = "is it switched on, and reached by `ssh {name}`?"
        return Unreachable(**_error(host, f"the connection failed: {told}", hint, ""))
    if code in (NOT_EXECUTABLE, NOT_FOUND):
        what = "there is no program `{python}`"
        hint = "install Python 3.9 or later there, or name it: `--host {name}:python=PATH`"
        return Unavailable(**_error(host, what, hint, told))
    kind = Unreachable if code == NO_SUCH_FILE or not 0 <= code < KILLED else Unavailable
    return kind(**_error(host, f"the runner ended with exit code {code}: {told}", "", ""))


def of_program(program: str, error: OSError) -> Unavailable:
    """Return the error for an ssh that cannot be started here."""
    return Unavailable(
        f"`{program}` cannot be started: {error.strerror}",
        hint="install OpenSSH's client, e.g. `apt install openssh-client`",
    )


def of_answer(answer: dict[str, Any], host: Host) -> dict[str, Any]:
    """Return the reply in an answer.

    Raises:
        Unavailable: it holds a refusal.
    """
    if "reply" in answer:
        reply: dict[str, Any] = answer["reply"]
        return reply
    told = str(answer["told"])
    if answer["error"] == "died":
        raise Died(**_error(host, f"a process there ended: {told}", "see `ssh {name}`", ""))
    what, hint = _ANSWERS[answer["error"]]
    raise Unavailable(**_error(host, what, hint, told))


def _error(host: Host, what: str, hint: str, told: str) -> dict[str, Any]:
    """Return the arguments of an error; braces in what ssh said stay as they are."""
    facts = {"name": host.name, "python": host.python, "address": host.name.rpartition("@")[2]}

    def filled(text: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda m: {**facts, "told": told}.get(m[1], m[0]), text)

    return {"message": f"`{host.name}`: {filled(what)}", "hint": filled(hint) or None}
