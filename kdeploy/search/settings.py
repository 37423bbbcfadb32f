"""What a search looks for, and where: kept in its folder, so that it goes on as it began."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from kdeploy.errors import RecipeError
from kdeploy.measurement import METRICS
from kdeploy.pipeline.rundir import write_json, write_text
from kdeploy.recipe.read import overridden, to_yaml
from kdeploy.recipe.resolve import Recipe
from kdeploy.recipe.sections import SearchSection
from kdeploy.search.elastic import Shared, shared_training
from kdeploy.search.space import Point, Space, checked_space, parse_space, search_section
from kdeploy.tasks.contract import facts_of

SETTINGS, RECIPE, STORE = "search.json", "recipe.yaml", "artifacts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A search: its space, what it looks for, and its folder."""

    space: Space
    section: SearchSection
    recipe: Recipe
    """As written, the start of the search."""
    out: Path
    host: str | None = None
    """The device that files are timed on, over ssh; None: this machine."""
    shared: Shared | None = None
    """The training that all candidates are cut out of; None: each is trained by itself."""

    @property
    def main(self) -> str:
        """Return the objective that says how good answers are, the first of several."""
        return next(m for m in self.section.objectives if METRICS[m].is_judged)

    @property
    def store(self) -> Path:
        return (self.out / STORE).resolve()

    def request(self, do: str, point: Point, **more: Any) -> dict[str, Any]:
        """Return what a worker is asked about a candidate."""
        return {
            "do": do,
            "recipe": self.space.document(point),
            "folder": str(self.space.folder.resolve()),
            "store": str(self.store),
            "host": self.host,
            "shared": self.shared.document if self.shared else None,
            **more,
        }

    def identity(self) -> dict[str, Any]:
        """Return what all trials of a folder have in common, by key of the recipe."""
        section = self.section.model_dump(exclude={"space", "finalists", "seeds"})
        space = {
            d.key: {k: v for k, v in asdict(d).items() if k != "key"} for d in self.space.dimensions
        }
        whole = {**self.space.given, "search": {**section, "space": space}}
        # Times of two devices are in no one search.
        whole |= {"--host": self.host} if self.host else {}
        plain: dict[str, Any] = json.loads(json.dumps(whole, default=str))
        return plain

    def keep(self) -> None:
        """Write down what is searched, or refuse to go on with something else.

        Raises:
            RecipeError: the folder holds trials of another space or recipe; the key is named.
        """
        file, own = self.out / SETTINGS, self.identity()
        if file.is_file():
            kept = json.loads(file.read_text())
            key = _first_difference(kept, own)
            if key is not None:
                raise RecipeError(
                    f"{self.out} holds trials of another search: `{key}` was "
                    f"{_at(kept, key)}, and is {_at(own, key)}",
                    hint="name another `--out`, or put that back: trials of both are no one search",
                )
            return
        plain = json.loads(json.dumps({"search": self.section.model_dump()}))
        section = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
        write_text(self.out / RECIPE, to_yaml(self.recipe, written_in=self.out) + section)
        write_json(file, own)


def settings_of(
    given: Mapping[str, Any],
    *,
    folder: Path,
    out: Path,
    overrides: Sequence[str] = (),
    host: str | None = None,
) -> Settings:
    """Return the search that a recipe asks for, checked; without a space, with a usual one.

    Args:
        given: The recipe as written.
        folder: Where its relative paths start.
        out: The folder of the search.
        overrides: `KEY.PATH=VALUE`, as of `--set`.
        host: The device that files are timed on, as `--host` names it.

    Raises:
        InputError: the recipe, its `search:` or its space is wrong.
    """
    from kdeploy.search.default_space import default_space

    whole = overridden(dict(given), overrides)
    asked = whole.pop("search", None)
    bare = Space(dimensions=(), given=whole, folder=folder)
    recipe = bare.recipe({})
    if not (asked or {}).get("objectives"):
        main = str(facts_of(recipe.data.task.name).get("metric") or "accuracy.top1")
        asked = {**(asked or {}), "objectives": [main, "latency.p50", "size"]}
    section = search_section(asked)
    if not section.space:
        section = section.model_copy(update={"space": default_space(recipe, whole)})
    space = Space(dimensions=parse_space(section.space), given=whole, folder=folder)
    shared = shared_training(space, recipe) if section.elastic else None
    space = checked_space(space)
    return Settings(space=space, section=section, recipe=recipe, out=out, host=host, shared=shared)


def _first_difference(one: Any, other: Any) -> str | None:
    """Return the path of the first key in which two documents differ."""
    ours, theirs = dict(_leaves(one)), dict(_leaves(other))
    return next((k for k in {**ours, **theirs} if ours.get(k, _NONE) != theirs.get(k, _NONE)), None)


_NONE = object()


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _at(value: Any, path: str) -> str:
    return (
        f"`{json.dumps(dict(_leaves(value))[path])}`" if path in dict(_leaves(value)) else "absent"
    )
