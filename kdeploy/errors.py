"""What can go wrong, one class per cause.

KdeployError
├── InputError              exit 2: the user's input was wrong
│   ├── RecipeError         a recipe that is not YAML, a wrong type, a key without sense
│   ├── UnknownName         a technique, key or reference that does not exist; names the nearest
│   ├── OrderError          steps in an order that cannot work
│   ├── FileMissing         a file or folder that is not there
│   ├── DataError           empty folder, corrupt image, labels out of range
│   ├── ModelError          weights that do not fit, other class counts, a model that cannot run
│   ├── GraphPassFailed     a pass over an ONNX graph that could not be made of this one
│   ├── NotCalibrated       a quantizer that saw no data
│   ├── ArtifactCorrupt     a payload or bundle whose checksum does not hold
│   ├── UntrustedBundle     a bundle that its known maker has not signed, or an older one than asked
│   └── TrainingDiverged    a loss that is not a number, or stays zero
├── GateFailed              exit 1: a measured number misses its bound
│   └── ParityFailed        an exported file that does not compute what the model computes
└── Unavailable             exit 3: something needed is missing on this machine
    └── MissingDependency   a library that is not installed; the hint is its pip command
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import ClassVar

LONGEST_VALUE = 200
"""Characters of a value between backticks; more are cut out of its middle."""
LONGEST_WORD = 500
"""Of anything without a space: longer than the paths that people have."""
LONGEST_TEXT = 6000
_VALUE = re.compile(rf"`([^`]{{{LONGEST_VALUE + 1},}})`")
_WORD = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")


class KdeployError(Exception):
    """The base of all errors that users see: a message, and a hint with the way out."""

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = shown(message)
        self.hint = None if hint is None else shown(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\n\nhint: {self.hint}" if self.hint else self.message


def shown(text: str) -> str:
    """Return text that may hold what others wrote, fit for a terminal and a log.

    Control characters, escape sequences and broken Unicode are spelt out; of long values, long
    words and long texts the middle is left out.
    """
    values = _VALUE.sub(lambda found: f"`{_cut(found[1], LONGEST_VALUE)}`", spelt_out(text))
    words = _WORD.sub(lambda found: _cut(found[0], LONGEST_WORD), values)
    return _cut(words, LONGEST_TEXT)


def spelt_out(text: str) -> str:
    """Return text whose control characters and broken Unicode are written as Python does."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t\u00a0\u202f" else _spelt(c) for c in text)


def _spelt(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    kept = 3 * longest // 4
    return f"{text[:kept]}…({len(text)} characters)…{text[len(text) - longest // 8 :]}"


class InputError(KdeployError):
    """The user's input was wrong."""


class RecipeError(InputError):
    """A recipe that cannot be read or does not make sense."""


class UnknownName(InputError):
    """A name that does not exist; the hint names the nearest valid one."""

    @classmethod
    def among(cls, what: str, name: str, valid: Iterable[str], *, where: str = "") -> UnknownName:
        """Return the error for `name`, a `what` that is not in `valid`."""
        import difflib  # 0.2 MB, and this module is part of every measured process

        names = sorted(valid)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        place = f" in {where}" if where else ""
        listed = ", ".join(f"`{n}`" for n in names) or "none"
        hint = f"did you mean `{near[0]}`? valid: {listed}" if near else f"valid: {listed}"
        return cls(f"there is no {what} `{name}`{place}", hint=hint)


class OrderError(InputError):
    """Steps in an order that cannot work."""


class FileMissing(InputError):
    """A file or folder that is not there."""


class DataError(InputError):
    """Data that cannot be used."""


class ModelError(InputError):
    """A model that cannot be built, loaded or run."""


class GraphPassFailed(InputError):
    """A pass over an ONNX graph required something else, raised, or did not what it promises."""


class NotCalibrated(InputError):
    """A quantizer that saw no data."""


class ArtifactCorrupt(InputError):
    """A stored payload whose checksum does not hold."""


class UntrustedBundle(InputError):
    """A bundle that was not signed by whom it should, or one that is older than it may be."""


class TrainingDiverged(InputError):
    """A loss that is not a number, or a component that stays zero."""


class GateFailed(KdeployError):
    """A measured number misses its bound."""

    exit_code = 1


class ParityFailed(GateFailed):
    """An exported file that does not compute what the model computes."""


class Unavailable(KdeployError):
    """Something needed is missing on this machine."""

    exit_code = 3


class MissingDependency(Unavailable):
    """A library that is not installed."""

    @classmethod
    def named(cls, library: str, *, needed_for: str, pip: str | None = None) -> MissingDependency:
        """Return the error with the pip command as its hint."""
        return cls(
            f"{needed_for} needs the library `{library}`, which cannot be imported here",
            hint=f"pip install {pip or library}",
        )
