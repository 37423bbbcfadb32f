"""A file that prepares its pictures and reads its outputs by itself, proven against Python.

Two proofs before anything is packaged. On real items, at other sizes too where the data resize
pictures, what the file makes of pixels is what this kdeploy makes of them: equal, or with a resize
at most one step of 255 away. And from there on the answer is that of the file before, read by the
task's own decoder in numpy. So whatever was measured of that file holds of this one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.errors import ModelError, ParityFailed, RecipeError
from kdeploy.package.runner.python.given import sized
from kdeploy.preprocessing import Preprocessing
from kdeploy.tasks.contract import has_class_rows

FOLDS_INTO = frozenset({"onnx"})
"""Formats of files that can be changed so."""
STEP = 1.0 + 1e-3
"""Of 255, that a resized pixel may be off."""
SAME = 1e-3
"""The same of pixels that are not resized: what float32 rounds."""
READ_TOLERANCE, READ_SHARE = 1e-3, 0.999
"""What numbers that are read may differ by, and the share that has to."""
Array = NDArray[Any]
Arrays = Mapping[str, Array]
Read = tuple[Arrays, Mapping[str, Any]]
"""Outputs by name, and the task that reads them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folding:
    """What of a file's surroundings is to be part of it."""

    suppresses: bool = False
    """Of a detector: that worse boxes of one object are left out."""


