"""Which TensorRT is used, and that all that kdeploy uses of it is there, in 10 and in 11.

`tensorrt_names/*.json` are the names of NVIDIA's own bindings, written by `tensorrt_names/write.py`
and held against them by `make test-tensorrt-api`.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import sys

import pytest

from kdeploy.tensorrt import api as tensorrt_api
from tests.runtimes.tensorrt_names.used import sources, used_names
from tests.runtimes.tensorrt_names.write import HERE, MODULES, VERSIONS, file_of
from tests.tiny import fake_tensorrt, fake_tensorrt_types

# Used where `hasattr` says that the module is the full one.
FULL_ONLY = {("", "EngineInspector"), ("ICudaEngine", "create_engine_inspector")}


def names(module, version):
    return json.loads(file_of(module, version).read_text())


def missing(found, real):
    """Return which of some (class, name) pairs the real module does not have."""
    return sorted(
        (kind, name)
        for kind, name in found
        if not name.startswith("__")
        and name not in (real["classes"].get(kind, []) if kind else real["module"])
    )


def used(folder=""):
    return set().union(*(used_names(p) for p in sources() if folder in p.parts or not folder))


@pytest.mark.parametrize("version", VERSIONS)
def test_all_that_is_used_is_in_the_real_bindings(version):
    assert missing(used(), names("tensorrt", version)) == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("module", MODULES[1:])
def test_all_that_running_uses_is_in_the_small_modules_too(module, version):
    found = {(k, n) for k, n in used("runtimes") if k != "EngineInspector"} - FULL_ONLY
    assert missing(found, names(module, version)) == []


def test_what_is_used_is_found_in_each_way_of_writing_it():
    found = used()
    assert ("", "Builder") in found  # trt.Builder
    assert ("BuilderFlag", "VERSION_COMPATIBLE") in found  # trt.BuilderFlag.VERSION_COMPATIBLE
    assert ("ILogger.Severity", "WARNING") in found
    assert ("IBuilderConfig", "progress_monitor") in found  # a parameter, or annotated where made
    assert ("ICudaEngine", "create_execution_context") in found  # an attribute of self
    assert ("IExecutionContext", "infer_shapes") in found  # a name given to one
    assert ("ITensor", "get_dimension_name") in found  # a parameter
    assert ("ITensor", "name") in found  # an item of a list


def test_a_name_that_11_removed_would_be_noticed():
    removed = {("BuilderFlag", "FP16"), ("ICudaEngine", "device_memory_size"), ("", "nothing")}
    assert missing(removed, names("tensorrt", VERSIONS[0])) == [("", "nothing")]
    assert missing(removed, names("tensorrt", VERSIONS[1])) == sorted(removed)


def public_of(kind):
    return {name for name in vars(kind) if not name.startswith("_")}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_fake_has_nothing_that_the_real_bindings_lack(version):
    fake, real = fake_tensorrt.make(version), names("tensorrt", version)
    kinds = {k.__name__: k for k in fake_tensorrt.CLASSES if k.__name__ in real["module"]}
    assert len(kinds) > 20
    assert {n for n in vars(fake) if not n.startswith("_")} - {"api"} <= set(real["module"])
    pairs = {(name, member) for name, kind in kinds.items() for member in public_of(kind)}
    pairs |= {("ILogger.Severity", member.name) for member in fake_tensorrt_types.Severity}
    assert missing(pairs, real) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_a_monitor_answers_all_that_tensorrt_may_call(version):
    from kdeploy.tensorrt.progress import monitor_of

    monitor = type(monitor_of(fake_tensorrt.make(), None))
    assert set(names("tensorrt", version)["classes"]["IProgressMonitor"]) <= public_of(monitor)


def test_the_names_are_of_the_versions_that_they_are_called_after():
    files = {file_of(m, v): v for m in MODULES for v in VERSIONS}
    assert set(HERE.glob("*.json")) == set(files)
    assert {json.loads(f.read_text())["version"] for f in files} == set(VERSIONS)


def test_the_full_module_is_preferred_then_dispatch_then_lean(monkeypatch):
    for name in reversed(MODULES):
        monkeypatch.setitem(sys.modules, name, fake_tensorrt.make(name=name))
        assert tensorrt_api.load().__name__ == name


def test_building_needs_the_full_module(monkeypatch):
    fake_tensorrt.install(monkeypatch, name="tensorrt_lean")
    assert tensorrt_api.unavailable() is None
    assert "`tensorrt` is not installed" in tensorrt_api.unavailable(to_build=True)


def test_a_module_that_cannot_be_imported_says_why(monkeypatch):
    fake_tensorrt.install(monkeypatch)

    def broken(name):
        raise ImportError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr("importlib.import_module", broken)
    reason = tensorrt_api.unavailable()
    assert "libnvinfer.so.10" in reason
    assert "pip install" in reason


def test_an_old_tensorrt_is_refused(monkeypatch):
    fake_tensorrt.install(monkeypatch, "8.6.1")
    assert "8.6.1 is too old" in tensorrt_api.unavailable()


@pytest.mark.parametrize(("driver", "refused"), [(12, True), (13, False), (None, False)])
def test_a_driver_that_is_too_old_is_refused_before_it_ends_the_process(
    monkeypatch, driver, refused
):
    def installed(name):
        if name != "tensorrt-cu13-libs":
            raise importlib.metadata.PackageNotFoundError
        return name

    fake_tensorrt.install(monkeypatch, driver_cuda=driver)
    monkeypatch.setattr("importlib.metadata.distribution", installed)
    reason = tensorrt_api.unavailable()
    assert ("needs CUDA 13" in (reason or "")) is refused


def test_messages_are_kept_for_errors_and_told_to_logging(caplog):
    module = fake_tensorrt.make()
    log, severity = tensorrt_api.log_of(module), module.ILogger.Severity
    assert tensorrt_api.log_of(module) is log
    with caplog.at_level(logging.DEBUG):
        log.log(severity.ERROR, "first ")
        log.log(severity.INTERNAL_ERROR, "second")
        log.log(severity.INFO, "(Sparsity) Found 3 layer(s)")
        log.log(severity.WARNING, "careful")
    assert log.reason() == "first; second"
    assert log.sparsity == ["(Sparsity) Found 3 layer(s)"]
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [
        "TensorRT: careful"
    ]
    log.clear()
    assert (log.errors, log.sparsity) == ([], [])
