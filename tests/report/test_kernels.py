"""Which kernels ran: counted a file and runtime, and loud where they did not."""

from __future__ import annotations

import pytest

from kdeploy.measurement import Measurement
from kdeploy.report.kernels import alarms, proofs
from kdeploy.report.run import comparison

PLACE = {"runtime": "onnxruntime_cpu", "device": "cpu", "threads": 1, "machine": "0123456789ab"}


def kernel(metric, value, n=21, batch_size=1, flags=(), label="int8"):
    return Measurement(
        artifact=f"id-{label}", label=label, metric=metric, value=value, n=n,
        batch_size=batch_size, flags=flags, **PLACE,
    )  # fmt: skip


def test_counts_what_ran_of_what_could(records_of, write_run):
    records = [*records_of("teacher"), *records_of("int8"), kernel("integer_kernels", 20 / 21)]
    found = proofs(comparison([write_run(records)]))
    assert [proof.texts[3:] for proof in found] == [
        ("-", "-", "floating point"),
        ("20 of 21 (95 %)", "-", "INT8"),
    ]
    assert alarms(comparison([write_run(records)])) == []


@pytest.mark.parametrize(
    ("metric", "flag", "said"),
    [
        ("integer_kernels", "no_op_int8", "INT8 file, nothing ran as INT8"),
        ("sparse_kernels", "sparse_not_used", "2:4 file, no sparse kernel"),
    ],
)
def test_what_did_not_run_is_said_with_its_place(records_of, write_run, metric, flag, said):
    records = [*records_of("int8"), kernel(metric, 0.0, flags=(flag,))]
    drawn = comparison([write_run(records)])
    assert alarms(drawn) == [f"{said}: int8 in onnxruntime_cpu."]
    assert proofs(drawn)[0].texts[-1] == said


def test_of_several_batch_sizes_the_worst(records_of, write_run):
    records = records_of("int8", batch_sizes=(1, 8))
    records += [kernel("integer_kernels", share, batch_size=b) for b, share in ((1, 1.0), (8, 0.0))]
    (proof,) = proofs(comparison([write_run(records)]))
    assert proof.texts[3] == "0 of 21 (0 %)"


def test_files_in_floating_point_need_no_table(demo):
    assert proofs(comparison([demo])) == []
