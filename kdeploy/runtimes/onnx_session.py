"""A session of ONNX Runtime: opened, run, and asked what it executes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from kdeploy.errors import ModelError, Unavailable
from kdeploy.onnx_graph.block_weights import counted, has_blocks
from kdeploy.onnx_graph.checks import NUMPY_TYPES, check_inputs, refused, unfit
from kdeploy.onnx_graph.operators import integer_and_eligible
from kdeploy.onnx_graph.operators import is_quantized as has_quantized
from kdeploy.onnx_graph.sparse_weights import num_two_four_of_file
from kdeploy.runtimes.contract import Answer, Given, Proof, by_name
from kdeploy.tensor_info import TensorInfo

Options = Callable[[], Any]


class OnnxSession:
    """One opened file; `infer` is the path that is timed, so it does nothing else."""

    def __init__(
        self,
        path: Path,
        options: Options,
        providers: Sequence[Any],
        *,
        refusal: Callable[[str, Path, Exception], ModelError] = refused,
    ) -> None:
        """Open the file.

        Args:
            path: The file.
            options: Makes the options of a session.
            providers: Execution providers, the one that is wanted first.
            refusal: What it means that the library, named so, cannot open the file.
        """
        self._path, self._options, self._providers = path, options, providers
        self._refusal = refusal
        self._session = self._opened(options())
        taken = self._session.get_inputs()
        check_inputs(path, {i.name: NUMPY_TYPES.get(i.type, "") for i in taken})
        self.inputs = tuple(_info(i) for i in taken)
        self._names = [i.name for i in taken]
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._run = self._session.run

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """What the file gives."""
        return tuple(_info(output) for output in self._session.get_outputs())

    @property
    def session(self) -> Any:
        """The `InferenceSession`, for whom binds its inputs and outputs to memory of a GPU."""
        return self._session

    def infer(self, given: Given) -> Answer:
        """Return every output by its name."""
        feeds = by_name(given, self._names, self._path)
        try:
            return dict(zip(self._outputs, self._run(self._outputs, feeds), strict=True))
        except Exception as error:  # onnxruntime's errors have no common base
            raise unfit(self._path, feeds, self.takes(), error) from error

    def takes(self) -> Any:
        """Return the shape that the input has in the file, of several all inputs."""
        if len(self.inputs) == 1:
            return list(self.inputs[0].shape)
        return ", ".join(map(str, self.inputs))

    def proof_of_use(self) -> Proof:
        """Return what a session with the same options executes, from the graph that it saves."""
        import onnx

        source = onnx.load(self._path, load_external_data=False)
        in_blocks = has_blocks(source)
        return self.proof_by(
            is_quantized=has_quantized(operators_in(source.graph.node)) and not in_blocks,
            in_blocks=in_blocks,
            sparse_eligible=num_two_four_of_file(self._path),
        )

    def proof_by(
        self,
        *,
        is_quantized: bool | None = None,
        in_blocks: bool = False,
        sparse_eligible: int = 0,
    ) -> Proof:
        """Return what is executed, and beside it what is known of the file.

        Args:
            is_quantized: None: as the executed graph says.
            in_blocks: Weights are codes in blocks.
            sparse_eligible: Layers of 2:4 sparse weights.
        """
        options, executed = self._options(), self._executed()
        operators = operators_in(executed.node)
        four_bit, with_weights = counted(executed)
        integer, eligible = integer_and_eligible(operators)
        return Proof(
            provider=self._session.get_providers()[0],
            eligible=eligible,
            integer=integer,
            is_quantized=has_quantized(operators) if is_quantized is None else is_quantized,
            sparse_eligible=sparse_eligible,
            four_bit=four_bit,
            four_bit_eligible=with_weights if in_blocks or four_bit else 0,
            operators=operators,
            settings={"intra_op_num_threads": options.intra_op_num_threads, "allow_spinning": True},
        )

    def _executed(self) -> Any:
        """Return the graph that a session with the same options saves."""
        import onnx

        from kdeploy.system.temporary import (
            temporary_folder,  # 0.7 MB; the peak memory has been read
        )

        with temporary_folder("executed") as folder:
            options = self._options()
            options.log_severity_level = 3  # it warns that the saved graph fits this CPU only
            options.optimized_model_filepath = str(folder / "executed.onnx")
            # A second session: to save the graph in the first would be part of the time that it
            # opens in.
            self._opened(options)
            executed = onnx.load(options.optimized_model_filepath, load_external_data=False)
        return executed.graph

    def _opened(self, options: Any) -> Any:
        import onnxruntime

        try:
            session = onnxruntime.InferenceSession(
                str(self._path), options, providers=list(self._providers)
            )
        except Exception as error:  # onnxruntime's errors have no common base
            library = f"ONNX Runtime {onnxruntime.__version__}"
            raise self._refusal(library, self._path, error) from error
        first = self._providers[0]
        wanted = first[0] if isinstance(first, tuple) else first
        # Where a provider cannot start, ONNX Runtime falls back to the CPU without an exception.
        if session.get_providers()[0] != wanted:
            raise Unavailable(
                f"{self._path} would run on {session.get_providers()[0]} instead of {wanted}",
                hint="see `kdeploy doctor` for what that provider needs",
            )
        return session


def _info(port: Any) -> TensorInfo:
    dtype = NUMPY_TYPES.get(port.type, port.type)
    return TensorInfo(name=port.name, shape=_shape(port.shape), dtype=dtype)


def _shape(sizes: Sequence[Any]) -> tuple[int | str, ...]:
    return tuple(size if isinstance(size, int) else str(size or "?") for size in sizes)


def operators_in(nodes: Iterable[Any]) -> dict[str, int]:
    """Return how often each operator stands in a graph and the graphs inside its nodes."""
    counts: Counter[str] = Counter()
    for node in nodes:
        counts[node.op_type] += 1
        for attribute in node.attribute:
            counts.update(operators_in(attribute.g.node))
            for graph in attribute.graphs:
                counts.update(operators_in(graph.node))
    return dict(sorted(counts.items()))
