"""What a device installs for a bundle's runner: the versions that made it, with their digests.

`pip install -r requirements.txt` then takes those very wheels, or nothing: pip compares each with
its SHA-256, and takes none that is not listed. The digests are those of a table that comes with
kdeploy, so that no network is asked; `make digests` writes it for the versions that are installed.
Of a version that is not in it the package index is asked where the user says so, else the file
pins versions alone, and says that. A digest in one line would demand one of every line.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kdeploy.package.package_index import digests_of

NAME = "requirements.txt"
TABLE = Path(__file__).with_name("wheel_digests.json")
Digests = Mapping[str, Sequence[str]]
"""SHA-256 of the wheels of a distribution, by `name==version`."""
WHEELS = "CPython 3.11 to 3.14 on Linux, x86-64 and 64-bit ARM"
WITH_DIGESTS = f"""\
# The versions that this bundle was made and tested with: pip install -r {NAME}
# pip takes the wheels of these digests alone. They are those for {WHEELS};
# elsewhere install the versions without digests: the self-test of the runner is the proof.
"""
WITHOUT_DIGESTS = f"""\
# The versions that this bundle was made and tested with: pip install -r {NAME}
# Without digests: the kdeploy that made it knows none of {{unknown}}.
# `kdeploy package --ask-index` asks the package index for them.
"""


def requirements(libraries: Iterable[str], *, asks_index: bool = False) -> str:
    """Return the file for what a runner imports beside numpy.

    Args:
        libraries: As they are imported.
        asks_index: Whether the package index is asked for digests that the table lacks.

    Raises:
        Unavailable: the index is asked, and does not answer.
    """
    first = [_canonical(name) for name in ("numpy", *libraries)]
    pins = pins_of(first)
    known = {**table()}
    missing = [pin for pin in pins if pin not in known]
    if missing and asks_index:
        known.update(digests_of(missing))
    unknown = [pin for pin in pins if not known.get(pin)]
    if unknown:
        told = ", ".join(unknown[:3]) + (f" and {len(unknown) - 3} others" if unknown[3:] else "")
        lines = [pin for pin in pins if pin.partition("==")[0] in first]
        return WITHOUT_DIGESTS.format(unknown=told) + "".join(f"{line}\n" for line in lines)
    return WITH_DIGESTS + "".join(_line(pin, known[pin]) for pin in pins)


def pins_of(names: Iterable[str]) -> list[str]:
    """Return `name==version` of installed distributions and of all that they need, sorted.

    What one needs and is not installed here is left out: the runner was tested without it.
    """
    found: dict[str, str] = {}
    left = [_canonical(name) for name in names]
    while left:
        name = left.pop()
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        left += _needed(name)
    return [f"{name}=={found[name]}" for name in sorted(found)]


def table() -> Digests:
    """Return the digests that come with kdeploy."""
    known: dict[str, list[str]] = json.loads(TABLE.read_text())
    return known


def _needed(name: str) -> list[str]:
    """Return what a distribution needs here, without its extras."""
    from packaging.requirements import Requirement

    told = [Requirement(text) for text in importlib.metadata.requires(name) or ()]
    return [
        _canonical(one.name)
        for one in told
        if one.marker is None or one.marker.evaluate({"extra": ""})
    ]


def _canonical(name: str) -> str:
    """Return a name as indexes spell it, PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _line(pin: str, digests: Sequence[str]) -> str:
    return (
        " \\\n    ".join([pin, *(f"--hash=sha256:{digest}" for digest in sorted(digests))]) + "\n"
    )
