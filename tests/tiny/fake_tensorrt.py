"""As much of TensorRT's Python API as kdeploy uses, in plain Python: for tests of what uses it.

A plan holds the ONNX file that it was built of, and executing it runs ONNX Runtime on the very
addresses that were set. `tests/runtimes/test_tensorrt_api.py` holds every name here against the
names of the real bindings. `make(version)` returns a module; what it should do wrong stands in its
`faults`, what was done with it in its `seen`.
"""

from __future__ import annotations

import ctypes
import enum
import importlib.machinery
import json
import sys
import types
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime

from kdeploy.runtimes.tensorrt_api import Device
from tests.tiny import fake_cuda

MAGIC = b"fake plan\n"
UNKNOWN = "Frobnicate"
STEPS = 5


class Severity(enum.Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    Severity = Severity

    def log(self, severity, msg):
        raise NotImplementedError


class IProgressMonitor:
    def phase_start(self, phase_name, parent_phase, num_steps):
        raise NotImplementedError

    def step_complete(self, phase_name, step):
        raise NotImplementedError

    def phase_finish(self, phase_name):
        raise NotImplementedError


class DataType(enum.Enum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8, BF16, INT64 = range(9)


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class LayerInformationFormat(enum.Enum):
    ONELINE, JSON = range(2)


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class ProfilingVerbosity(enum.Enum):
    LAYER_NAMES_ONLY, NONE, DETAILED = range(3)


class HardwareCompatibilityLevel(enum.Enum):
    NONE, AMPERE_PLUS, SAME_COMPUTE_CAPABILITY = range(3)


class BuilderFlag(enum.Enum):
    SPARSE_WEIGHTS, REFIT, TF32, VERSION_COMPATIBLE = range(4)


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class ParserError:
    def __init__(self, text):
        self.text = text

    def __str__(self):
        return self.text


class ITensor:
    def __init__(self, described):
        self.name = described.name
        self._sizes = described.type.tensor_type.shape.dim
        self.shape = tuple(d.dim_value or -1 for d in self._sizes)

    def get_dimension_name(self, index):
        return self._sizes[index].dim_param


class INetworkDefinition:
    def __init__(self):
        self.model = None

    @property
    def num_inputs(self):
        return len(self.model.graph.input)

    def get_input(self, index):
        return ITensor(self.model.graph.input[index])


class OnnxParser:
    def __init__(self, network, logger):
        self._network, self._errors = network, []

    @property
    def num_errors(self):
        return len(self._errors)

    def parse_from_file(self, path):
        assert isinstance(path, str)
        self._network.model = onnx.load(path)
        self._errors = [
            ParserError(f"In node {i} ({node.name}): UNSUPPORTED_NODE: no importer for {UNKNOWN}")
            for i, node in enumerate(self._network.model.graph.node)
            if node.op_type == UNKNOWN
        ]
        return not self._errors

    def get_error(self, index):
        return self._errors[index]


class IOptimizationProfile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, input, min, opt, max):
        self.shapes[input] = [min, opt, max]


class ITimingCache:
    def __init__(self, content):
        self.content = content

    def serialize(self):
        return self.content + b"+"


class IBuilderConfig:
    def __init__(self, api):
        self._api = api
        self.flags = {BuilderFlag.TF32}
        self.profiles, self.pools, self._cache = [], {}, None
        self.builder_optimization_level = 3
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.progress_monitor = None
        api.seen.config = self

    def set_flag(self, flag):
        self.flags.add(flag)

    def clear_flag(self, flag):
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool, pool_size):
        self.pools[pool] = pool_size

    def create_timing_cache(self, serialized_timing_cache):
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache, ignore_mismatch):
        if cache.content.startswith(b"other"):
            return False
        self._cache = cache
        return True

    def get_timing_cache(self):
        return self._cache

    def add_optimization_profile(self, profile):
        self.profiles.append(profile)
        return -1 if self._api.faults.refuses_profile else 0


