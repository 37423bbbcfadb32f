"""A model that is only a file: run by ONNX Runtime, it has an answer and nothing to train."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdeploy.onnx_graph.checks import (
    check_input,
    content_sha256,
    read_onnx,
    refused,
    unfit,
)
from kdeploy.system.temporary import temporary_folder


class OnnxModel(nn.Module):
    """Looks like a model to whoever asks it; nothing in it can be watched or compiled.

    A copy is one more session of the same file. A file of one fixed batch size is asked as often
    as a batch needs.

    Raises:
        FileMissing: there is no such file, or not all that belongs to it.
        ModelError: it is no ONNX file, ONNX Runtime cannot open it, or it takes more than one
            tensor.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._keeps_alive: Sequence[OnnxModel] = ()
        # Not a decorator: it imports what takes as long as torch itself, and many only look here.
        self._uncompiled = torch.compiler.disable(OnnxModel._answer)  # type: ignore[no-untyped-call]
        self._session, self._process = _opened(path), os.getpid()
        (self._input,) = self._session.get_inputs()
        self._is_integer = self._input.type == "tensor(int64)"
        fixed = next(iter(self._input.shape), None)
        self._batch_size = fixed if isinstance(fixed, int) else None
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
        fed = (values.long() if self._is_integer else values.float()).numpy()
        names = [output.name for output in twin.get_outputs()]
        answers = dict(zip(names, twin.run(names, {self._input.name: fed}), strict=True))
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

    def forward(self, x: Tensor) -> Tensor:
        """Return the file's first output for a batch, on the batch's device."""
        answer: Tensor = self._uncompiled(self, x)
        return answer

    def _answer(self, x: Tensor) -> Tensor:
        values = x.detach().cpu().contiguous()
        values = values.long() if self._is_integer else values.float()
        pieces = torch.split(values, self._batch_size or max(1, len(values)))
        answers = [self._run(piece) for piece in pieces]
        return torch.cat(answers).to(x.device)

    def _run(self, values: Tensor) -> Tensor:
        if self._process != os.getpid():
            # The session's threads are not in a forked process: it would wait for them for ever.
            self._session, self._process = _opened(self.path), os.getpid()
        missing = (self._batch_size or len(values)) - len(values)
        fed = torch.cat([values, values[-1:].expand(missing, *values.shape[1:])])
        try:
            first = self._session.run(None, {self._input.name: fed.numpy()})[0]
        except Exception as error:  # onnxruntime's errors have no common base
            raise unfit(self.path, {self._input.name: fed}, self._input.shape, error) from error
        return torch.from_numpy(first)[: len(values)]


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
    check_input(path, {i.name: i.type for i in session.get_inputs()})
    return session
