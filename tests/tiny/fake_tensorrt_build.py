"""The half of the fake TensorRT that builds: a plan holds the ONNX file that it was built of."""

from __future__ import annotations

import json

import onnx

from tests.tiny.fake_tensorrt_types import (
    MAGIC,
    BuilderFlag,
    HardwareCompatibilityLevel,
    NetworkDefinitionCreationFlag,
    ProfilingVerbosity,
    Severity,
)

UNKNOWN = "Frobnicate"
STEPS = 5


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
