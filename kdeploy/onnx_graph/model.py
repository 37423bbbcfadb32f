"""A model that is only a file: run by ONNX Runtime, it has an answer and nothing to train."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdeploy.errors import ModelError
from kdeploy.onnx_graph.checks import (
    INPUT_TYPES,
    check_input,
    content_sha256,
    read_onnx,
    refused,
    unfit,
)
from kdeploy.system.temporary import temporary_folder
from kdeploy.torch_module.named_inputs import NamedTensors, arguments_of

TYPES: Mapping[str, torch.dtype] = {
    "tensor(float)": torch.float32,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
}
"""Of inputs, as ONNX Runtime spells them; one alone is float32 or int64, see `input_fitting`."""


class OnnxModel(nn.Module):
    """Looks like a model to whoever asks it; nothing in it can be watched or compiled.

    A copy is one more session of the same file. A file of one fixed batch size is asked as often
    as a batch needs. One of several inputs is called by their names.

    Raises:
        FileMissing: there is no such file, or not all that belongs to it.
        ModelError: it is no ONNX file, ONNX Runtime cannot open it, or it takes what data are not.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._keeps_alive: Sequence[OnnxModel] = ()
        # Not a decorator: it imports what takes as long as torch itself, and many only look here.
        self._uncompiled = torch.compiler.disable(OnnxModel._answer)  # type: ignore[no-untyped-call]
        self._session, self._process = _opened(path), os.getpid()
        self._inputs = {taken.name: taken for taken in self._session.get_inputs()}
        self._batch_size = _fixed_batch(path, self._inputs)
        # In the state, so that what is kept for one file is never taken for another's.
        digest = bytearray.fromhex(content_sha256(path))
        self.register_buffer("sha256", torch.frombuffer(digest, dtype=torch.uint8))

    @classmethod
    def written_by(cls, write: Callable[[Path], None]) -> OnnxModel:
        """Return the model of a file that `write(path)` makes; the file goes when the model does.

        Copies of the model keep it too, and `copy_file` makes it last.
        """
        with ExitStack() as stack:
            folder = stack.enter_context(temporary_folder("onnx"))
            write(folder / "model.onnx")
            model = cls(folder / "model.onnx")
            weakref.finalize(model, stack.pop_all().close)
        return model

    @property
    def batch_size(self) -> int | None:
        """The only batch size that the file takes; None where it takes any."""
        return self._batch_size

    @property
    def input_names(self) -> tuple[str, ...]:
        """By which the file is called; one input alone may be given without."""
        return tuple(self._inputs)

    def first_operator_without_numbers(self, x: Tensor) -> str | None:
        """Return the first operator of the file that answers NaN, or else infinity, to a batch."""
        import onnx

        program = onnx.load(self.path)
        known = {output.name for output in program.graph.output}
        made = {name: node for node in program.graph.node for name in node.output if name}
        program.graph.output.extend(
            onnx.ValueInfoProto(name=name) for name in made if name not in known
        )
        if program.ByteSize() > onnx.checker.MAXIMUM_PROTOBUF:
            return None
        twin = _session_of(program.SerializeToString())
        size = self._batch_size or len(x)
        values = x[torch.arange(size) % len(x)]  # a fixed batch is filled up by items again
        arguments, keywords = arguments_of(values)
        fed = {name: t.numpy() for name, t in self._typed(arguments, keywords).items()}
        names = [output.name for output in twin.get_outputs()]
        answers = dict(zip(names, twin.run(names, fed), strict=True))
        floats = [
            (name, torch.from_numpy(answers[name])) for name in made if _is_float(answers[name])
        ]
        # NaN first: an infinity before it may be meant so, as in a mask.
        nan = (name for name, value in floats if value.isnan().any())
        infinite = (name for name, value in floats if value.isinf().any())
        first = next(nan, next(infinite, None))
        return f"{made[first].op_type} {made[first].name}".strip() if first else None

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxModel:
        twin = OnnxModel(self.path)
        twin._keeps_alive = (self,)  # in a tuple: a module of its own would be a part of it
        return twin

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Return the file's first output for a batch, on the batch's device."""
        answer: Tensor = self._uncompiled(self, inputs, named)
        return answer

    def _answer(self, inputs: tuple[Tensor, ...], named: Mapping[str, Tensor]) -> Tensor:
        values = NamedTensors(self._typed(inputs, named))
        size = self._batch_size or max(1, len(values))
        answers = [self._run(values[at : at + size]) for at in range(0, max(1, len(values)), size)]
        return torch.cat(answers).to(next(iter((*inputs, *named.values()))).device)

    def _typed(self, inputs: tuple[Tensor, ...], named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors by the file's names, in the types that it takes.

        Raises:
            ModelError: they are not the file's inputs.
        """
        given = {**dict(zip(self._inputs, inputs, strict=False)), **named}
        if set(given) != set(self._inputs) or len(inputs) + len(named) != len(self._inputs):
            asked = ", ".join(f"`{name}`" for name in named) or f"{len(inputs)} without names"
            raise ModelError(
                f"{self.path} takes {', '.join(f'`{name}`' for name in self._inputs)}, and is "
                f"given {asked}",
                hint="call the arrays of the data as the inputs of the file",
            )
        return {
            name: given[name].detach().cpu().contiguous().to(TYPES[taken.type])
            for name, taken in self._inputs.items()
        }

    def _run(self, values: NamedTensors) -> Tensor:
        if self._process != os.getpid():
            # The session's threads are not in a forked process: it would wait for them for ever.
            self._session, self._process = _opened(self.path), os.getpid()
        count = self._batch_size or len(values)
        filled = values[torch.arange(count).clamp(max=len(values) - 1)] if len(values) else values
        fed = {name: tensor.numpy() for name, tensor in filled.tensors.items()}
        try:
            first = self._session.run(None, fed)[0]
        except Exception as error:  # onnxruntime's errors have no common base
            shapes = [taken.shape for taken in self._inputs.values()]
            takes = shapes[0] if len(shapes) == 1 else shapes
            raise unfit(self.path, fed, takes, error) from error
        return torch.from_numpy(first)[: len(values)]


def _fixed_batch(path: Path, inputs: Mapping[str, Any]) -> int | None:
    """Return the only batch size that a file takes, None where it is open.

    Raises:
        ModelError: its inputs are not all of one batch.
    """
    firsts = {name: next(iter(taken.shape), None) for name, taken in inputs.items()}
    sizes = {first for first in firsts.values() if isinstance(first, int)}
    scalars = [name for name, taken in inputs.items() if not taken.shape and len(inputs) > 1]
    if scalars or len(sizes) > 1:
        shapes = ", ".join(f"`{name}` {list(taken.shape)}" for name, taken in inputs.items())
        raise ModelError(
            f"{path} takes inputs that are not all of one batch: {shapes}",
            hint="a file with a state or a setting among its inputs is measured and packaged as it "
            "is: leave `--data` out",
        )
    return sizes.pop() if sizes else None


def _is_float(value: Any) -> bool:
    return getattr(getattr(value, "dtype", None), "kind", "") == "f"


def _session_of(content: bytes) -> Any:
    """Open a graph as it stands: an optimised one would not have all of its tensors."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _opened(path: Path) -> Any:
    import onnxruntime

    read_onnx(path)
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base
        raise refused("ONNX Runtime", path, error) from error
    types = {i.name: i.type for i in session.get_inputs()}
    check_input(path, types, known=frozenset(TYPES) if len(types) > 1 else INPUT_TYPES)
    return session
