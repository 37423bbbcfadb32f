"""OpenVINO on the processor, tuned for latency.

Float layers are computed in float32: OpenVINO's own default may silently choose bfloat16 where the
processor has it, and then a row called float would not be. INT8 layers of a Q/DQ file run as
integers either way. Source: https://docs.openvino.ai, "Precision control" and "Performance hints".
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from kdeploy.errors import ModelError
from kdeploy.machine import allowed_cores
from kdeploy.onnx_graph.checks import check_inputs, refused, unfit
from kdeploy.onnx_graph.sparse_weights import num_two_four_of_file
from kdeploy.runtimes.contract import Answer, Given, Proof, by_name, runtime, unreadable
from kdeploy.runtimes.openvino_state import IDS, KEPT_EXACT, OpenvinoStream, has_state
from kdeploy.tensor_info import TensorInfo

ELIGIBLE_LAYERS = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})
NUMPY_TYPES = {"f": "float", "i": "int", "u": "uint"}
INTEGER_TYPES = frozenset({"i8", "u8"})
PRODUCT = "FullyConnected"
"""A product with a stored weight: its precision is that of the weight."""
CODES = INTEGER_TYPES | {"i4", "u4"}
KNOWN = frozenset(
    {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
    | {"float16", "float32", "float64", "bool"}
)
UNCOMPUTED = frozenset({"Const", "Input", "Output"})


@runtime(
    formats={"onnx", "openvino"},
    device="cpu",
    suffixes={".xml": "openvino"},
    beside=(".bin",),
    libraries=("openvino",),
)
class Openvino:
    """An ONNX file, or OpenVINO's own, compiled by its CPU plugin."""

    def __init__(self, *, threads: int | None = None) -> None:
        """Import the library.

        Args:
            threads: Threads of the one inference stream; none: all cores that this process may use.
        """
        import openvino

        self._openvino: Any = openvino
        self._core = openvino.Core()
        self._settings: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": threads or allowed_cores(),
            "PERFORMANCE_HINT": "LATENCY",
            # One request at a time is measured: further streams would take cores from it.
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self._compiled: Any = None
        self._text: OpenvinoStream | None = None

    @staticmethod
    def unavailable() -> str | None:
        if importlib.util.find_spec("openvino") is None:
            return "the library `openvino` is not installed: pip install 'kdeploy[openvino]'"
        return None

    @staticmethod
    def inputs_of(path: Path) -> tuple[TensorInfo, ...]:
        return tuple(_inputs(path))

    def open(self, path: Path) -> None:
        try:
            model = self._core.read_model(str(path))
            keeps_text = has_state(model)
            if keeps_text:
                self._settings.update(KEPT_EXACT)
            self._compiled = self._core.compile_model(model, "CPU", self._settings)
        except RuntimeError as error:
            if path.suffix == ".xml":
                raise ModelError(
                    f"OpenVINO cannot open {path}: {str(error).strip().splitlines()[-1][:300]}",
                    hint="it needs its .bin beside it, of the same name, both whole",
                ) from error
            raise refused("OpenVINO", path, error) from error
        ports = self._compiled.inputs
        self.inputs = tuple(_info(p) for p in ports if not keeps_text or IDS in p.names)
        check_inputs(path, {i.name: i.dtype if i.dtype in KNOWN else "" for i in self.inputs})
        self._names = [info.name for info in self.inputs]
        self._outputs = [_name(port) for port in self._compiled.outputs]
        # A Q/DQ pair is read as FakeQuantize; the executed graph no longer has it.
        self._is_quantized = any(op.get_type_name() == "FakeQuantize" for op in model.get_ops())
        self._path = path
        self._request = self._compiled.create_infer_request()
        self._text = OpenvinoStream(self._openvino, self._compiled) if keeps_text else None

    def infer(self, given: Given) -> Answer:
        feeds = by_name(given, self._names, self._path)
        request = self._request
        try:
            if self._text is not None:
                self._text.clear()
                return {self._outputs[0]: self._text.feed(np.asarray(feeds[IDS])).copy()}
            # As `request.infer(feeds)` without its dictionaries, which take 25 us.
            for place, name in enumerate(self._names):
                array = np.ascontiguousarray(feeds[name])
                shared = self._openvino.Tensor(array, shared_memory=True)
                request.set_input_tensor(place, shared)
            request.start_async()
            request.wait()
        except RuntimeError as error:
            takes = self.inputs[0].shape if len(self.inputs) == 1 else self.inputs
            raise unfit(self._path, feeds, list(takes), error) from error
        return {
            # The next call writes into the same memory.
            name: request.get_output_tensor(place).data.copy()
            for place, name in enumerate(self._outputs)
        }

    def stream(self, longest: int) -> OpenvinoStream:
        """Return an empty text of a decoder with its cache inside; that grows with the text.

        Raises:
            ModelError: the file has no cache.
        """
        del longest
        if self._text is None:
            raise ModelError(
                f"{self._path} keeps no keys and values from token to token",
                hint="`kdeploy export openvino_stateful` writes a file that does",
            )
        return OpenvinoStream(self._openvino, self._compiled)

    def proof_of_use(self) -> Proof:
        executed = self._compiled.get_runtime_model().get_ordered_ops()
        layers = [_layer(op.get_friendly_name(), op.get_rt_info()) for op in executed]
        counts = Counter((layer["operator"], layer["precision"]) for layer in layers)
        eligible = {key: n for key, n in counts.items() if key[0] in ELIGIBLE_LAYERS}
        weights = {key[1]: n for key, n in eligible.items() if key[0] == PRODUCT}
        coded = sum(n for precision, n in weights.items() if precision in CODES)
        # Without quantized activations it is the weights that are integers.
        on_codes = coded > 0 and not self._is_quantized
        integer = sum(n for key, n in eligible.items() if key[1] in INTEGER_TYPES)
        return Proof(
            provider=", ".join(self._compiled.get_property("EXECUTION_DEVICES")),
            eligible=0 if on_codes else sum(eligible.values()),
            integer=0 if on_codes else integer,
            four_bit=coded if on_codes else 0,
            four_bit_eligible=sum(weights.values()) if on_codes else 0,
            is_quantized=self._is_quantized,
            sparse_eligible=_num_two_four(self._path),
            operators={f"{layer}:{precision}": n for (layer, precision), n in counts.items()},
            settings=dict(self._settings),
            layers=[layer for layer in layers if layer["operator"] not in UNCOMPUTED],
        )

    def close(self) -> None:
        self._compiled = self._request = self._text = None


