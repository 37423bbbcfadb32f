"""ExecuTorch on the processor: a `.pte` file, its layers in XNNPACK's kernels.

The Python runtime is for tests and for measuring, and imports torch; devices run the same file from
C++. https://docs.pytorch.org/executorch/stable/runtime-python-api-reference.html
"""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kdeploy.errors import FileMissing, ModelError
from kdeploy.machine import allowed_cores
from kdeploy.runtimes.contract import Answer, Given, Proof, by_name, runtime
from kdeploy.runtimes.pte_ends import ends_of, read_ends
from kdeploy.tensor_info import TensorInfo

METHOD = "forward"
IDENTIFIER = re.compile(rb"ET\d\d", re.DOTALL)
"""Of the flatbuffer, in its bytes 4 to 7."""
# Kernels with weights, as XNNPACK names them and as ExecuTorch names those outside of it.
ELIGIBLE = re.compile(
    r"(Convolution|Deconvolution|Fully Connected|Batch Matrix Multiply)\b"
    r"|native_call_(convolution|linear|addmm|mm|bmm)\b"
)
INTEGER = re.compile(r"\b(QS8|QU8|QC8|QD8)")
CODES = re.compile(r"\bQ[SUCD]8|Convert .*Q")
# What an event of its profiler stands for that is no kernel.
UNCOMPUTED = re.compile(r"Method::|Program::|DELEGATE_CALL|OPERATOR_CALL")
_pools: list[int] = []
"""The threads of each pool that this process has had."""


@runtime(
    formats={"executorch"},
    device="cpu",
    suffixes={".pte": "executorch"},
    libraries=("executorch",),
)
class Executorch:
    """A `.pte` file in ExecuTorch's own runtime."""

    def __init__(self, *, threads: int | None = None) -> None:
        """Import the library and set its threads for this process.

        Args:
            threads: Of its pool; none: all cores that this process may use.
        """
        self._library = _library()
        # It counts the machine's cores, also those that this process may not use.
        self._threads = threads or allowed_cores()
        self._method: Any = None
        self._pool = 0

    @staticmethod
    def unavailable() -> str | None:
        if importlib.util.find_spec("executorch") is None:
            return "the library `executorch` is not installed: pip install 'kdeploy[executorch]'"
        return None

    @staticmethod
    def inputs_of(path: Path) -> tuple[TensorInfo, ...]:
        return read_ends(path).inputs

    @staticmethod
    def outputs_of(path: Path) -> tuple[TensorInfo, ...]:
        return read_ends(path).outputs

    def open(self, path: Path) -> None:
        self._path = path
        program = self._opened()
        ends = ends_of(program, path)
        self._pool = _pool_of(self._library, self._threads)
        self._method = self._loaded(program)
        self.inputs, self.outputs = ends.inputs, ends.outputs
        self._names = [info.name for info in self.inputs]
        self._output_names = [info.name for info in self.outputs]

    def infer(self, given: Given) -> Answer:
        import torch

        feeds = by_name(given, self._names, self._path)
        tensors = [torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in self._names]
        pool = _pool_of(self._library, self._threads)
        if self._pool != pool:
            # Loaded with a pool of threads that is no more: it would wait for them for ever.
            self._method, self._pool = self._loaded(self._opened()), pool
        try:
            answers = self._method.call(tensors)
        except RuntimeError as error:
            raise self._unfit(feeds, error) from error
        return {n: a.numpy() for n, a in zip(self._output_names, answers, strict=True)}

    def proof_of_use(self) -> Proof:
        kernels = Counter(self._kernels())
        eligible = {name: n for name, n in kernels.items() if ELIGIBLE.match(name)}
        return Proof(
            provider="ExecuTorch, XNNPACK",
            eligible=sum(eligible.values()),
            integer=sum(n for name, n in eligible.items() if INTEGER.search(name)),
            is_quantized=any(CODES.search(name) for name in kernels),
            operators=dict(sorted(kernels.items())),
            settings={
                "threads": self._threads,
                "outside_xnnpack": sum(n for k, n in kernels.items() if k.startswith("native")),
            },
        )

    def close(self) -> None:
        self._method = None

    def _opened(self, **options: Any) -> Any:
        _check_beginning(self._path)
        verification = self._library.Verification.InternalConsistency
        try:
            return self._library._load_program(
                str(self._path), program_verification=verification, **options
            )
        except RuntimeError as error:
            raise self._refused(error) from error

    def _loaded(self, program: Any) -> Any:
        """Return the method that computes: XNNPACK makes its kernels now, not in the first call."""
        try:
            return program.load_method(METHOD)
        except RuntimeError as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> ModelError:
        return ModelError(
            f"ExecuTorch cannot open {self._path}: {str(error)[:300]}",
            hint="export it again: `kdeploy export executorch`",
        )

    def _kernels(self) -> Iterator[str]:
        """Yield the kernels of one run, from its profiler; the file is opened once more for it."""
        import torch

        from kdeploy.system.temporary import temporary_folder

        _pool_of(self._library, self._threads)
        program = self._opened(enable_etdump=True)
        method = self._loaded(program)
        sizes = [[n if isinstance(n, int) else 1 for n in info.shape] for info in self.inputs]
        types = [getattr(torch, info.dtype) for info in self.inputs]
        method.call([torch.zeros(s, dtype=t) for s, t in zip(sizes, types, strict=True)])
        with temporary_folder("etdump") as folder:
            program.write_etdump_result_to_file(str(folder / "run.etdp"))
            yield from _events(folder / "run.etdp")

    def _unfit(self, feeds: Any, error: Exception) -> ModelError:
        found = ", ".join(f"`{n}`: {feeds[n].dtype} {list(feeds[n].shape)}" for n in self._names)
        takes = ", ".join(map(str, self.inputs))
        return ModelError(
            f"{self._path} cannot run {found}; it takes {takes}: {str(error)[:200]}",
            hint="check the data against the file, and the batch against `max_batch` of its export",
        )


def _library() -> Any:
    from kdeploy.quantization.suppress_warnings import without_converter_noise

    with without_converter_noise():
        from executorch.extension.pybindings import portable_lib
    return portable_lib


def _pool_of(library: Any, threads: int) -> int:
    """Return which pool of threads computes now, counted from 1: the process has one at a time.

    A method keeps the pool that it was loaded with; another number of threads makes another pool
    and ends the one before.
    """
    if not _pools or _pools[-1] != threads:
        library._unsafe_reset_threadpool(threads)
        _pools.append(threads)
    return len(_pools)


def _check_beginning(path: Path) -> None:
    if not path.is_file():
        raise FileMissing(f"there is no file {path}", hint="`kdeploy export executorch` writes one")
    with path.open("rb") as file:
        found = file.read(8)[4:]
    if not IDENTIFIER.fullmatch(found):
        raise ModelError(
            f"{path} is no file of ExecuTorch: it begins otherwise",
            hint="export it again: `kdeploy export executorch`",
        )


def _events(path: Path) -> Iterator[str]:
    from kdeploy.quantization.suppress_warnings import without_converter_noise

    with without_converter_noise():
        from executorch.devtools import Inspector

        blocks = Inspector(etdump_path=str(path)).event_blocks
    for block in blocks:
        for event in block.events:
            name = re.sub(r" #\d+$", "", event.name)
            if block.name == "Execute" and not UNCOMPUTED.match(name):
                yield name
