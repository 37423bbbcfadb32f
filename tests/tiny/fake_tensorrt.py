"""As much of TensorRT's Python API as kdeploy uses, in plain Python: for tests of what uses it.

`tests/tensorrt/test_api.py` holds every name here against the names of the real bindings.
`make(version)` returns a module; what it should do wrong stands in its `faults`, what was done with
it in its `seen`.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from types import SimpleNamespace

from kdeploy.tensorrt.api import Device
from tests.tiny import fake_cuda, fake_tensorrt_build, fake_tensorrt_run, fake_tensorrt_types
from tests.tiny.fake_tensorrt_build import Builder
from tests.tiny.fake_tensorrt_run import Runtime
from tests.tiny.fake_tensorrt_types import ILogger

FULL_ONLY = ("Builder", "OnnxParser", "EngineInspector", "NetworkDefinitionCreationFlag")
PARTS = (fake_tensorrt_types, fake_tensorrt_build, fake_tensorrt_run)
CLASSES = [
    kind
    for part in PARTS
    for kind in vars(part).values()
    if isinstance(kind, type) and kind.__module__ == part.__name__
]


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
        monkeypatch.setattr(f"kdeploy.tensorrt.api.{key}", lambda answer=answer: answer)
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
