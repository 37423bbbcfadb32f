"""A session of ONNX Runtime with one input: opened, run, and asked what it executes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.errors import Unavailable
from kdeploy.onnx_graph.checks import INPUT_TYPES, WHOLE_TYPES, check_input, refused, unfit
from kdeploy.onnx_graph.operators import integer_and_eligible, is_quantized
from kdeploy.onnx_graph.sparse_weights import num_two_four_of_file
from kdeploy.runtimes.contract import Proof

if TYPE_CHECKING:
    from kdeploy.preprocessing import Inputs

Options = Callable[[], Any]


class OnnxSession:
    """One opened file; `infer` is the path that is timed, so it does nothing else."""

    def __init__(self, path: Path, options: Options, providers: Sequence[Any]) -> None:
        self._path, self._options, self._providers = path, options, providers
        self._session = _open(path, options(), providers)
        inputs = self._session.get_inputs()
        check_input(path, {i.name: i.type for i in inputs}, known=INPUT_TYPES | WHOLE_TYPES)
        self._input = inputs[0].name
        self._expected = inputs[0].shape
        self._outputs = [self._session.get_outputs()[0].name]
        self._run = self._session.run

    @property
    def session(self) -> Any:
        """The `InferenceSession`, for whom binds its inputs and outputs to memory of a GPU."""
        return self._session

    def infer(self, batch: Inputs) -> NDArray[np.float32]:
        """Return the first output."""
        try:
            output: NDArray[np.float32] = self._run(self._outputs, {self._input: batch})[0]
        except Exception as error:  # onnxruntime's errors have no common base
            raise unfit(self._path, batch.shape, self._expected, error) from error
        return output

    def infer_all(self, batch: Inputs) -> list[NDArray[np.float32]]:
        """Return every output."""
        try:
            outputs: list[NDArray[np.float32]] = self._run(None, {self._input: batch})
        except Exception as error:  # as above
            raise unfit(self._path, batch.shape, self._expected, error) from error
        return outputs

    def proof_of_use(self) -> Proof:
        """Return what a session with the same options executes, from the graph that it saves."""
        import onnx

        from kdeploy.system.temporary import (
            temporary_folder,  # 0.7 MB; the peak memory has been read
        )

        source = onnx.load(self._path, load_external_data=False)
        with temporary_folder("executed") as folder:
            options = self._options()
            options.log_severity_level = 3  # it warns that the saved graph fits this CPU only
            options.optimized_model_filepath = str(folder / "executed.onnx")
            _open(self._path, options, self._providers)
            executed = onnx.load(options.optimized_model_filepath, load_external_data=False)
        operators = _operators(executed.graph.node)
        integer, eligible = integer_and_eligible(operators)
        return Proof(
            provider=self._session.get_providers()[0],
            eligible=eligible,
            integer=integer,
            is_quantized=is_quantized(_operators(source.graph.node)),
            sparse_eligible=num_two_four_of_file(self._path),
            operators=operators,
            settings={"intra_op_num_threads": options.intra_op_num_threads, "allow_spinning": True},
        )


def _open(path: Path, options: Any, providers: Sequence[Any]) -> Any:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # onnxruntime's errors have no common base
        raise refused(f"ONNX Runtime {onnxruntime.__version__}", path, error) from error
    wanted = providers[0][0] if isinstance(providers[0], tuple) else providers[0]
    # Where a provider cannot start, ONNX Runtime falls back to the CPU without an exception.
    if session.get_providers()[0] != wanted:
        raise Unavailable(
            f"{path} would run on {session.get_providers()[0]} instead of {wanted}",
            hint="see `kdeploy doctor` for what that provider needs",
        )
    return session


def _operators(nodes: Iterable[Any]) -> dict[str, int]:
    """Return how often each operator stands in a graph and the graphs inside its nodes."""
    counts: Counter[str] = Counter()
    for node in nodes:
        counts[node.op_type] += 1
        for attribute in node.attribute:
            counts.update(_operators(attribute.g.node))
            for graph in attribute.graphs:
                counts.update(_operators(graph.node))
    return dict(sorted(counts.items()))
