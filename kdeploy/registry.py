"""Find techniques by reading their files: names, parameters and summaries without importing them.

A technique is one decorated function or class in the folder of its kind. The file's name is its
name (`onnx_from_torch.py` is `onnx`), the keyword-only parameters are its configuration, the
module docstring's first line is its summary. Only `Technique.load` imports the module.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kdeploy.errors import RecipeError, UnknownName

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

ROOT = Path(__file__).parent
FOLDERS: Mapping[str, str] = {
    "loss": "distill/losses",
    "scheme": "distill/schemes",
    "compressor": "compress/compressors",
    "exporter": "export/exporters",
    "runtime": "runtimes",
    "metric": "metrics",
    "dataset": "data/datasets",
    "task": "tasks",
    "dynamic": "dynamic/kinds",
    "bundle": "package/bundles",
    "emitter": "package/emitters",
    "report_format": "report/formats",
    "wrapper": "quantization",
}
# What people call a kind elsewhere: by its key in a recipe.
KEYS: Mapping[str, tuple[str, ...]] = {
    "data": ("dataset", "task"),
    "distill": ("loss", "scheme"),
    "compress": ("compressor",),
    "export": ("exporter",),
    "bench": ("runtime", "metric"),
    "gate": ("metric",),
    "package": ("bundle", "emitter"),
    "report": ("report_format",),
    "format": ("report_format",),
}
_SCHEMA = "`kdeploy recipe-schema` lists keys and types"
ModelT = TypeVar("ModelT", bound="BaseModel")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One keyword of a technique, as its signature and docstring state it."""

    name: str
    annotation: str
    default: Any = ...
    doc: str = ""

    @property
    def is_required(self) -> bool:
        return self.default is ...

    def type(self) -> Any:
        """Return the annotation as a type; only names that a signature may use are known."""
        return eval(self.annotation, dict(_names()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Technique:
    """What a file says about the technique in it."""

    kind: str
    name: str
    summary: str
    doc: str
    module: str
    function: str
    parameters: tuple[Parameter, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    path: Path

    def load(self) -> Any:
        """Import the module and return the function or class."""
        return getattr(importlib.import_module(self.module), self.function)


def techniques(kind: str) -> dict[str, Technique]:
    """Return all techniques of `kind` by name, in alphabetical order."""
    if kind not in FOLDERS:
        raise UnknownName.among("kind of technique", kind, FOLDERS)
    return _scan(kind)


def kinds_of(word: str) -> list[str]:
    """Return the kinds of technique that a word means: one of them, its plural, a recipe's key.

    Raises:
        UnknownName: it means none.
    """
    for name in (word, word.removesuffix("s"), word.removesuffix("es")):
        if name in FOLDERS:
            return [name]
        if name in KEYS:
            return list(KEYS[name])
    raise UnknownName.among("kind of technique", word, [*FOLDERS, *KEYS])


def find(kind: str, name: str, *, where: str = "") -> Technique:
    """Return one technique, also by a name that it had before.

    Raises:
        UnknownName: there is none of that name; the hint names the nearest.
    """
    known = techniques(kind)
    if name in known:
        return known[name]
    renamed = (t for t in known.values() if name in t.facts.get("former_names", ()))
    if (technique := next(renamed, None)) is None:
        raise UnknownName.among(kind, name, known, where=where)
    return technique


class Resolved(dict[str, Any]):
    """Parameters that `validate` has checked and filled in: they need no second look."""

    def __init__(self, values: Mapping[str, Any], parameters: tuple[Parameter, ...]) -> None:
        super().__init__(values)
        self.parameters = parameters


def validate(
    parameters: tuple[Parameter, ...], given: Mapping[str, Any] | None, *, where: str
) -> Resolved:
    """Return all parameters resolved: those given, checked and converted, and the defaults.

    What it has returned before for the same parameters is returned as it is.

    Raises:
        UnknownName: a key that is no parameter; the hint names the nearest.
        RecipeError: a value of the wrong type or out of range, or a missing one.
    """
    if isinstance(given, Resolved) and given.parameters == parameters:
        return given
    return Resolved(check(model_of(parameters), given, where=where).model_dump(), parameters)


def check(model: type[ModelT], given: Mapping[str, Any] | None, *, where: str) -> ModelT:
    """Return `given` as the pydantic model, with the errors of `validate`."""
    from pydantic import ValidationError

    given = mapping(given, where)
    for key in given:
        if key not in model.model_fields:
            raise UnknownName.among("key", str(key), model.model_fields, where=where)
    try:
        made = model.model_validate(dict(given), context={"where": where})
    except ValidationError as error:
        raise _first_error(error, model, where) from None
    for key, value in given.items():
        _check_numbers(value, getattr(made, key), where=f"{where}.{key}")
    return made


def _check_numbers(given: Any, made: Any, *, where: str) -> None:
    """Refuse what pydantic takes for a number and nobody means: true for 1, infinity, 70 bits."""
    if isinstance(given, Mapping) and isinstance(made, Mapping):
        for key, value in given.items():
            _check_numbers(value, made.get(key), where=f"{where}.{key}")
    elif isinstance(given, list | tuple) and isinstance(made, list | tuple):
        for index, (value, result) in enumerate(zip(given, made, strict=False)):
            _check_numbers(value, result, where=f"{where}[{index}]")
    elif type(made) in (int, float) and (type(given) is bool or not -(2**63) <= made < 2**63):
        message = f"{where}: expected a finite number of at most 64 bits, found `{given!r}`"
        raise RecipeError(message, hint=_SCHEMA)


def mapping(given: Any, where: str) -> Mapping[str, Any]:
    """Return keys and values as given, none for None.

    Raises:
        RecipeError: it is something else.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise RecipeError(
            f"{where}: expected keys and values, found `{given!r}`",
            hint=f"write `{where.rsplit('.', 1)[-1]}: {{key: value}}`",
        )
    return given


def parse_one_key(entry: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    """Return name and parameters of `{technique: {its parameters}}`.

    Raises:
        RecipeError: it is something else.
    """
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise RecipeError(
            f"{where}: expected one technique with its parameters, found `{entry!r}`",
            hint="write `- technique: {key: value}`",
        )
    name, given = next(iter(entry.items()))
    if given is not None and not isinstance(given, Mapping):
        raise RecipeError(
            f"{where}.{name}: expected keys and values, found `{given!r}`",
            hint=f"write `{name}: {{key: value}}`",
        )
    return str(name), dict(given or {})


def parse_text(text: str, where: str) -> tuple[str, dict[str, str]]:
    """Return name and parameters of `NAME` or `NAME:key=value,...`.

    Raises:
        RecipeError: a parameter has no value.
    """
    name, _, rest = text.partition(":")
    pairs = [option.partition("=") for option in rest.split(",") if option]
    for key, sign, value in pairs:
        if not (sign and value):
            raise RecipeError(
                f"{where} `{text}`: the option `{key}` has no value",
                hint=f"write `{name}:{key}=value`",
            )
    return name, {key.strip(): value.strip() for key, _, value in pairs}


def model_of(
    parameters: tuple[Parameter, ...],
    name: str = "Parameters",
    *,
    base: type[BaseModel] | None = None,
) -> type[BaseModel]:
    """Return the pydantic model that the signature describes, with the fields of `base` first."""
    from pydantic import ConfigDict, Field, create_model

    fields: dict[str, Any] = {
        p.name: (p.type(), Field(default=p.default, description=p.doc)) for p in parameters
    }
    if base is not None:
        return create_model(name, __base__=base, **fields)
    return create_model(name, __config__=ConfigDict(extra="forbid"), **fields)


def _first_error(error: ValidationError, model: type[BaseModel], where: str) -> RecipeError:
    first = error.errors()[0]
    # pydantic marks a wrong key of a mapping by one part more.
    parts = [str(part) for part in first["loc"] if part != "[key]"]
    key = ".".join([where, *parts])
    field = model.model_fields.get(str(first["loc"][0])) if first["loc"] else None
    found = "" if first["type"] == "missing" else f", found `{first['input']!r}`"
    hint = (field.description if field else None) or _SCHEMA
    given = first["input"]
    if first["type"] == "string_type" and isinstance(given, dict) and len(given) == 1:
        text = ": ".join(map(str, next(iter(given.items()))))
        hint = f'YAML reads a colon as a key; put it in quotes: `"{text}"`'
    return RecipeError(f"{key}: {first['msg'].lower()}{found}", hint=hint)


@cache
def _scan(kind: str) -> dict[str, Technique]:
    found: dict[str, Technique] = {}
    for path in sorted((ROOT / FOLDERS[kind]).glob("*.py")):
        technique = _read(kind, path)
        if technique is not None:
            found[technique.name] = technique
    return found


def _read(kind: str, path: Path) -> Technique | None:
    source = path.read_text()
    if f"@{kind}" not in source:
        return None
    tree = ast.parse(source)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            facts = _facts(kind, node)
            if facts is not None:
                doc = ast.get_docstring(tree) or ""
                return Technique(
                    kind=kind,
                    name=path.stem.split("_from_")[0],
                    summary=doc.split("\n")[0].rstrip("."),
                    doc=doc,
                    module=".".join(["kdeploy", *path.relative_to(ROOT).with_suffix("").parts]),
                    function=node.name,
                    parameters=_parameters(node),
                    facts=facts,
                    path=path,
                )
    return None


def _facts(kind: str, node: ast.FunctionDef | ast.ClassDef) -> dict[str, Any] | None:
    """Return the literal keywords of the decorator, None when another decorator stands there."""
    for decorator in node.decorator_list:
        call = decorator if isinstance(decorator, ast.Call) else None
        target = call.func if call else decorator
        if isinstance(target, ast.Name) and target.id == kind:
            facts = {}
            for keyword in call.keywords if call else []:
                try:
                    facts[str(keyword.arg)] = ast.literal_eval(keyword.value)
                except ValueError:  # a function such as `ensures=`: known after loading
                    facts[str(keyword.arg)] = None
            return facts
    return None


def _parameters(node: ast.FunctionDef | ast.ClassDef) -> tuple[Parameter, ...]:
    function: ast.FunctionDef | None = node if isinstance(node, ast.FunctionDef) else None
    if isinstance(node, ast.ClassDef):
        inits = (n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
        function = next(inits, None)
    if function is None:
        return ()
    docs = _argument_docs(ast.get_docstring(function) or ast.get_docstring(node) or "")
    pairs = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    return tuple(
        Parameter(
            name=argument.arg,
            annotation=ast.unparse(argument.annotation) if argument.annotation else "Any",
            default=... if default is None else ast.literal_eval(default),
            doc=docs.get(argument.arg, ""),
        )
        for argument, default in pairs
    )


def _argument_docs(docstring: str) -> dict[str, str]:
    """Return the entries of the docstring's `Args:` section."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", docstring, re.MULTILINE)
    docs: dict[str, str] = {}
    name = ""
    for line in section[1].splitlines() if section else []:
        entry = re.match(r"\s{4}(\w+): (.*)", line)
        if entry:
            name = entry[1]
            docs[name] = entry[2].strip()
        elif name and line.strip():
            docs[name] += " " + line.strip()
    return docs


@cache
def _names() -> dict[str, Any]:
    from typing import Annotated, Literal

    from pydantic import ConfigDict, Field, create_model

    further: dict[str, Any] = {
        "build": (str, Field(description="a model reference, e.g. `build.py:net`, or an artefact")),
        "args": (dict[str, Any], Field({}, description="keyword arguments of the build function")),
        "weights": (Path | None, Field(None, description="safetensors")),
    }
    return {
        "Annotated": Annotated,
        "Any": Any,
        "Field": Field,
        "Literal": Literal,
        "Path": Path,
        "Mapping": Mapping,
        "AuxiliaryModel": create_model(
            "AuxiliaryModel", __config__=ConfigDict(extra="forbid"), **further
        ),
    }
