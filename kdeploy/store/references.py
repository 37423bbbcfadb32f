"""Build a fresh model from a reference: the user's `build.py:function`, a module or a library.

Forms: `path/build.py:function`, `package.module:function`, `pytorchcv:NAME`, `timm:NAME`,
`torchvision:NAME`, `transformers:DIR`, `gguf:FILE`. Libraries are imported when a reference asks
for them.
`live:NAME` is a module of this very process, see `live_models`.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kdeploy.errors import FileMissing, InputError, MissingDependency, ModelError, UnknownName
from kdeploy.store import live_models
from kdeploy.store.gguf_files import converted
from kdeploy.store.neighbours import neighbours
from kdeploy.store.transformers_models import (
    HUGGING_FACE,
    checked_folder,
    description_text,
    kept_model,
    transformers_model,
)
from kdeploy.untrusted.named_path import named_path
from kdeploy.untrusted.user_code import mark_as_users, users_code, users_error

if TYPE_CHECKING:
    from torch import nn

FORMS = (
    "write `path/build.py:function`, `package.module:function`, `pytorchcv:NAME`, `timm:NAME`, "
    "`torchvision:NAME`, `transformers:DIR` or `gguf:FILE`"
)
# Modules that a build.py imported, and from which folder: names repeat between folders.
_SIBLINGS: dict[str, Path] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReference:
    """Where a model comes from, and the arguments of the function that makes it."""

    build: str
    args: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()
    """Relative paths of `build` start here."""
    source_file: Path | None = None
    """A kept copy of build.py that is executed instead of the original (artefacts)."""
    beside: Path | None = None
    """Where copies of the modules that it imports from beside it are kept (artefacts)."""
    description: Path | None = None
    """The folder with a kept config.json and tokenizer of a Hugging Face model (artefacts)."""


def names_model(value: Any) -> bool:
    """Return whether a value among parameters is a model: `{build: REF, args: {...}}`."""
    return isinstance(value, Mapping) and "build" in value


def homed(reference: ModelReference) -> ModelReference:
    """Return the reference with `FOLDER/package.module:function` as a module of that folder."""
    home, slash, module = reference.build.rpartition("/")
    place = module.partition(":")[0]
    is_module = slash and ".py:" not in module and all(p.isidentifier() for p in place.split("."))
    if not is_module or reference.build.partition(":")[0] in (*_LIBRARIES, "onnx"):
        return reference
    return replace(reference, build=module, folder=named_path(home or "/", reference.folder))


def build_model(reference: ModelReference) -> nn.Module:
    """Return a fresh model on the CPU, with the weights that the function gives it.

    Raises:
        InputError: the reference is of no known form.
        FileMissing: the build.py or the folder of a `transformers:` reference is not there.
        UnknownName: no such function, argument, module or library model; names the nearest.
        ModelError: the function raised, or returned something that is no model.
        MissingDependency: a library cannot be imported, for whatever reason.
    """
    from torch import nn

    from kdeploy.torch_module.model_faults import check_can_be_read
    from kdeploy.torch_module.reparametrized import let_go

    reference = homed(reference)
    place, name = _split(reference.build)
    if place in _LIBRARIES:
        model = _LIBRARIES[place](name, reference)
    else:
        with importing_from(*_import_folders(reference)):
            module = _load(reference, place)
            model = _call(_function(module, name, reference.build), reference)
    if not isinstance(model, nn.Module):
        message = f"`{reference.build}` returned a {type(model).__name__}, not a torch.nn.Module"
        raise ModelError(message, hint="return the model itself, with nothing around it")
    check_can_be_read(model, reference.build)
    let_go(model)
    return model.cpu()


def source_text(reference: ModelReference) -> str | None:
    """Return the text of the build.py; None for models of installed modules and libraries."""
    reference = homed(reference)
    place, _ = _split(reference.build)
    return _source_file(reference, place).read_text() if place.endswith(".py") else None


def description_of(reference: ModelReference) -> Path | None:
    """Return the folder with config.json and tokenizer of a Hugging Face model, else None."""
    place, name = _split(homed(reference).build)
    if place not in HUGGING_FACE:
        return None
    if reference.description is not None:
        return reference.description
    return _HUGGING_FACE_FOLDERS[place](name, reference)


def sources_beside(reference: ModelReference) -> dict[str, Path]:
    """Return the files that the source imports from beside it, by their path there.

    Of a module that stands in a folder of the user, that is the module itself, too.
    """
    reference = homed(reference)
    place, name = _split(reference.build)
    if place in _LIBRARIES:
        return {}
    text = source_text(reference)
    return neighbours(text or f"from {place} import {name}", _import_folders(reference))


def source_sha256(reference: ModelReference) -> str:
    """Return the digest of the source with what it imports from beside it.

    Of an installed library it is that of `library==version:name`.
    """
    reference = homed(reference)
    place, _ = _split(reference.build)
    digest = hashlib.sha256(_main_text(reference).encode())
    own = f"{place.replace('.', '/')}.py"  # of a module: it is the main text
    for path, file in sources_beside(reference).items():
        if path not in (own, own.replace(".py", "/__init__.py")):
            digest.update(f"\n{path}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def _main_text(reference: ModelReference) -> str:
    place, name = _split(reference.build)
    text = name if place == live_models.PLACE else source_text(reference)
    if text is None:
        library = place.partition(".")[0]
        try:
            text = f"{library}=={importlib.metadata.version(library)}:{place}:{name}"
        except importlib.metadata.PackageNotFoundError:
            text = _module_text(reference, place)
    if (description := description_of(reference)) is not None:
        text += description_text(description)
    return text


def _split(build: str) -> tuple[str, str]:
    """Return the place (a file, module or library) and the name in it."""
    library, _, model = build.partition(":")
    if library in _LIBRARIES and model:
        return library, model
    place, _, name = build.rpartition(":")
    is_module = all(part.isidentifier() for part in place.split("."))
    if library == "onnx" or not name.isidentifier() or not (place.endswith(".py") or is_module):
        raise InputError(f"`{build}` is not a reference to a torch model", hint=FORMS)
    return place, name


def _source_file(reference: ModelReference, place: str) -> Path:
    path = reference.source_file or named_path(place, reference.folder)
    if not path.is_file():
        hint = "relative paths start at the recipe's folder, or where the command is called"
        raise FileMissing(f"`{reference.build}`: there is no file `{path}`", hint=hint)
    return path


def _import_folders(reference: ModelReference) -> list[Path]:
    """Return where the source may import from: copies first, then its own folder."""
    place, _ = _split(reference.build)
    copies = [] if reference.beside is None else [reference.beside.resolve()]
    if not place.endswith(".py"):
        return [*copies, reference.folder.resolve()]
    original = named_path(place, reference.folder).resolve().parent
    kept = [] if reference.source_file is None else [reference.source_file.resolve().parent]
    return copies + kept + [original] * original.is_dir()


@contextmanager
def importing_from(*folders: Path) -> Iterator[None]:
    """Put the folders on the import path, and see to it that theirs are the modules found."""
    for name in [name for name, home in _SIBLINGS.items() if home not in folders]:
        sys.modules.pop(name, None)
        del _SIBLINGS[name]
    before, path = set(sys.modules), list(sys.path)
    sys.path[:0] = [str(folder) for folder in folders]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            file = Path(getattr(sys.modules[name], "__file__", None) or "/")
            stem = Path(*name.split("."))
            for folder in folders:
                if file in (folder / stem.with_suffix(".py"), folder / stem / "__init__.py"):
                    _SIBLINGS[name] = folder


def _load(reference: ModelReference, place: str) -> ModuleType:
    if not place.endswith(".py"):
        return _import(place, needed_for=f"`{reference.build}`")
    path = _source_file(reference, place).resolve()
    # A name of its own: two files called build.py must not replace each other.
    unique = f"kdeploy_build_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(unique, path)
    assert spec is not None, f"{path} ends in .py"
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module  # dataclasses and torch.export look their module up by name
    original = named_path(place, reference.folder).resolve()
    if original.parent.is_dir():
        module.__file__ = str(original)  # beside which it may look for files of its own
    mark_as_users(path, shown=_original(reference, place))
    try:
        with users_code(f"`{path}` cannot be executed", hint=f"try `python {path}`"):
            # Compiled here: the loader would trust stale bytecode of the same second and size.
            exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except ModelError as error:
        if isinstance(cause := error.__cause__, ModuleNotFoundError):
            raise MissingDependency.named(cause.name or "?", needed_for=f"`{path}`") from cause
        raise
    return module


def _original(reference: ModelReference, place: str) -> Path | None:
    """Return the file that a kept copy is of, where it still says the same."""
    file = (reference.folder / Path(place).expanduser()).resolve()
    kept = reference.source_file
    is_same = kept is not None and file.is_file() and file.read_bytes() == kept.read_bytes()
    return file if is_same else None


def _function(module: ModuleType, name: str, build: str) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if not callable(found):
        values = vars(module).items()
        own = [
            key
            for key, value in values
            if getattr(value, "__module__", "") == module.__name__ and not key.startswith("_")
        ]
        raise UnknownName.among("function", name, own, where=f"`{build}`")
    return found  # type: ignore[no-any-return]


def _call(function: Callable[..., Any], reference: ModelReference) -> Any:
    """Call with the reference's arguments, after looking at the signature for a good error."""
    takes = inspect.signature(function).parameters.values()
    names = [p.name for p in takes if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    is_open = any(p.kind is p.VAR_KEYWORD for p in takes)
    for key in reference.args:
        if key not in names and not is_open:
            raise UnknownName.among("argument", key, names, where=f"`{reference.build}`")
    needed = [p.name for p in takes if p.name in names and p.default is p.empty]
    missing = [name for name in needed if name not in reference.args]
    if missing:
        message = f"`{reference.build}` needs the argument `{missing[0]}`"
        raise ModelError(message, hint=f"give it under `args:`: `args: {{{missing[0]}: ...}}`")
    hint = "`args:` are its keyword arguments" + (f": {', '.join(names)}" if names else "")
    with users_code(f"`{reference.build}` with args {dict(reference.args)} failed", hint=hint):
        return function(**reference.args)


def _from_pytorchcv(name: str, reference: ModelReference) -> Any:
    # Its list of names is read, and one family imported: another one needs a working torchvision.
    package = Path(_import("pytorchcv", needed_for=f"`{reference.build}`").__file__ or "").parent
    names = _pytorchcv_names((package / "model_provider.py").read_text())
    if name not in names:
        raise _unknown_model(name, names, "pytorchcv")
    for family in sorted((package / "models").glob("*.py")):
        if f"\ndef {name}(" in family.read_text():
            module = _import(f"pytorchcv.models.{family.stem}", needed_for=f"`{reference.build}`")
            return _call(getattr(module, name), reference)
    raise UnknownName(f"pytorchcv lists `{name}`, but no file of it defines that model")


def _pytorchcv_names(source: str) -> set[str]:
    tables = (node.value for node in ast.parse(source).body if isinstance(node, ast.Assign))
    keys = (key for table in tables if isinstance(table, ast.Dict) for key in table.keys)
    return {str(key.value) for key in keys if isinstance(key, ast.Constant)}


def _from_timm(name: str, reference: ModelReference) -> Any:
    timm = _import("timm", needed_for=f"`{reference.build}`")
    if not timm.is_model(name.partition(".")[0]):
        raise _unknown_model(name, timm.list_models(), "timm")
    return _call(partial(timm.create_model, name), reference)


def _from_torchvision(name: str, reference: ModelReference) -> Any:
    models = _import("torchvision.models", needed_for=f"`{reference.build}`")
    if name not in models.list_models():
        raise _unknown_model(name, models.list_models(), "torchvision")
    return _call(models.get_model_builder(name), reference)


def _from_hugging_face(name: str, reference: ModelReference) -> Any:
    del name  # the folder is found by the reference
    library = _import("transformers", needed_for=f"`{reference.build}`")
    asked, args = reference.build, reference.args
    hint = "`args:` are entries of its config.json"
    with users_code(f"`{asked}` with args {dict(args)} failed", hint=hint):
        if reference.description is not None:
            return kept_model(library, reference.description, args, asked=asked)
        folder = description_of(reference)
        assert folder is not None, f"{asked} is of {HUGGING_FACE}"
        return transformers_model(library, folder, args, asked=asked)


def _transformers_folder(name: str, reference: ModelReference) -> Path:
    return checked_folder(named_path(name, reference.folder), asked=reference.build)


def _gguf_folder(name: str, reference: ModelReference) -> Path:
    library = _import("transformers", needed_for=f"`{reference.build}`")
    _import("gguf", needed_for=f"`{reference.build}`")
    return converted(named_path(name, reference.folder), library)


def _from_live(name: str, reference: ModelReference) -> Any:
    del reference
    return live_models.copy_of(name)


def _unknown_model(name: str, names: Iterable[str], library: str) -> UnknownName:
    # Libraries know about a thousand models: the message lists the nearest only.
    near = difflib.get_close_matches(name, names, n=8, cutoff=0.3)
    return UnknownName.among("model", name, near, where=library)


def _import(module: str, *, needed_for: str) -> ModuleType:
    """Import, turning any failure into the one error; broken builds raise all kinds."""
    library = module.partition(".")[0]
    try:
        found = importlib.import_module(module)
        file = getattr(sys.modules[library], "__file__", None)
        if file is not None and library != "torch":  # torch raises what others let it raise
            mark_as_users(Path(file).parent if Path(file).stem == "__init__" else Path(file))
        return found
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError):
            raise MissingDependency.named(error.name or library, needed_for=needed_for) from error
        if library not in _LIBRARIES and (users := users_error(error)) is not None:
            raise users from error
        raise MissingDependency(
            f"{needed_for} needs `{library}`, whose import fails here: {error!r}",
            hint=f"pip install --upgrade {library}, in a version that fits the installed torch",
        ) from error


def _module_text(reference: ModelReference, module: str) -> str:
    """Return the text of a module that stands beside the recipe or on the import path."""
    with importing_from(*_import_folders(reference)):
        file = _import(module, needed_for=f"`{reference.build}`").__file__
    return Path(file).read_text() if file else module


_LIBRARIES: Mapping[str, Callable[[str, ModelReference], Any]] = {
    "pytorchcv": _from_pytorchcv,
    "timm": _from_timm,
    "torchvision": _from_torchvision,
    "transformers": _from_hugging_face,
    "gguf": _from_hugging_face,
    live_models.PLACE: _from_live,
}
_HUGGING_FACE_FOLDERS: Mapping[str, Callable[[str, ModelReference], Path]] = {
    "transformers": _transformers_folder,
    "gguf": _gguf_folder,
}