def _info(port: Any) -> TensorInfo:
    sizes = (int(d.to_string()) if d.is_static else d.to_string() for d in port.partial_shape)
    dtype = _dtype(str(port.element_type.to_string()))
    return TensorInfo(name=_name(port), shape=tuple(sizes), dtype=dtype)


def _name(port: Any) -> str:
    """Return what a port is called; one without a name of its own as the node that it is of."""
    return str(port.any_name if port.names else port.node.get_friendly_name())


def _num_two_four(path: Path) -> int:
    """Return how many weights of an ONNX file are 2:4, where the library `onnx` is to look.

    OpenVINO's own files are not looked into.
    """
    try:
        return num_two_four_of_file(path) if path.suffix != ".xml" else 0
    except ImportError:
        return 0


def _inputs(path: Path) -> Iterator[TensorInfo]:
    """Yield what the graph of a `.xml` file says of its inputs (OpenVINO IR format)."""
    try:
        graph = ElementTree.parse(path)
        has_state = graph.find(".//layer[@type='ReadValue']") is not None
        for layer in graph.iterfind(".//layer[@type='Parameter']"):
            form = layer.find("data")
            assert form is not None, "a parameter without data"
            if has_state and layer.attrib.get("name") != IDS:
                continue  # fed by `OpenvinoStream`
            sizes = form.attrib["shape"].split(",")
            yield TensorInfo(
                name=layer.attrib.get("name", ""),
                shape=tuple(int(size) if size.isdigit() else size for size in sizes),
                dtype=_dtype(form.attrib["element_type"]),
            )
    except (ElementTree.ParseError, LookupError, AssertionError) as error:
        raise unreadable(path, error) from error


def _dtype(name: str) -> str:
    """Return what numpy calls `f32`, `i64`, `u8` or `boolean`."""
    return "bool" if name == "boolean" else NUMPY_TYPES.get(name[0], name[0]) + name[1:]


def _layer(name: str, info: Any) -> dict[str, str]:
    """Return what an executed node says: its operator, the precision and the kernel chosen."""
    return {
        "name": name,
        "operator": _text(info, "layerType"),
        "precision": _text(info, "runtimePrecision"),
        "kernel": _text(info, "primitiveType"),
    }


def _text(info: Any, key: str) -> str:
    return str(info[key].astype(str)) if key in info else ""
