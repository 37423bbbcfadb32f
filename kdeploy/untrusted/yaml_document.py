"""Read YAML that anyone may have written: bounded before it is built.

It is read as JSON with other signs: keys are text, values are text, numbers, booleans, null,
lists and mappings. Aliases and merges count as what they stand for.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from kdeploy.errors import RecipeError

MOST_BYTES = 256 * 1024
"""Of a YAML document: a thousand times a recipe, read in seconds."""
MOST_NODES = 10_000  # aliases of aliases: "billion laughs"
MOST_TEXT = 1024 * 1024
DEEPEST = 64
LARGEST_WHOLE = 2**63  # what numpy and torch hold in 64 bits
LONGEST_NUMBER = 100
_TAG = "tag:yaml.org,2002:"
_KNOWN_TAGS = {f"{_TAG}{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")}
_NUMBERS = {f"{_TAG}int", f"{_TAG}float"}
_MERGE = f"{_TAG}merge"


def yaml_file(path: Path) -> Any:
    """Return what a YAML file says.

    Raises:
        RecipeError: it is too large or no YAML; it names the place.
    """
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    return yaml_text(content, where=str(path))


def yaml_text(content: bytes | str, *, where: str) -> Any:
    """Return what a YAML document says, no part of it shared with another.

    Raises:
        RecipeError: it is too large or no YAML; it names the place.
    """
    if len(content) > MOST_BYTES:
        raise RecipeError(
            f"{where} is longer than {MOST_BYTES // 1024} KiB", hint="is it a recipe at all?"
        )
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        return _own_copy(yaml.load(text, _Loader))
    except yaml.YAMLError as error:
        raise RecipeError(f"{where} is not YAML: {error}", hint="mend the place named") from None
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{where} is not UTF-8: byte {error.start} is {content[error.start]!r}",
            hint="save it as UTF-8 (Windows calls it so too), or look whether it is text at all",
        ) from None


def _own_copy(value: Any) -> Any:
    """Return the value with what an alias repeats made anew: overrides change one place only."""
    if isinstance(value, dict):
        return {key: _own_copy(inner) for key, inner in value.items()}
    return [_own_copy(inner) for inner in value] if isinstance(value, list) else value


class _Loader(yaml.SafeLoader):
    """YAML whose expanded size is counted while it is read, and which has nothing but plain values.

    The same key twice is an error, not a silent loss of the first; dates are text.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own way
        first: [(tag, form) for tag, form in known if tag in _KNOWN_TAGS | {_MERGE}]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = self._nodes = self._text = 0
        self._sizes: dict[int, tuple[int, int]] = {}
        """Nodes and text of each finished node, by its identity."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark, is_alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)  # type: ignore[no-untyped-call]
        nodes, text = self._nodes, self._text
        self._depth += 1
        if self._depth > DEEPEST:
            raise _refused(f"more than {DEEPEST} lists and mappings in one another", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and id(node) not in self._sizes:
            raise _refused("an alias of what it is itself a part of", mark)
        more = self._sizes[id(node)] if is_alias else (1, len(_scalar_text(node)))
        self._nodes += more[0]
        self._text += more[1]
        if self._nodes > MOST_NODES or self._text > MOST_TEXT:
            raise _refused(
                f"more than {MOST_NODES:,} values or {MOST_TEXT:,} characters,"
                " aliases counted as what they repeat",
                mark,
            )
        if not is_alias:
            self._sizes[id(node)] = (self._nodes - nodes, self._text - text)
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refused(f"a key is text, found a {key.id}", key.start_mark)
            if key.value in seen:
                raise _refused(f"the key `{key.value}` stands here twice", key.start_mark)
            seen.add(key.value)
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            self.flatten_mapping(node)
            return {key.value: self.construct_object(v, deep=deep) for key, v in node.value}
        return super().construct_mapping(node, deep=deep)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if node.tag not in _KNOWN_TAGS:
            raise _refused(f"the tag `{node.tag}` has no meaning here", node.start_mark)
        if node.tag in _NUMBERS and len(node.value) > LONGEST_NUMBER:
            raise _refused(f"`{node.value}` is more than 64 bits hold", node.start_mark)
        try:
            value = super().construct_object(node, deep=deep)
        except (ValueError, KeyError, IndexError, AttributeError, TypeError):
            kind = node.tag.removeprefix(_TAG)
            found = f"`{node.value}` is no {kind}" if _scalar_text(node) else f"this is no {kind}"
            raise _refused(found, node.start_mark) from None
        if isinstance(value, float) and not math.isfinite(value):
            raise _refused(f"`{node.value}` is not a finite number", node.start_mark)
        if isinstance(value, int) and not -LARGEST_WHOLE <= value < LARGEST_WHOLE:
            raise _refused(f"`{node.value}` is more than 64 bits hold", node.start_mark)
        return value


def _scalar_text(node: Any) -> str:
    return node.value if isinstance(node, yaml.ScalarNode) else ""


def _refused(problem: str, mark: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)
