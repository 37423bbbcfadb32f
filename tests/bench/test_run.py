from __future__ import annotations

import json
from contextlib import suppress

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest

from kdeploy.bench.plan import Plan
from kdeploy.bench.run import ModelUnderTest, bench, rounds_of
from kdeploy.bench.scenarios import server
from kdeploy.bench.scenarios.server import ServerRun
from kdeploy.data.load import load
from kdeploy.errors import DataError, FileMissing, UnknownName
from kdeploy.flags import FLAGS
from kdeploy.measurement import select

QUICK = {"minimum_seconds": 0.02, "minimum_count": 16}


def _onnx(label, path, **facts):
    return ModelUnderTest(artifact=f"id-{label}", label=label, path=path, format="onnx", **facts)


@pytest.fixture(scope="module")
def real(float_file, int8_file, data, tmp_path_factory):
    """One configuration of ONNX Runtime with a float teacher and an int8 student."""
    out = tmp_path_factory.mktemp("bench")
    result = bench(
        [_onnx("teacher", float_file, macs=123), _onnx("student", int8_file, profile="cpu")],
        Plan(runtimes=["onnxruntime_cpu"], threads=[1], data=data, **QUICK),
        baseline="teacher",
        out=out,
    )
    return result, out


def test_a_real_cell_has_all_metrics_of_each_file(real):
    result, _ = real
    by_label = {
        label: {m.metric: m for m in result.measurements if m.label == label}
        for label in ("teacher", "student")
    }
    shared = {
        *("latency.mean", "latency.p50", "latency.p90", "latency.p99", "throughput"),
        *("load_time", "first_inference", "cold_start", "size", "parameters"),
        *("peak_memory", "memory_over_runtime", "load_memory", "energy"),
        *("accuracy.top1", "accuracy.f1_macro", "agreement.top1"),
    }
    assert set(by_label["teacher"]) == shared | {"macs"}
    assert set(by_label["student"]) == shared | {"integer_kernels"}
    assert by_label["student"]["integer_kernels"].value == 1.0
    assert by_label["student"]["latency.p50"].n >= QUICK["minimum_count"]
    assert by_label["teacher"]["agreement.top1"].value == 1.0
    measured = {m for m in by_label["teacher"].values() if m.skipped is None}
    assert all(m.value > 0 for m in measured)
    assert {m.metric for m in measured} >= shared - {"latency.p99", "energy"}


def test_cold_start_holds_the_start_of_the_process_and_what_comes_after(real):
    for label in ("teacher", "student"):
        times = {m.metric: m.value for m in real[0].measurements if m.label == label}
        assert times["cold_start"] > times["load_time"] + times["first_inference"]


def test_memory_over_the_runtime_is_a_part_of_the_peak_and_holds_the_loaded_file(real):
    for label in ("teacher", "student"):
        found = {m.metric: m.value for m in real[0].measurements if m.label == label}
        assert 0 < found["load_memory"] <= found["memory_over_runtime"] < found["peak_memory"]


def test_peak_memory_is_that_of_the_runtime_alone(real):
    peaks = select(real[0].measurements, "peak_memory")
    assert all(20e6 < m.value < 120e6 for m in peaks)


def test_accuracy_is_that_of_the_file_in_its_runtime(real, float_file, int8_file, data):
    loaded = load(data)
    x = loaded.preprocessing.apply(np.asarray(loaded.test.x))
    classes = [
        onnxruntime.InferenceSession(f, providers=["CPUExecutionProvider"])
        .run(None, {"x": x})[0]
        .argmax(1)
        for f in (float_file, int8_file)
    ]
    (student,) = select(real[0].measurements, "accuracy.top1", label="student")
    (agreement,) = select(real[0].measurements, "agreement.top1", label="student")
    assert student.value == pytest.approx(np.mean(classes[1] == loaded.test.y))
    assert agreement.value == pytest.approx(np.mean(classes[1] == classes[0]))
    assert student.n == 70


def test_comparisons_are_paired_and_samples_kept(real):
    result, out = real
    assert [c["metric"] for c in result.comparisons] == ["latency.p50", "throughput"]
    assert {(c["label"], c["baseline"], c["threads"]) for c in result.comparisons} == {
        ("student", "teacher", 1)
    }
    kept = np.load(out / "samples" / "onnxruntime_cpu-b1-t1-student-cpu.npz")
    (p50,) = select(result.measurements, "latency.p50", label="student")
    assert np.median(kept["seconds"]) == pytest.approx(p50.value)
    assert len(np.unique(kept["round"])) >= 4
    assert json.loads(str(kept["settings"]))["intra_op_num_threads"] == 1


