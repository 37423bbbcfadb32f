"""Read a recipe file, with the overrides of `--set`, and write it as resolved."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kdeploy import registry
from kdeploy.data.contract import TaskReference
from kdeploy.data.data_files import absolute
from kdeploy.data.load import DataReference
from kdeploy.errors import FileMissing, RecipeError
from kdeploy.recipe.files import absolute_build
from kdeploy.recipe.resolve import OWN_TRAINING, Recipe, Step, parse
from kdeploy.recipe.sections import ONE_WORD, spelled_out
from kdeploy.untrusted.yaml_document import DEEPEST, yaml_file, yaml_text


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file.

    Raises:
        FileMissing: there is no such file.
        RecipeError: it is not YAML, or a value is of the wrong type.
        UnknownName: a key or technique does not exist.
        OrderError: the steps cannot come in this order.
    """
    return parse(overridden(read_given(path), overrides), folder=path.parent)


def read_given(path: Path) -> dict[str, Any]:
    """Return the keys and values of a recipe file, as written.

    Raises:
        FileMissing: there is no such file.
        RecipeError: it is not YAML, or no keys and values.
    """
    if path.is_dir():
        inside = [file.name for file in sorted(path.glob("*.yaml"))[:3]]
        raise FileMissing(
            f"{path} is a folder, not a recipe",
            hint=f"name the file: `{path / inside[0]}`"
            if inside
            else "it holds no .yaml file; `kdeploy init DIR` writes a first one",
        )
    if not path.is_file():
        raise FileMissing(
            f"there is no recipe {path}", hint="`kdeploy init DIR` writes a first one"
        )
    given = yaml_file(path)
    if not isinstance(given, dict):
        raise RecipeError(
            f"{path}: expected keys and values, found {type(given).__name__}",
            hint="start with `name:`, `data:` and `teacher:`; `kdeploy init DIR` writes an example",
        )
    return given


def to_yaml(recipe: Recipe, *, written_in: Path | None = None) -> str:
    """Return the recipe as resolved: all defaults written out, all files absolute.

    Args:
        recipe: The recipe.
        written_in: The folder that it goes to; files that move with it are found again from there.
    """
    folder = recipe.folder
    data = recipe.data
    resolved: dict[str, Any] = {
        "name": recipe.name,
        **({"seeds": list(recipe.seeds)} if recipe.seeds else {"seed": recipe.seed}),
        "data": section_of(data),
        **({} if data.task == TaskReference() else {"task": _task(data.task, folder)}),
        "teacher": {
            **_absolute(
                {**recipe.given["teacher"], "build": recipe.teacher.reference.build},
                ["build", "weights"],
                folder,
            ),
            **({} if recipe.teacher.is_file else {"train": recipe.teacher.training.training()}),
        },
    }
    if recipe.student is not None and recipe.distill is not None:
        resolved["student"] = _absolute(recipe.given["student"], ["build", "weights"], folder)
        resolved["distill"] = recipe.distill.section()
    resolved["compress"] = [_step(s) for s in recipe.compress]
    resolved["export"] = [_step(s) for s in recipe.export]
    if recipe.dynamic is not None:
        resolved["dynamic"] = recipe.dynamic.section()
    resolved["bench"] = recipe.bench.model_dump()
    resolved["gates"] = [g.text for g in recipe.gates]
    if recipe.budgets is not None:
        emitted = [one.entry for one in recipe.emitted]
        resolved["package"] = {
            "budgets": [g.text for g in recipe.budgets],
            **_folds(recipe),
            **({"emit": emitted} if emitted else {}),
        }
    if written_in is not None:
        resolved["written_in"] = str(written_in.resolve())
    # Through JSON: tuples become lists and paths texts, and YAML has no tags or anchors then.
    plain = json.loads(json.dumps(resolved, default=str))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def section_of(data: DataReference) -> dict[str, Any]:
    """Return the section `data:` of data, all files absolute."""
    return {
        **absolute(data),
        **_held_out(data),
        "augment": list(data.augment),
        "normalize": data.normalize,
    }


def _folds(recipe: Recipe) -> dict[str, bool]:
    """Return the keys of what is folded into the packaged file."""
    if recipe.folding is None:
        return {}
    suppresses = {"fold_suppression": True} if recipe.folding.suppresses else {}
    return {"fold_preprocessing": True, **suppresses}


def _task(task: TaskReference, folder: Path) -> dict[str, Any]:
    return {absolute_build(task.name, folder): dict(task.parameters)}


def _held_out(data: DataReference) -> dict[str, float]:
    if data.parameters.get("validation") is not None:
        return {}  # a part of its own
    return {"validation_fraction": data.validation_fraction}


def _step(step: Step) -> dict[str, Any]:
    beside: dict[str, Any] = {}
    if step.max_drop is not None:
        beside["max_drop"] = f"{100 * step.max_drop:g}pp"
    if step.recover is not None:
        trains = registry.find("compressor", step.technique).facts.get("trains")
        own = OWN_TRAINING if trains else ()
        recover = step.recover.section()
        beside["recover"] = {key: value for key, value in recover.items() if key not in own}
    return {step.technique: {**step.parameters, **beside}}


def overridden(given: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy with `key.path=value` overrides put in; list entries count from 0."""
    given = copy.deepcopy(given)
    for override in overrides:
        path, separator, text = override.partition("=")
        if not separator:
            raise RecipeError(
                f"--set `{override}` has no `=`", hint="write --set distill.epochs=10"
            )
        place: Any = given
        *parents, last = path.split(".")
        if len(parents) >= DEEPEST or not all((*parents, last)):
            raise RecipeError(
                f"--set `{path}` names no key", hint="keys with a dot between, as distill.epochs"
            )
        for part in parents:
            place = _entry(place, part, path)
        value = read_value(text)
        if isinstance(place, list):
            place[_index(place, last, path)] = value
        else:
            place[last] = value
    return given


def read_value(text: str) -> Any:
    """Return a value written as in a recipe.

    Raises:
        RecipeError: it is not YAML.
    """
    return yaml_text(text, where=f"`{text}`")


def _entry(place: dict[str, Any] | list[Any], part: str, path: str) -> Any:
    if isinstance(place, list):
        index = _index(place, part, path)
        found = place[index] = spelled_out(place[index])
    else:
        if place.get(part) is None:
            place[part] = {}
        if part == path.partition(".")[0] and part in ONE_WORD:
            place[part] = spelled_out(place[part], part)
        found = place[part]
    if not isinstance(found, dict | list):
        raise RecipeError(
            f"--set {path}: `{part}` is a value, not keys and values",
            hint="name a key of a section",
        )
    return found


def _index(place: list[Any], part: str, path: str) -> int:
    if part.isdecimal() and len(part) < 10 and int(part) < len(place):
        return int(part)
    raise RecipeError(
        f"--set {path}: `{part}` is not one of the {len(place)} entries",
        hint="count from 0, e.g. --set compress.0.prune_channels.ratio=0.5",
    )


def _absolute(section: Mapping[str, Any], keys: Sequence[str], folder: Path) -> dict[str, Any]:
    """Return the section with the files that `keys` name made absolute."""
    found = {k: str(section[k]) for k in keys if isinstance(section.get(k), str | Path)}
    return {**section, **{k: absolute_build(v, folder) for k, v in found.items()}}
