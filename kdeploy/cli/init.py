"""`kdeploy init`: begin a project."""

from __future__ import annotations

import shutil
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from kdeploy.cli.options import Debug, Json
from kdeploy.cli.result import Result

if TYPE_CHECKING:
    pass

STARTER = Path(__file__).parent.parent / "starter"


def init(
    folder: Annotated[Path, typer.Argument(help="The folder of the new project.")],
    json: Json = False,
    debug: Debug = False,
) -> Result:
    """Begin a project: a model's build.py and a recipe that runs."""
    from kdeploy.cli.output import out as console
    from kdeploy.errors import InputError

    files = sorted(p for p in STARTER.iterdir() if p.is_file())
    taken = [p.name for p in files if (folder / p.name).exists()]
    if taken:
        raise InputError(
            f"{folder} already has {', '.join(taken)}",
            hint="name a new folder; nothing was written",
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        shutil.copyfile(path, folder / path.name)
    console(is_json=json).print(
        f"wrote {', '.join(p.name for p in files)} to {folder}\n"
        f"next: kdeploy run {quote(str(folder / 'recipe.yaml'))} --out {quote(str(folder / 'run'))}"
    )
    return Result({"folder": str(folder), "files": [p.name for p in files]})
