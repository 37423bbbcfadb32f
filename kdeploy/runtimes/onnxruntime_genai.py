"""Language models in ONNX Runtime GenAI: its loop, its cache of keys and values, its tokenizer.

A folder of genai_config.json, ONNX file and tokenizer, named by its genai_config.json. The library
reports its use to its maker unless told not to; it is told so before it is imported.
https://onnxruntime.ai/docs/genai/
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdeploy.errors import ModelError
from kdeploy.machine import allowed_cores
from kdeploy.runtimes.contract import Answer, Given, Proof, runtime, unreadable
from kdeploy.runtimes.generation import token_ids

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdeploy.tensor_info import TensorInfo

CONFIG = "genai_config.json"
INPUT, OUTPUT = "input_ids", "output"
NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1"}


@runtime(
    formats={"genai"},
    device="cpu",
    suffixes={".json": "genai"},
    libraries=("onnxruntime-genai",),
)
class OnnxruntimeGenai:
    """A decoder with a cache, on the processor."""

    def __init__(self, *, threads: int | None = None) -> None:
        """Import the library.

        Args:
            threads: Threads inside an operator; none: all cores that this process may use.
        """
        os.environ.update(NO_TELEMETRY)
        import onnxruntime_genai

        self._genai = onnxruntime_genai
        self._threads = threads or allowed_cores()
        self._model: Any = None

    @staticmethod
    def unavailable() -> str | None:
        if importlib.util.find_spec("onnxruntime_genai") is None:
            return "the library `onnxruntime-genai` is not installed: pip install 'kdeploy[genai]'"
        return None

    @staticmethod
    def files_of(path: Path) -> list[Path]:
        from kdeploy.onnx_graph.checks import files_beside, read_onnx
        from kdeploy.store.transformers_models import tokenizer_files

        model = path.parent / _decoder_file(path)
        named = [model, *(path.parent / name for name in files_beside(read_onnx(model)))]
        return [path, *named, *tokenizer_files(path.parent)]

    @staticmethod
    def inputs_of(path: Path) -> tuple[TensorInfo, ...]:
        from kdeploy.tensor_info import TensorInfo

        _decoder_file(path)
        return (TensorInfo(name=INPUT, shape=("batch", "tokens"), dtype="int64"),)

    @staticmethod
    def parameters_of(path: Path) -> int:
        from kdeploy.onnx_graph.block_weights import count_weights

        return count_weights(path.parent / _decoder_file(path))

    def open(self, path: Path) -> None:
        _decoder_file(path)
        options = {"intra_op_num_threads": self._threads}
        try:
            config = self._genai.Config(str(path.parent))
            config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
            self._model = self._genai.Model(config)
        except Exception as error:  # the library's errors have no common base
            raise ModelError(
                f"ONNX Runtime GenAI {self._genai.__version__} cannot open {path.parent}: "
                f"{str(error)[:300]}",
                hint="export it again: `kdeploy export onnxruntime_genai`",
            ) from error
        self._path = path

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return self.inputs_of(self._path)

    def infer(self, given: Given) -> Answer:
        """Return the scores (batch, tokens, vocabulary) of texts of one length, without a past."""
        ids = token_ids(given, INPUT, self._path.parent)
        try:
            generator = self._generator(ids.shape[1] + 1, len(ids))
            generator.append_tokens(ids.astype(np.int32))
            return {OUTPUT: np.array(generator.get_output("logits"))}
        except RuntimeError as error:
            raise ModelError(
                f"{self._path.parent} cannot run token ids of shape {list(ids.shape)}: "
                f"{str(error)[:300]}",
                hint="ids must be below the vocabulary's size, and texts within its context",
            ) from error

    def stream(self, longest: int) -> GenaiStream:
        """Return an empty text; the cache takes the memory of `longest` tokens at once."""
        return GenaiStream(self._generator(longest, 1))

    def proof_of_use(self) -> Proof:
        from kdeploy.onnx_graph.block_weights import fast_products

        model = self._path.parent / _decoder_file(self._path)
        fast, eligible, operators = fast_products(model)
        return Proof(
            provider="ONNX Runtime GenAI, CPU",
            four_bit=fast,
            four_bit_eligible=eligible if "MatMulNBits" in operators else 0,
            operators=operators,
            settings={"intra_op_num_threads": self._threads},
        )

    def close(self) -> None:
        self._model = None

    def _generator(self, longest: int, batch_size: int) -> Any:
        parameters = self._genai.GeneratorParams(self._model)
        # Neither an end token nor a draw of lots: so many tokens as asked for, the likeliest.
        parameters.set_search_options(
            max_length=longest, min_length=longest, batch_size=batch_size, do_sample=False
        )
        return self._genai.Generator(self._model, parameters)


class GenaiStream:
    """One text in ONNX Runtime GenAI."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    def append(self, ids: NDArray[np.int64]) -> None:
        self._generator.append_tokens(ids.astype(np.int32)[None])

    def next(self) -> int:
        self._generator.generate_next_token()
        return int(self._generator.get_next_tokens()[0])

    def logits(self) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = np.array(self._generator.get_output("logits"))[0]
        return scores


def _decoder_file(path: Path) -> str:
    """Return the name of the ONNX file that a genai_config.json speaks of.

    Raises:
        ModelError: it is none, or names a file elsewhere.
    """
    from kdeploy.untrusted.json_document import json_file

    try:
        name = json_file(path)["model"]["decoder"]["filename"]
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise unreadable(path, error) from error
    if not isinstance(name, str) or Path(name).name != name:
        raise ModelError(
            f"{path} names a file outside of its folder", hint="its files lie beside it"
        )
    return name
