"""The half of the fake TensorRT that runs: ONNX Runtime, on the very addresses that were set."""

from __future__ import annotations

import ctypes
import json

import numpy as np
import onnxruntime

from tests.tiny import fake_cuda
from tests.tiny.fake_tensorrt_types import (
    MAGIC,
    DataType,
    LayerInformationFormat,
    Severity,
    TensorIOMode,
)


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
