"""Whose code raised: the user's own file among the frames of an error, and the line to name.

An error belongs to the user where, going outwards from where it was raised, a frame of the user's
own code comes before one of kdeploy's: whatever torch raised in between was asked for by that line.
"""

from __future__ import annotations

import linecache
import re
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from kdeploy.errors import DataError, InputError, KdeployError, ModelError

OWN = str(Path(__file__).resolve().parents[1])
CALLS_MODELS = Path(OWN) / "torch_module" / "named_inputs.py"
"""Gives models their inputs, and no frame of it is a fault of ours."""
LIBRARIES = tuple(
    str(Path(sysconfig.get_path(name)).resolve())
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
INSTALLED = ("site-packages", "dist-packages")
LONGEST = 300
"""Characters of a foreign error's text that a message repeats."""
# Of these a line is wrong by itself; the others may come from what it was given.
SLIPS = (AttributeError, LookupError, NameError, NotImplementedError, SystemExit)
_OF_DEVICES = (
    "leave `.cuda()` and `device=...` to kdeploy, which moves models and batches; in forward make"
    " tensors where the input is: `x.new_zeros(...)`, `torch.arange(n, device=x.device)`"
)
_OF_TYPES = (
    "weights and inputs are float32 here: end the build function with `return model.float()`, and"
    " make tensors in forward as the input is, `x.new_zeros(...)`"
)
HINTS = {
    "compiled with CUDA": _OF_DEVICES,
    "NVIDIA driver": _OF_DEVICES,
    "No CUDA GPUs": _OF_DEVICES,
    "to be on the same device": _OF_DEVICES,
    "c10::Half": _OF_TYPES,
    "c10::BFloat16": _OF_TYPES,
    "must have the same dtype": _OF_TYPES,
    "found dtype": _OF_TYPES,
    "expected scalar type": _OF_TYPES,
}
"""What to change, by a part of torch's own words for it."""
# Files and folders that references named: what an error in them is, and how they are shown.
_KINDS: dict[str, type[InputError]] = {}
_SHOWN: dict[str, str] = {}


def mark_as_users(
    place: Path, *, kind: type[InputError] = ModelError, shown: Path | None = None
) -> None:
    """Remember that a file, or all files of a folder, are code that the user named.

    Args:
        place: Counts as the user's even where libraries are installed.
        kind: What an error in it is.
        shown: The file that people know it as, of a copy that an artefact keeps.
    """
    _KINDS[str(place.resolve())] = kind
    if shown is not None:
        _SHOWN[str(place.resolve())] = str(shown)


def is_users(file: str) -> bool:
    """Tell whether a file of a frame is the user's: neither ours, nor a library's, nor generated.

    Libraries that a reference named (`mark_as_users`) are the user's choice too.
    """
    if file.startswith("<") or is_own(file):
        return False
    path = Path(file)
    if _kind_of(file) is not None:
        return True
    is_installed = any(part in INSTALLED for part in path.parts) or file.startswith(LIBRARIES)
    return path.suffix == ".py" and not is_installed


@contextmanager
def users_code(
    what: str, *, kind: type[InputError] = ModelError, hint: str | None = None, model: Any = None
) -> Iterator[None]:
    """Turn what the user's code raises in the block into an error that names its line.

    Args:
        what: Begins the message, e.g. "the teacher cannot take items of shape (1, 8, 8)".
        kind: Of the error.
        hint: What to change, unless the line is wrong whatever it is given.
        model: Whose layers are named where an error comes out of torch alone.

    Raises:
        InputError: of the kind, unless the error comes out of kdeploy's own code.
    """
    try:
        yield
    except KdeployError:
        raise
    except (Exception, SystemExit) as error:
        place = _place(error)
        # The first frame is of the function with the block, and no sign of our fault.
        is_ours = place is not None and is_own(place[0]) and _frames(error)[0] != place
        if is_ours or is_memory(error):
            raise
        raise kind(f"{what}: {described(error, model)}", hint=hint_of(error, hint)) from error


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as another:  # a class of the user's own may not know how
        return f"its text raises {type(another).__name__}"


def hint_of(error: BaseException, otherwise: str | None) -> str | None:
    """Return the hint, unless a line of the user's is wrong whatever it is given."""
    place = _place(error)
    is_users = place is not None and not is_own(place[0])
    of_torch = next((hint for words, hint in HINTS.items() if words in _text(error)), None)
    if of_torch is not None:
        return of_torch
    return "mend that line" if is_users and isinstance(error, SLIPS) else otherwise


@contextmanager
def blamed() -> Iterator[None]:
    """Turn an error of the user's code, wherever in the block it was called, into ours."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if (found := users_error(error)) is None:
            raise
        raise found from error


def users_error(error: BaseException) -> InputError | None:
    """Return the error that names the user's line, None where the fault is not the user's."""
    place = _place(error)
    if isinstance(error, KdeployError) or place is None or is_own(place[0]) or is_memory(error):
        return None
    kind = _kind_of(place[0]) or ModelError
    what = "data" if issubclass(kind, DataError) else "model"
    return kind(
        f"the code of the {what} failed: {described(error)}",
        hint="mend that line; `--debug` shows the whole traceback",
    )


def described(error: BaseException, model: Any = None) -> str:
    """Return type and text of an error in one line, with the user's line or the layer it met."""
    if isinstance(error, SyntaxError) and error.filename:
        code = (error.text or "").strip()
        return f"SyntaxError: {error.msg} ({shown(error.filename)}:{error.lineno}: `{code}`)"
    text = " ".join(_text(error).split())
    text = f"{text[:LONGEST]} ..." if len(text) > LONGEST else text
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    place = _place(error)
    if place is not None and not is_own(place[0]):
        return f"{said} ({line_of(*place)})"
    layer = _layer(error, model) if model is not None else ""
    return f"{said} (in the layer {layer})" if layer else said


def users_line(error: BaseException) -> str:
    """Return the user's line that an error came out of, in brackets; "" where it is not theirs."""
    place = _place(error)
    return "" if place is None or is_own(place[0]) else f" ({line_of(*place)})"


def line_of(file: str, number: int, function: str) -> str:
    """Return a place in a source file as people read it, with the line itself."""
    linecache.checkcache(file)
    code = linecache.getline(file, number).strip()
    inside = "" if function == "<module>" else f", in {function}"
    return f"{shown(file)}:{number}{inside}" + (f": `{code}`" if code else "")


def shown(file: str) -> str:
    """Return a source file as people know it: a copy in an artefact goes by the original's name."""
    return _SHOWN.get(file, file)


def users_frame(frame: FrameType | None) -> tuple[str, int, str] | None:
    """Return file, line and function of the user's innermost code that we run, None for none."""
    while frame is not None and not is_own(frame.f_code.co_filename):
        if is_users(frame.f_code.co_filename):
            return frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name
        frame = frame.f_back
    return None


def is_memory(error: BaseException) -> bool:
    """Tell whether it is the machine that had too little memory: nobody's code is wrong then."""
    is_full = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return is_full or isinstance(error, MemoryError)


def _place(error: BaseException) -> tuple[str, int, str] | None:
    """Return the innermost frame that is the user's or ours, None where there is neither."""
    for place in reversed(_frames(error)):
        passes_on = Path(place[0]) == CALLS_MODELS
        if not passes_on and (is_own(place[0]) or is_users(place[0])):
            return place
    return None


def _frames(error: BaseException) -> list[tuple[str, int, str]]:
    """Return file, line and function of all frames, the innermost last."""
    found = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        found.append((code.co_filename, trace.tb_lineno, code.co_name))
        trace = trace.tb_next
    # A compiler reads the user's lines instead of running them, and tells them in its text.
    _, _, read = _text(error).partition("from user code:")
    found += frames_in(read)
    # Where the block itself is a generator, its own frame comes first and is no caller.
    return [place for place in found if place[0] != __file__] or found


def frames_in(traceback: str) -> list[tuple[str, int, str]]:
    """Return file, line and function of the frames in a traceback that is text."""
    found = re.findall(r'File "([^"]+)", line (\d+), in (\w+)', traceback)
    return [(file, int(line), function) for file, line, function in found]


def _layer(error: BaseException, model: Any) -> str:
    """Return name and type of the innermost layer of the model that was running."""
    nn = sys.modules["torch"].nn
    names = {id(module): name for name, module in model.named_modules()}
    found, trace = "", error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and names.get(id(owner)):
            found = f"`{names[id(owner)]}` ({type(owner).__name__})"
        trace = trace.tb_next
    return found


def _kind_of(file: str) -> type[InputError] | None:
    for place in (file, *map(str, Path(file).parents)):
        if place in _KINDS:
            return _KINDS[place]
    return None


def is_own(file: str) -> bool:
    """Tell whether a file of a frame is one of kdeploy's."""
    return file.startswith(OWN + "/") or file.startswith(OWN + "\\")