def folding_of(is_folded: bool, suppresses: bool) -> Folding | None:
    """Return what is asked for, None for nothing.

    Raises:
        RecipeError: suppression alone.
    """
    if suppresses and not is_folded:
        raise RecipeError(
            "`fold_suppression` adds to `fold_preprocessing`, which is not asked for",
            hint="set `fold_preprocessing: true` (`--fold-preprocessing`) too",
        )
    return Folding(suppresses=suppresses) if is_folded else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What is done in Python before and after a file runs."""

    form: Preprocessing
    """How stored items become its input."""
    task: Mapping[str, Any]
    """What its outputs mean; empty where they are classes."""
    items: Array
    """Stored ones (N, channels, height, width), real."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """A file with all of that inside."""

    path: Path
    pixels: NDArray[np.uint8]
    """Items (N, height, width, channels) as it takes them."""
    task: Mapping[str, Any]
    """How its outputs are read; empty where they are classes."""


def check_folds(format_of_file: str, form: Preprocessing, dtype: Any) -> None:
    """Refuse, before any work, what cannot be folded whatever the file holds.

    Args:
        format_of_file: That is packaged.
        form: How stored items become its input.
        dtype: Of stored items.

    Raises:
        ModelError: it is no ONNX file, does not take one picture, or items are no bytes.
    """
    if format_of_file not in FOLDS_INTO:
        raise ModelError(
            f"preprocessing folds into an ONNX file, and the one to package is `{format_of_file}`",
            hint="export `onnx` alone, or leave `fold_preprocessing` (`--fold-preprocessing`) out",
        )
    from kdeploy.onnx_graph.folded_input import check_form

    check_form(form)
    if dtype != np.uint8:
        raise ModelError(
            f"preprocessing folds into a file that takes bytes, and the data hold {dtype}",
            hint="leave `fold_preprocessing` (`--fold-preprocessing`) out, or store uint8 pixels",
        )


def folded(file: Path, target: Path, around: Surroundings, folding: Folding) -> Folded:
    """Write `file` to `target` with preprocessing and decoding inside.

    Args:
        file: An ONNX file of one input.
        target: Where the other one goes.
        around: What is to be inside.
        folding: How.

    Raises:
        ModelError: the file cannot be changed so.
        ParityFailed: the file does not compute the same.
    """
    import onnx
    import onnx_ir as ir

    from kdeploy.onnx_graph.folded_input import fold_preprocessing
    from kdeploy.onnx_graph.folded_output import fold_decoding

    form, items = around.form, around.items
    before = _answers(file, form.apply(items))
    model = ir.from_proto(onnx.load(file))
    read = fold_decoding(
        model, around.task, are_logits=not _are_probabilities(before), suppresses=folding.suppresses
    )
    inner = fold_preprocessing(model, form)
    written = onnx.shape_inference.infer_shapes(ir.to_proto(model))
    onnx.checker.check_model(written)
    onnx.save(written, target)
    for pixels in _pictures(items, form):
        made, expected = _inner(target, inner, pixels), _in_python(pixels, form)
        _check_pixels(made, expected, form)
        _check_answers((_answers(file, made), around.task), (_answers(target, pixels), read))
    golden = next(_pictures(items, form))
    return Folded(path=target, pixels=golden, task=read)


def _pictures(items: Array, form: Preprocessing) -> Iterator[NDArray[np.uint8]]:
    """Yield the items channels last: larger, smaller and as they are where pictures are resized."""
    from PIL import Image

    last = np.ascontiguousarray(items.transpose(0, 2, 3, 1))
    _, height, width = form.shape
    for tall, wide in ((1.5, 1.25), (0.7, 0.8)) if form.resize else ():
        size = (round(width * wide) + 1, round(height * tall) + 1)
        pictures = [Image.fromarray(_squeezed(x)).resize(size) for x in last]
        yield np.stack([np.asarray(p) for p in pictures]).reshape(len(last), *size[::-1], -1)
    yield last


def _squeezed(picture: Array) -> Array:
    return picture[..., 0] if picture.shape[-1] == 1 else picture


def _in_python(pixels: NDArray[np.uint8], form: Preprocessing) -> Array:
    """Return what the runner of a bundle makes of pictures."""
    from PIL import Image

    told = {"shape": form.shape, "resize": form.resize}
    stored = [sized(Image.fromarray(_squeezed(x)), Path("item"), told) for x in pixels]
    return np.asarray(form.apply(np.concatenate(stored)))


def _check_pixels(made: Array, expected: Array, form: Preprocessing) -> None:
    spread = np.asarray(form.std, np.float32).reshape(-1, 1, 1) / np.float32(form.scale)
    steps = float(np.abs((made - expected) * spread).max())
    allowed = STEP if form.resize else SAME
    if not steps <= allowed:
        raise _failed(
            f"its pixels become inputs that are up to {steps:.3g} of 255 away from Python's; "
            f"allowed are {allowed:.3g}"
        )


def _check_answers(before: Read, after: Read) -> None:
    for row in range(len(next(iter(before[0].values())))):
        one, other = (
            {name: x[row : row + 1] for name, x in answers.items()}
            for answers, _ in (before, after)
        )
        wrong = _difference((one, before[1]), (other, after[1]))
        if wrong:
            raise _failed(f"of item {row} it tells another answer: {wrong}")


def _difference(before: Read, after: Read) -> str:
    """Return how the readings of two answers differ; "" where they do not."""
    task = before[1]
    decoder = _decoder(str(task.get("name", "")))
    if decoder is None:
        return _apart(*(_probabilities(next(iter(a.values()))) for a, _ in (before, after)))
    if hasattr(decoder, "missing") and not task["parameters"]["head"]:
        one, other = decoder.found_in(*before), decoder.found_in(*after)
        # Of two boxes that cover each other as much as is allowed, rounding takes either.
        return _apart(one, other) and str(
            decoder.missing(other, one, task) or decoder.missing(one, other, task)
        )
    told = [list(_parts(decoder.decode(*read))) for read in (before, after)]
    texts = [[part for part in parts if isinstance(part, str)] for parts in told]
    if texts[0] != texts[1]:
        return f"{' '.join(texts[0])[:100]} became {' '.join(texts[1])[:100]}"
    return _apart(*(np.array([n for n in parts if not isinstance(n, str)]) for parts in told))


def _decoder(name: str) -> Any:
    """Return what reads the outputs of a task; None where they are classes."""
    if not name or (has_class_rows(name) and name != "tokens"):
        return None
    return import_module(f"kdeploy.tasks.decoding.{name}")


def _parts(told: Any) -> Iterator[str | float]:
    """Yield the texts and numbers of what a decoder tells, one after the other."""
    if isinstance(told, Mapping):
        for name in sorted(told):
            yield name
            yield from _parts(told[name])
    elif isinstance(told, list):
        for one in told:
            yield from _parts(one)
    else:
        yield told if isinstance(told, str) else float(told)


def _apart(one: Array, other: Array) -> str:
    if one.shape != other.shape:
        return f"{one.shape} numbers became {other.shape}"
    away = np.abs(one - other)
    is_near = away <= READ_TOLERANCE * np.maximum(1, np.abs(one))
    return "" if is_near.mean() >= READ_SHARE else f"it differs by up to {float(away.max()):.3g}"


def _are_probabilities(answers: Arrays) -> bool:
    first = next(iter(answers.values()))
    is_one = first.ndim > 1 and np.allclose(first.sum(axis=-1), 1, atol=1e-3)
    return bool(is_one and (first >= 0).all())


def _probabilities(scores: Array) -> Array:
    if _are_probabilities({"": scores}):
        return scores
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True))


def _answers(file: Path, inputs: Any) -> Arrays:
    """Return the outputs of all items, one item a call as a device has it."""
    return _run(str(file), inputs)


def _inner(file: Path, name: str, pixels: Array) -> Array:
    """Return an inner tensor for all items."""
    import onnx

    model = onnx.load(file)
    del model.graph.output[:]
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
    )
    return _run(model.SerializeToString(), pixels)[name]


def _run(model: str | bytes, inputs: Any) -> Arrays:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    [taken], names = session.get_inputs(), [output.name for output in session.get_outputs()]
    rows = [session.run(names, {taken.name: x[None]}) for x in inputs]
    return {n: np.concatenate([row[i] for row in rows]) for i, n in enumerate(names)}


def _failed(reason: str) -> ParityFailed:
    return ParityFailed(
        f"the file with its preprocessing inside does not compute the same: {reason}",
        hint="leave `fold_preprocessing` (`--fold-preprocessing`) out; report it with the model",
    )