class Builder:
    def __init__(self, api, logger):
        self._api, self._logger = api, logger

    def create_network(self, flags):
        assert flags == 1 << int(NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return INetworkDefinition()

    def create_builder_config(self):
        return IBuilderConfig(self._api)

    def create_optimization_profile(self):
        return IOptimizationProfile()

    def build_serialized_network(self, network, config):
        monitor = config.progress_monitor
        monitor.phase_start("Building", None, STEPS)
        for step in range(STEPS):
            self._api.faults.at_step(step)
            if not monitor.step_complete("Building", step):
                self._api.seen.cancelled_at = step
                return None
        monitor.phase_finish("Building")
        if self._api.faults.build:
            self._logger.log(Severity.ERROR, self._api.faults.build)
            return None
        self._logger.log(Severity.INFO, "(Sparsity) Chose 1 layer(s) using sparse tactics: c")
        assert config.profiles or all(min(i.shape) > 0 for i in _inputs(network))
        told = {
            "version": self._api.module.__version__,
            "profile": config.profiles[0].shapes if config.profiles else {},
            "host_code": BuilderFlag.VERSION_COMPATIBLE in config.flags,
        }
        return MAGIC + json.dumps(told).encode() + b"\n" + network.model.SerializeToString()


def _inputs(network):
    return [network.get_input(i) for i in range(network.num_inputs)]


class Runtime:
    def __init__(self, api, logger):
        self._api, self._logger = api, logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, plan):
        if not plan.startswith(MAGIC) or plan.count(b"\n") < 2:
            self._logger.log(Severity.ERROR, "the plan is corrupt")
            return None
        told, model = plan[len(MAGIC) :].split(b"\n", 1)
        facts = json.loads(told)
        if facts["host_code"] and not self.engine_host_code_allowed:
            self._logger.log(Severity.ERROR, "getEngineHostCodeAllowed() is false")
            return None
        if facts["version"] != self._api.module.__version__ and not facts["host_code"]:
            self._logger.log(Severity.ERROR, f"expecting {facts['version']}")
            return None
        return ICudaEngine(self._api, facts, model)


class ICudaEngine:
    def __init__(self, api, facts, model):
        self._api, self._facts = api, facts
        self._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self._tensors = [*self._session.get_inputs(), *self._session.get_outputs()]

    @property
    def num_io_tensors(self):
        return len(self._tensors)

    def get_tensor_name(self, index):
        return self._tensors[index].name

    def get_tensor_mode(self, name):
        inputs = {i.name for i in self._session.get_inputs()}
        return TensorIOMode.INPUT if name in inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        kind = next(t.type for t in self._tensors if t.name == name)
        return {"tensor(float)": DataType.FLOAT, "tensor(int64)": DataType.INT64}[kind]

    def get_tensor_shape(self, name):
        shape = next(t.shape for t in self._tensors if t.name == name)
        return [size if isinstance(size, int) else -1 for size in shape]

    def get_tensor_profile_shape(self, name, profile_index):
        assert profile_index == 0
        return self._facts["profile"][name]

    def create_execution_context(self):
        if self._api.faults.context:
            self._api.log.log(Severity.ERROR, self._api.faults.context)
            return None
        return IExecutionContext(self._api, self._facts, self._session)

    def create_engine_inspector(self):
        return EngineInspector(self._api)