def test_only_flags_that_are_explained_are_raised(real):
    assert {flag for m in real[0].measurements for flag in m.flags} <= set(FLAGS)


def test_one_that_fails_is_a_row_and_the_others_are_measured(fake, data, tmp_path):
    models = [
        fake("good"),
        fake("crashes", fault="crash", fault_at=20),
        fake("refuses", fault="refuse"),
        fake("loud", fault="garbage"),
    ]
    result = bench(
        models, Plan(runtimes=["fake"], data=data, accuracy=False, **QUICK), out=tmp_path
    )
    skipped = {m.label: m for m in select(result.measurements, "latency.p50") if m.skipped}
    assert set(skipped) == {"crashes", "refuses"}
    assert "SIGABRT" in skipped["crashes"].skipped
    assert "refuses to open" in skipped["refuses"].skipped
    assert [m.label for m in result.measurements].count("crashes") == 1
    measured = select(result.measurements, "latency.p50")
    assert {m.label for m in measured if m.value} == {"good", "loud"}


def test_what_cannot_run_is_one_row_a_cell_with_the_remedy(fake, data, tmp_path, monkeypatch):
    monkeypatch.setattr("kdeploy.runtimes.fake.Fake.unavailable", lambda: "pip install luck")
    result = bench(
        [fake("a")],
        Plan(runtimes=["fake", "torch_eager"], batch_sizes=[1, 2], data=data),
        out=tmp_path,
    )
    rows = [(m.runtime, m.batch_size, m.skipped) for m in result.measurements]
    assert rows == [
        ("fake", 1, "pip install luck"),
        ("fake", 2, "pip install luck"),
        ("torch_eager", 1, "torch_eager opens torch, not onnx"),
        ("torch_eager", 2, "torch_eager opens torch, not onnx"),
    ]


def test_accuracy_is_measured_once_a_runtime_and_facts_in_every_cell(fake, data, tmp_path):
    model = fake("a", is_quantized=True, eligible=2, integer=0)
    result = bench(
        [model],
        Plan(runtimes=["fake"], batch_sizes=[2, 1], threads=[2, 2], data=data, **QUICK),
        out=tmp_path,
    )
    assert [m.batch_size for m in select(result.measurements, "accuracy.top1")] == [2]
    assert [m.batch_size for m in select(result.measurements, "size")] == [2, 1]
    flags = [m.flags for m in select(result.measurements, "integer_kernels")]
    assert flags == [("no_op_int8",)] * 2


def test_without_data_inputs_are_noise_and_say_so(float_file, tmp_path):
    result = bench(
        [_onnx("a", float_file)],
        Plan(runtimes=["onnxruntime_cpu"], threads=[1], data=None, **QUICK),
        out=tmp_path,
    )
    (p50,) = select(result.measurements, "latency.p50")
    assert "random_inputs" in p50.flags
    assert select(result.measurements, "accuracy.top1") == []


def test_agreement_takes_the_baseline_from_another_runtime(fake, float_file, data, tmp_path):
    result = bench(
        [fake("teacher", seed=1), _onnx("student", float_file)],
        Plan(runtimes=["fake", "onnxruntime_cpu"], threads=[1], data=data, **QUICK),
        baseline="teacher",
        out=tmp_path,
    )
    at = {"label": "student", "runtime": "onnxruntime_cpu"}
    (agreement,) = select(result.measurements, "agreement.top1", **at)
    kept = [
        np.load(tmp_path / "samples" / f"{name}.npz")["predictions"]
        for name in ("fake-b1-t1-teacher", "onnxruntime_cpu-b1-t1-student")
    ]
    assert agreement.value == pytest.approx(np.mean(kept[0] == kept[1]))


def test_offline_measures_the_largest_batch_within_the_time_of_a_round(fake, data, tmp_path):
    result = bench(
        [fake("a")],
        Plan(
            runtimes=["fake"],
            scenarios=["offline"],
            data=data,
            accuracy=False,
            minimum_seconds=0.2,
            memory_limit=f"{10**12}B",
        ),
        out=tmp_path,
    )
    found = {m.metric: m for m in result.measurements}
    size = found["offline_batch_size"].value
    assert size > 1
    assert {m.batch_size for m in found.values()} == {size}
    assert found["throughput"].value > 0


