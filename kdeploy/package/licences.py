"""The licence texts that travel with a bundle: of the model, the data and the runner."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from kdeploy.errors import FileMissing, InputError
from kdeploy.package.manifest import Licence

LICENSES = "LICENSES"
RUNNER_TEXT = Path(__file__).parent / "runner" / "Apache-2.0.txt"
THIRD_PARTY = """\
# Third-party software

The runner imports these libraries. They are not in this bundle: you install them on the device,
under their own licences.

| library | licence | needed for |
|---|---|---|
{libraries}
| numpy | BSD-3-Clause, Copyright (c) NumPy Developers | arrays |
| Pillow | MIT-CMU, Copyright (c) Fredrik Lundh, Jeffrey A. Clark and contributors | image files |
{native}"""
NATIVE = """\
| libpng | libpng-2.0, Copyright (c) The PNG Reference Library Authors | PNG files, in C++ |
| libjpeg | IJG, of libjpeg-turbo BSD-3-Clause too | JPEG files, in C++ |
"""
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SPDX = re.compile(r"[A-Za-z0-9.+-]+")


def check_licences(licences: Mapping[str, str | Path]) -> None:
    """Refuse what cannot be written, before anything is.

    Raises:
        InputError: a part's name is no file name, or a licence says nothing.
        FileMissing: a licence file is not there.
    """
    for part, text in licences.items():
        if not _PART.fullmatch(part) or part == "runner":
            raise InputError(
                f"`{part}` cannot name a part that a licence is for",
                hint="use letters and digits, e.g. `model`, `data`; `runner` is taken",
            )
        if isinstance(text, Path) and not text.is_file():
            raise FileMissing(f"there is no licence file {text}", hint=f"the licence of `{part}`")
        if isinstance(text, str) and not text.strip():
            raise InputError(
                f"the licence of `{part}` is empty",
                hint="give an SPDX identifier such as `MIT`, the text, or a file's path",
            )


def write_licences(
    folder: Path,
    licences: Mapping[str, str | Path],
    libraries: Mapping[str, str],
    *,
    has_native: bool = False,
) -> tuple[Licence, ...]:
    """Write `LICENSES/`, of the libraries too; return one entry a part, the runner's last."""
    target = folder / LICENSES
    target.mkdir()
    entries = []
    for part, given in licences.items():
        name = f"{part}.txt"
        text = given.read_text(errors="replace") if isinstance(given, Path) else given.strip()
        (target / name).write_text(_written(part, text))
        first_line = text.strip().splitlines()[0].strip() if text.strip() else ""
        entries.append(Licence(part=part, identifier=first_line, file=f"{LICENSES}/{name}"))
    shutil.copyfile(RUNNER_TEXT, target / "runner.txt")
    rows = (f"| {name} | {text} | running the model |" for name, text in libraries.items())
    native = NATIVE if has_native else ""
    text = THIRD_PARTY.format(libraries="\n".join(rows), native=native)
    (target / "THIRD_PARTY.md").write_text(text)
    runner = Licence(part="runner", identifier="Apache-2.0", file=f"{LICENSES}/runner.txt")
    return (*entries, runner)


def _written(part: str, text: str) -> str:
    if _SPDX.fullmatch(text):
        return (
            f"The licence of the {part} of this bundle is {text} (an SPDX identifier).\n"
            f"Its text: https://spdx.org/licenses/{text}.html\n"
        )
    return text.rstrip("\n") + "\n"
