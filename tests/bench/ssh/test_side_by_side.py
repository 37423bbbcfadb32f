from __future__ import annotations

import json

import numpy as np
import pytest

from kdeploy.bench.plan import BenchPlan
from kdeploy.bench.ssh.hosts import Host, parse_host
from kdeploy.data.load import load
from kdeploy.errors import ModelError, RecipeError, Unavailable
from kdeploy.gate import parse_gates
from kdeploy.machine import fingerprint
from kdeploy.measurement import read, select
from kdeploy.pipeline.log import NullListener
from kdeploy.pipeline.side_by_side import bench_side_by_side
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.run import open_runtime

QUICK = BenchPlan(minimum_seconds=0.02, minimum_count=16, threads=[1])


class Listening(NullListener):
    def __init__(self):
        self.heard = []

    def message(self, text):
        self.heard.append(text)

    def status(self, text):
        self.heard.append(text)


def _bench(files, out, hosts, *, data=None, gates=(), section=QUICK, baseline=None):
    listener = Listening()
    measured = bench_side_by_side(
        [str(f) for f in files],
        section,
        out,
        baseline=baseline,
        gates=parse_gates(gates, where="test"),
        data=data,
        hosts=hosts,
        listener=listener,
    )
    return measured, listener.heard


@pytest.fixture
def gone(ssh):
    """A device that ssh knows and that is switched off."""
    config = ssh[0].folder.parent / "config"
    text = config.read_text()
    config.write_text(f"{text}Host gone\n  HostName 127.0.0.1\n  Port 1\n")
    yield Host(name="gone")
    config.write_text(text)


def test_two_devices_and_one_that_is_down(ssh, gone, float_file, int8_file, data, tmp_path):
    hosts = [*(parse_host(device.option) for device in ssh), gone]
    files, out = [float_file, int8_file], tmp_path / "out"
    asked = {"data": data, "baseline": str(float_file), "gates": ["accuracy.top1: -100pp"]}
    measured, heard = _bench(files, out, hosts, **asked)

    assert measured.records == read(out)
    here = fingerprint().id  # the devices are this machine, so it is known by its hardware
    assert {r.machine for r in measured.records} == {here, "gone"}
    assert json.loads((out / "machines" / f"{here}.json").read_text())["id"] == here
    for device in ssh:
        _check_records(read(out / "hosts" / device.name), float_file, int8_file, data)
        assert (out / "hosts" / device.name / "samples").is_dir()
        assert device.leftovers() == []
        assert device.is_quiet()
    down = read(out / "hosts" / "gone")
    assert [r.label for r in down] == ["float", "int8"]
    assert all("Connection refused" in r.skipped and r.threads == 1 for r in down)
    assert {(c["label"], c["machine"]) for c in measured.comparisons} == {("int8", here)}
    assert [v.passed for v in measured.verdicts] == [True, False]
    assert "gone" in (out / "report.md").read_text()
    assert "accuracy on the devices: 70 of 70 test items travel" in heard

    again, heard = _bench(files, out, hosts, **asked)
    assert not any("warms up" in text for text in heard)
    assert [r.value for r in again.records] == [r.value for r in measured.records]


def _check_records(records, float_file, int8_file, data):
    def value(metric, label):
        [record] = select(records, metric, label=label)
        return record.value

    assert {r.runtime for r in records} == {"onnxruntime_cpu"}
    assert value("integer_kernels", "int8") == 1.0
    assert 20e6 < value("peak_memory", "int8") < 120e6
    assert value("latency.p50", "float") > 0
    loaded = load(data)
    inputs = loaded.preprocessing.apply(np.asarray(loaded.test.x))
    classes = [
        first(open_runtime("onnxruntime_cpu", file, threads=1).infer(inputs)).argmax(1)
        for file in (float_file, int8_file)
    ]
    assert value("accuracy.top1", "int8") == pytest.approx(np.mean(classes[1] == loaded.test.y))
    assert value("agreement.top1", "int8") == pytest.approx(np.mean(classes[1] == classes[0]))


def test_where_no_device_answers_the_reason_is_the_error(gone, float_file, tmp_path):
    with pytest.raises(Unavailable, match="Connection refused"):
        _bench([float_file], tmp_path / "out", [gone])
    [row] = read(tmp_path / "out")
    assert (row.value, row.machine) == (None, "gone")


def test_a_file_that_no_device_runs_is_told(tmp_path):
    (tmp_path / "m.engine").touch()
    with pytest.raises(ModelError, match="format `engine`"):
        _bench([tmp_path / "m.engine"], tmp_path / "out", [Host(name="a")])


def test_devices_run_what_runs_over_ssh(float_file, tmp_path):
    section = BenchPlan(runtimes=["torch_eager"])
    with pytest.raises(RecipeError, match="onnxruntime_cpu"):
        _bench([float_file], tmp_path / "out", [Host(name="a")], section=section)
    section = BenchPlan(runtimes=["litert"])
    with pytest.raises(RecipeError, match="none of the runtimes `litert` opens float"):
        _bench([float_file], tmp_path / "out", [Host(name="a")], section=section)
    with pytest.raises(RecipeError, match="named twice"):
        _bench([float_file], tmp_path / "out", [Host(name="a"), Host(name="a", python="x")])


def test_every_runtime_that_the_device_has_measures_and_the_others_say_why(
    ssh, int8_file, data, tmp_path
):
    pytest.importorskip("openvino")
    names = ["onnxruntime_cpu", "openvino", "torch_eager"]
    section = QUICK.model_copy(update={"runtimes": names})
    measured, _ = _bench(
        [int8_file], tmp_path / "out", [parse_host(ssh[0].option)], data=data, section=section
    )
    for name in names[:2]:
        [accuracy] = [
            r for r in measured.records if (r.runtime, r.metric) == (name, "accuracy.top1")
        ]
        [integer] = [
            r for r in measured.records if (r.runtime, r.metric) == (name, "integer_kernels")
        ]
        assert accuracy.n == 70
        assert integer.n > 0
    [skipped] = [r for r in measured.records if r.runtime == "torch_eager"]
    assert "over ssh files run in" in skipped.skipped
    [energy] = [r for r in measured.records if (r.runtime, r.metric) == (names[0], "energy")]
    assert energy.value is not None or "energy" in energy.skipped
    assert ssh[0].is_quiet()


def test_a_runtime_that_the_device_has_not_is_a_row(ssh, int8_file, data, tmp_path):
    source = "import sys; sys.modules['openvino'] = None"
    blocker = ssh[0].folder / "site" / "sitecustomize.py"
    before = blocker.read_text()
    blocker.write_text(f"{before}\n{source}\n")
    try:
        section = QUICK.model_copy(update={"runtimes": ["onnxruntime_cpu", "openvino"]})
        host = parse_host(ssh[0].option)
        measured, _ = _bench([int8_file], tmp_path / "out", [host], section=section)
    finally:
        blocker.write_text(before)
    [row] = [r for r in measured.records if r.runtime == "openvino"]
    assert "openvino" in row.skipped
    assert any(r.runtime == "onnxruntime_cpu" and r.value for r in measured.records)