def test_a_server_is_measured_at_the_highest_rate_that_was_confirmed(
    fake, data, tmp_path, monkeypatch
):
    monkeypatch.setattr(server, "LIMITS", 0)
    monkeypatch.setattr(server, "SEARCHING", ServerRun(requests=459, spells=0))
    monkeypatch.setattr(server, "CONFIRMING", ServerRun(requests=1000, spells=0))
    result = bench(
        [fake("a")],
        Plan(
            runtimes=["fake"],
            scenarios=["server"],
            latency_limit=f"{1.0}s",
            data=data,
            accuracy=False,
            **QUICK,
        ),
        out=tmp_path,
    )
    [rate] = select(result.measurements, "server_rate")
    [p99] = select(result.measurements, "latency.p99")
    assert rate.scenario == p99.scenario == "server"
    assert rate.value > 0
    assert p99.value < 1.0
    assert p99.n == 1000
    assert (
        len(np.load(tmp_path / "samples" / f"fake-b1-t{p99.threads}-server-a.npz")["seconds"])
        == 1000
    )


def test_sizes_are_swept_and_a_file_that_cannot_take_one_says_why(float_file, data, tmp_path):
    model = onnx.load(float_file)
    del model.graph.node[2:], model.graph.output[:]
    pool = onnx.helper.make_node("GlobalAveragePool", ["r"], ["p"])
    model.graph.node.extend([pool, onnx.helper.make_node("Flatten", ["p"], ["y"])])
    shape = ["batch", 4]
    model.graph.output.append(onnx.helper.make_tensor_value_info("y", 1, shape))
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"free{axis}"
    onnx.save(model, tmp_path / "open.onnx")
    result = bench(
        [_onnx("open", tmp_path / "open.onnx"), _onnx("fixed", float_file)],
        Plan(
            runtimes=["onnxruntime_cpu"],
            threads=[1],
            sizes=[6, "12x9"],
            data=data,
            accuracy=False,
            **QUICK,
        ),
        out=tmp_path,
    )
    p50 = {(m.label, m.input_shape): m for m in select(result.measurements, "latency.p50")}
    assert p50["open", "2x12x9"].value > 0
    assert p50["open", "2x6x6"].value > 0
    assert p50["fixed", "2x6x6"].value > 0
    assert "cannot run an input of shape [1, 2, 12, 9]" in p50["fixed", "2x12x9"].skipped


def is_running_worker(process):
    # What has ended has no command any more: a child of an earlier test may end at any moment.
    with suppress(psutil.NoSuchProcess):  # a zombie is one of them
        return "worker" in " ".join(process.cmdline())
    return False


def test_an_interrupt_ends_every_child_and_goes_on_up(fake, data, tmp_path):
    def interrupt(text):
        if "round 2" in text:
            assert psutil.Process().children()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench(
            [fake("a"), fake("b")],
            Plan(runtimes=["fake"], data=data, **QUICK),
            out=tmp_path,
            watch=interrupt,
        )
    assert not list(filter(is_running_worker, psutil.Process().children()))


@pytest.mark.parametrize(
    ("seconds", "count", "scenario", "rounds"),
    [
        (0.02, 16, "single_stream", 8),
        (1.0, 100, "single_stream", 8),
        (10.0, 100, "single_stream", 34),
        (10.0, 1000, "single_stream", 40),
        (600.0, 1000, "single_stream", 120),
        (10.0, 1000, "offline", 8),
        (10.0, 1000, "server", 8),
    ],
)
def test_more_time_is_more_rounds_until_they_are_short(seconds, count, scenario, rounds):
    plan = Plan(
        data=None,
        accuracy=False,
        minimum_seconds=seconds,
        minimum_count=count,
        timeout_seconds=9,
    )
    assert rounds_of(plan, scenario) == rounds


def test_wrong_names_and_data_are_told_before_anything_runs(fake, data, tmp_path):
    model = fake("teacher")
    with pytest.raises(UnknownName, match="onnxruntime_cpu"):
        bench([model], Plan(runtimes=["onnxruntime"], data=data), out=tmp_path)
    with pytest.raises(UnknownName, match="did you mean `teacher`"):
        bench([model], Plan(runtimes=["fake"], data=data), baseline="teachr", out=tmp_path)
    missing = type(data)(name="arrays", parameters={"train": "no.npz", "test": "no.npz"})
    with pytest.raises((FileMissing, DataError)):
        bench([model], Plan(runtimes=["fake"], data=missing), out=tmp_path)
    assert not (tmp_path / "samples").exists()
