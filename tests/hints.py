"""Which hints tests have seen: every error with a hint is provoked once, or listed with a reason.

`make test` records each error that is raised in the test processes (`KDEPLOY_HINTS` names the
file), then runs this file, which tells the hints that no test has seen and that `hints_unseen.txt`
does not list. `make hints` prints what was seen, message and hint, for reading.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from kdeploy import errors

PACKAGE = Path(errors.__file__).parent
UNSEEN = Path(__file__).parent / "hints_unseen.txt"


def record(log: Path) -> None:
    """Append a line for each error with a hint that this process makes from now on."""
    plain = errors.KdeployError.__init__
    known: set[str] = set()

    def init(self, message: str, *, hint: str | None = None) -> None:
        plain(self, message, hint=hint)
        if hint and (site := _site(sys._getframe(1))) is not None:
            line = json.dumps({"site": site, "message": message, "hint": hint})
            if line not in known:
                known.add(line)
                with log.open("a") as file:
                    file.write(line + "\n")

    errors.KdeployError.__init__ = init


def sites() -> set[str]:
    """Return all places in the package that give a hint: file, and the hint as it is written."""
    return {_name(path, call) for path in PACKAGE.rglob("*.py") for _, _, call in _calls(path)}


@cache
def _calls(path: Path) -> list[tuple[int, int, ast.keyword]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            hints = [k for k in node.keywords if k.arg == "hint"]
            # A hint that is handed on is written elsewhere.
            if hints and not isinstance(hints[0].value, ast.Name | ast.Attribute):
                found.append((node.lineno, node.end_lineno or node.lineno, hints[0]))
    return found


def _name(path: Path, hint: ast.keyword) -> str:
    return f"{path.relative_to(PACKAGE)}: {ast.unparse(hint.value)}"


def _site(frame) -> str | None:
    """Return the place whose call is running in the innermost frame that has one."""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            inside = [c for c in _calls(path) if c[0] <= frame.f_lineno <= c[1]]
            if inside:
                return _name(path, min(inside, key=lambda call: call[1] - call[0])[2])
        frame = frame.f_back
    return None


def _listed() -> dict[str, str]:
    """Return the places that tests need not see, with the reason."""
    found, reason = {}, ""
    for line in UNSEEN.read_text().splitlines():
        if line.startswith("# "):
            reason = line.removeprefix("# ")
        elif line:
            found[line] = reason
    return found


def _faults(seen: set[str]) -> Iterator[str]:
    listed, written = _listed(), sites()
    for site in sorted(written - seen - set(listed)):
        yield f"no test has seen the hint of {site}"
    for site in sorted(set(listed) - written):
        yield f"hints_unseen.txt lists what is not there any more: {site}"


def main() -> int:
    """Check the record, or print it."""
    lines = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    if "--table" in sys.argv:
        first = {}
        for line in lines:
            first.setdefault(line["site"], line)
        for site, line in sorted(first.items()):
            print(f"{site}\n  {line['message']}\n  hint: {line['hint']}\n")
        return 0
    faults = list(_faults({line["site"] for line in lines}))
    print(*faults, sep="\n")
    print(f"{len(sites())} hints, {len(_listed())} of them listed, {len(faults)} faults")
    return 1 if faults else 0


if log := os.environ.get("KDEPLOY_HINTS"):
    record(Path(log))

if __name__ == "__main__":
    sys.exit(main())