class IExecutionContext:
    def __init__(self, api, facts, session):
        self._api, self._facts, self._session = api, facts, session
        self._shapes, self._addresses = {}, {}

    def set_input_shape(self, name, shape):
        fixed = [d.shape for d in self._session.get_inputs()] * 3
        smallest, _, largest = self._facts["profile"].get(name, fixed)
        fits = len(shape) == len(smallest) and all(
            low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True)
        )
        if fits:
            zeros = np.zeros(shape, _numpy(self._session.get_inputs()[0].type))
            answers = self._session.run(None, {name: zeros})
            names = [o.name for o in self._session.get_outputs()]
            sizes = [a.shape for a in answers]
            self._shapes = {name: shape, **dict(zip(names, sizes, strict=True))}
        return fits

    def infer_shapes(self):
        if self._api.faults.infer_shapes:
            raise RuntimeError("shapes do not fit")
        return []

    def get_tensor_shape(self, name):
        return self._api.faults.output_shape or self._shapes[name]

    def set_tensor_address(self, name, memory):
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle):
        assert stream_handle == fake_cuda.HANDLE
        if self._api.stream.launches is not None:
            self._api.stream.launches.append(self._run)
            return True
        self._api.seen.enqueued += 1
        if self._api.faults.enqueue:
            self._api.log.log(Severity.ERROR, self._api.faults.enqueue)
            return False
        self._run()
        return True

    def _run(self):
        (source,) = self._session.get_inputs()
        fed = self._array(source)
        answers = self._session.run(None, {source.name: fed})
        for target, answer in zip(self._session.get_outputs(), answers, strict=True):
            self._array(target)[...] = answer

    def _array(self, tensor):
        """Return the memory at a tensor's address as an array."""
        shape, dtype = self._shapes[tensor.name], np.dtype(_numpy(tensor.type))
        size = int(np.prod(shape)) * dtype.itemsize
        memory = (ctypes.c_char * size).from_address(self._addresses[tensor.name])
        return np.frombuffer(memory, dtype).reshape(shape)


def _numpy(kind):
    return {"tensor(float)": np.float32, "tensor(int64)": np.int64}[kind]


class EngineInspector:
    def __init__(self, api):
        self._api = api
        self.execution_context = None

    def get_engine_information(self, format):
        assert format is LayerInformationFormat.JSON
        return json.dumps({"Layers": self._api.layers, "Bindings": []})


FULL_ONLY = ("Builder", "OnnxParser", "EngineInspector", "NetworkDefinitionCreationFlag")
OWN = [k for k in list(globals().values()) if getattr(k, "__module__", "") == __name__]
CLASSES = [k for k in OWN if isinstance(k, type)]


def install(
    monkeypatch,
    version="10.16.1.11",
    *,
    name="tensorrt",
    driver_cuda=13,
    capability="9.0",
):
    """Put the fake, a driver and a GPU where kdeploy looks for them; return its `api`."""
    module = make(version, name=name)
    for other in ("tensorrt", "tensorrt_dispatch", "tensorrt_lean"):
        monkeypatch.delitem(sys.modules, other, raising=False)
    monkeypatch.setitem(sys.modules, name, module)
    here = Device(gpu="NVIDIA H200", compute_capability=capability, driver="580.1")
    for key, answer in {"without_gpu": None, "cuda_major": driver_cuda, "device": here}.items():
        monkeypatch.setattr(f"kdeploy.runtimes.tensorrt_api.{key}", lambda answer=answer: answer)
    monkeypatch.setattr("kdeploy.runtimes.tensorrt.CudaStream", lambda: module.api.stream)
    return module.api


def make(version="10.16.1.11", *, name="tensorrt"):
    """Return a module; a lean or dispatch one by its name."""
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.__version__ = version
    faults = SimpleNamespace(
        at_step=lambda step: None,
        build="",
        context="",
        enqueue="",
        infer_shapes=False,
        output_shape=None,
        refuses_profile=False,
    )
    seen = SimpleNamespace(config=None, cancelled_at=None, enqueued=0)
    api = SimpleNamespace(
        module=module,
        faults=faults,
        seen=seen,
        layers=[],
        log=None,
        stream=fake_cuda.FakeStream(),
    )
    module.api = api
    for kind in CLASSES:
        if name == "tensorrt" or kind.__name__ not in FULL_ONLY:
            setattr(module, kind.__name__, kind)

    def made_with_log(kind):
        def create(logger):
            assert isinstance(logger, ILogger)
            api.log = logger
            return kind(api, logger)

        return create

    module.Runtime = made_with_log(Runtime)
    if name == "tensorrt":
        module.Builder = made_with_log(Builder)
    del module.Severity
    return module
