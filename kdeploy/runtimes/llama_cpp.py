"""Language models of GGUF files in llama.cpp, by its own C interface, on the processor.

https://github.com/ggml-org/llama.cpp, through `llama-cpp-python`. Keys and values are kept in
float32: llama.cpp's own default, float16, would be rounding that the file does not ask for.
Products with a table of codes run on integers, in kernels for that format: ggml has no others here.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import weakref
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdeploy.errors import ModelError
from kdeploy.machine import allowed_cores
from kdeploy.runtimes.contract import Answer, Given, Proof, opened, runtime, unreadable
from kdeploy.runtimes.generation import token_ids

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdeploy.tensor_info import TensorInfo

INPUT, OUTPUT = "input_ids", "output"
MATRIX = 2  # axes: what has fewer is a norm or a bias
TABLE, HEAD = "token_embd.weight", "output.weight"
OF_A_FEW_BITS = "Q"
ERROR = 4  # of ggml.h, `ggml_log_level`


_complaints: list[str] = []
_listeners: list[Any] = []


@runtime(
    formats={"gguf"},
    device="cpu",
    suffixes={".gguf": "gguf"},
    libraries=("llama-cpp-python",),
)
class LlamaCpp:
    """A decoder with a cache, on the processor."""

    def __init__(self, *, threads: int | None = None) -> None:
        """Import the library.

        Args:
            threads: That compute; none: all cores that this process may use.
        """
        import llama_cpp

        self._library = llama_cpp
        self._threads = threads or allowed_cores()
        self._model: Any = None
        _listen_to(llama_cpp)
        self._streams: weakref.WeakSet[LlamaStream] = weakref.WeakSet()

    @staticmethod
    def unavailable() -> str | None:
        for library in ("llama_cpp", "gguf"):
            if importlib.util.find_spec(library) is None:
                return f"`{library}` is not installed: pip install 'kdeploy[llama-cpp]'"
        return None

    @staticmethod
    def files_of(path: Path) -> list[Path]:
        return [path]

    @staticmethod
    def inputs_of(path: Path) -> tuple[TensorInfo, ...]:
        from kdeploy.tensor_info import TensorInfo

        return (TensorInfo(name=INPUT, shape=("batch", "tokens"), dtype="int64"),)

    @staticmethod
    def parameters_of(path: Path) -> int:
        return sum(math.prod(shape) for shape, _ in _tensors(path).values())

    def open(self, path: Path) -> None:
        parameters = self._library.llama_model_default_params()
        parameters.n_gpu_layers = 0
        _complaints.clear()
        self._model = self._library.llama_model_load_from_file(bytes(path), parameters)
        if not self._model:
            raise ModelError(
                f"llama.cpp cannot open {path}: {'; '.join(_complaints)[:300]}",
                hint="export it again: `kdeploy export gguf`; older libraries know fewer models",
            )
        vocabulary = self._library.llama_model_get_vocab(self._model)
        self._path, self._width = path, int(self._library.llama_vocab_n_tokens(vocabulary))

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return self.inputs_of(self._path)

    def infer(self, given: Given) -> Answer:
        """Return the scores (batch, tokens, vocabulary) of texts of one length, without a past."""
        ids = token_ids(given, INPUT, self._path)
        if ids.size and not 0 <= ids.min() <= ids.max() < self._width:
            raise ModelError(
                f"{self._path} knows {self._width} tokens, and was given ids from {ids.min()} to "
                f"{ids.max()}",
                hint="use the data of this model's tokenizer",
            )
        stream = self.stream(ids.shape[1])
        rows = []
        for row in ids:
            stream.clear()
            stream.append(row)
            rows.append(stream.logits())
        return {OUTPUT: np.stack(rows)}

    def stream(self, longest: int) -> LlamaStream:
        """Return an empty text; the cache takes the memory of `longest` tokens at once."""
        stream = LlamaStream(
            self._library, opened(self._model), longest, self._width, threads=self._threads
        )
        self._streams.add(stream)
        return stream

    def proof_of_use(self) -> Proof:
        tensors = _tensors(self._path)
        # A table that is the head, too, is read and multiplied with.
        is_only_read = HEAD in tensors
        forms = Counter(
            form
            for name, (shape, form) in tensors.items()
            if len(shape) == MATRIX and not (name == TABLE and is_only_read)
        )
        few = sum(count for form, count in forms.items() if form.startswith(OF_A_FEW_BITS))
        return Proof(
            provider="llama.cpp, CPU",
            four_bit=few,
            four_bit_eligible=forms.total() if few else 0,
            operators={f"MUL_MAT {form}": count for form, count in forms.items()},
            settings={"n_threads": self._threads},
        )

    def close(self) -> None:
        for stream in self._streams:
            stream.free()  # a context looks at its model until its end
        if self._model:
            self._library.llama_model_free(self._model)
        self._model = None


class LlamaStream:
    """One text in llama.cpp; a context of its own holds its cache."""

    def __init__(self, library: Any, model: Any, longest: int, width: int, *, threads: int) -> None:
        """Make an empty text of at most `longest` tokens, of a vocabulary of `width`."""
        asked = library.llama_context_default_params()
        asked.n_ctx = asked.n_batch = longest
        asked.n_threads = asked.n_threads_batch = threads
        asked.type_k = asked.type_v = library.GGML_TYPE_F32
        asked.flash_attn_type = library.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._library, self._width, self._longest = library, width, longest
        self._context = library.llama_init_from_model(model, asked)
        if not self._context:
            raise ModelError(
                f"llama.cpp cannot hold a text of {longest} tokens",
                hint="ask for a shorter one: its cache takes memory for all of them",
            )
        self._batch = library.llama_batch_init(longest, 0, 1)
        self._length = self._count = 0
        self._pending = -1

    def append(self, ids: NDArray[np.int64]) -> None:
        """Put token ids (tokens,) behind what is there, and compute the scores of each."""
        self._batch.n_tokens = self._count = len(ids)
        for place, token in enumerate(ids):
            self._batch.token[place] = int(token)
            self._batch.pos[place] = self._length + place
            self._batch.n_seq_id[place] = 1
            self._batch.seq_id[place][0] = 0
            self._batch.logits[place] = True
        code = self._library.llama_decode(self._context, self._batch)
        if code:
            raise ModelError(
                f"llama.cpp ends with code {code} at {self._length + len(ids)} tokens",
                hint=f"the text was announced with {self._longest} of them",
            )
        self._length, self._pending = self._length + len(ids), -1

    def next(self) -> int:
        """Return the token of the highest score, and put it behind the others."""
        if self._pending >= 0:
            self.append(np.array([self._pending]))
        self._pending = int(self.logits()[-1].argmax())
        return self._pending

    def logits(self) -> NDArray[np.float32]:
        """Return the scores (tokens, vocabulary) that the last `append` computed."""
        numbers = self._library.llama_get_logits(self._context)
        scores: NDArray[np.float32] = np.ctypeslib.as_array(numbers, (self._count, self._width))
        return scores.copy()

    def clear(self) -> None:
        """Begin another text."""
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)
        self._length, self._pending = 0, -1

    def free(self) -> None:
        """Give the cache back; nothing can be asked after that."""
        if self._context:
            self._library.llama_batch_free(self._batch)
            self._library.llama_free(self._context)
        self._context = None

    def __del__(self) -> None:
        """Free what the library does not count by itself."""
        self.free()


def _listen_to(library: Any) -> None:
    """Have the library say nothing, and its errors kept: it holds the address alone, for good."""
    if _listeners:
        return

    def listen(level: int, text: bytes, _: object) -> None:
        if level == ERROR:
            _complaints.append(text.decode(errors="replace").strip())

    _listeners.append(library.llama_log_callback(listen))
    library.llama_log_set(_listeners[0], ctypes.c_void_p(0))


def _tensors(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return shape and format of each tensor of a file, by its name.

    Raises:
        ModelError: it is no GGUF file.
    """
    import gguf

    try:
        found = gguf.GGUFReader(path).tensors
    except (ValueError, OSError, IndexError, KeyError) as error:
        raise unreadable(path, error) from error
    return {t.name: (tuple(map(int, t.shape)), str(t.tensor_type.name)) for t in found}
