"""Measurements are written one a line, read back whole, and chosen by their coordinates."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdeploy import __version__
from kdeploy.errors import DataError, FileMissing, UnknownName
from kdeploy.measurement import (
    METRICS,
    Measurement,
    flagged,
    from_json,
    load,
    read,
    select,
    write,
)

TEXT = st.text(max_size=20)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
RECORDS = st.builds(
    Measurement,
    artifact=TEXT,
    label=TEXT,
    metric=st.sampled_from(sorted(METRICS)),
    value=st.none() | NUMBER,
    runtime=TEXT,
    batch_size=st.none() | st.integers(1, 512),
    threads=st.none() | st.integers(1, 64),
    low=st.none() | NUMBER,
    n=st.integers(1, 10**6),
    flags=st.lists(TEXT, max_size=3).map(tuple),
    skipped=st.none() | TEXT,
)
CONTRACT = [
    *["artifact", "label", "stage", "technique", "runtime", "device", "profile", "batch_size"],
    *["threads", "metric", "value", "unit", "low", "high", "n", "flags", "machine", "created"],
    *["kdeploy", "scenario", "input_shape"],
]


@given(RECORDS)
def test_a_record_is_the_same_after_a_line_of_json(record):
    line = record.to_json()
    assert "\n" not in line
    assert from_json(line) == record


def test_a_record_has_the_keys_of_the_contract():
    record = Measurement(artifact="a", label="l", metric="size", value=1)
    assert sorted(json.loads(record.to_json())) == sorted(CONTRACT)
    skipped = Measurement(artifact="a", label="l", metric="size", value=None, skipped="why")
    assert json.loads(skipped.to_json())["skipped"] == "why"


def test_a_record_of_an_earlier_version_was_of_one_stream_and_no_sweep():
    record = Measurement(artifact="a", label="l", metric="size", value=1)
    earlier = {k: v for k, v in record.to_dict().items() if k not in ("scenario", "input_shape")}
    assert from_json(json.dumps(earlier)) == record
    assert (record.scenario, record.input_shape) == ("single_stream", "")


def test_the_unit_is_that_of_the_metric():
    assert Measurement(artifact="a", label="l", metric="latency.p50", value=1).unit == "s"
    assert Measurement(artifact="a", label="l", metric="size", value=1).kdeploy == __version__


def test_an_unknown_metric_is_refused():
    with pytest.raises(UnknownName, match=r"latency\.p51"):
        Measurement(artifact="a", label="l", metric="latency.p51", value=1)


def test_keys_of_a_later_version_are_ignored():
    record = Measurement(artifact="a", label="l", metric="size", value=1)
    later = json.dumps({**json.loads(record.to_json()), "phase_of_moon": 0.5})
    assert from_json(later) == record


@given(st.lists(RECORDS, max_size=4))
def test_a_file_reads_back_as_it_was_written(tmp_path_factory, records):
    folder = tmp_path_factory.mktemp("run")
    write(records, folder / "measurements.jsonl")
    assert read(folder) == read(folder / "measurements.jsonl") == records
    assert [p.name for p in folder.iterdir()] == ["measurements.jsonl"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileMissing, match=r"measurements\.jsonl"):
        read(tmp_path)


@pytest.mark.parametrize("line", ["{", "[1]", "3", '{"artifact": "a"}', ""])
def test_a_line_that_is_no_record_is_named_with_its_number(tmp_path, line):
    good = Measurement(artifact="a", label="l", metric="size", value=1).to_json()
    path = tmp_path / "measurements.jsonl"
    path.write_text(f"{good}\n{line}\n")
    with pytest.raises(DataError, match="line 2 is not a measurement"):
        read(path)


def test_load_gives_one_table_over_many_runs(tmp_path):
    for name, value in [("one", 1.0), ("two", 2.0)]:
        (tmp_path / name).mkdir()
        record = Measurement(artifact=name, label="l", metric="size", value=value)
        write([record], tmp_path / name / "measurements.jsonl")
    table = load(tmp_path / "one", str(tmp_path / "two"))
    assert list(table.artifact) == ["one", "two"]
    assert table.value.sum() == 3
    assert list(load().columns) == list(Measurement.__dataclass_fields__)


def test_load_fills_what_a_line_leaves_out(tmp_path):
    path = tmp_path / "measurements.jsonl"
    path.write_text('{"artifact": "a", "label": "l", "metric": "size", "value": 1, "moon": 2}\n')
    (row,) = load(path).to_dict("records")
    assert (row["unit"], row["n"], row["flags"], row["runtime"]) == ("B", 1, (), "")


def test_load_names_a_line_that_is_no_record(tmp_path):
    path = tmp_path / "measurements.jsonl"
    path.write_text('{"artifact": "a"}\n')
    with pytest.raises(DataError, match="line 1 is not a measurement: it has no label"):
        load(path)


def test_select_takes_records_of_no_runtime_for_any_runtime():
    size = Measurement(artifact="a", label="l", metric="size", value=1)
    fast = Measurement(artifact="a", label="l", metric="latency.p50", value=1, runtime="fast")
    assert select([size, fast], "size", runtime="fast", batch_size=8) == [size]
    assert select([size, fast], "latency.p50", runtime="slow") == []
    assert select([size, fast], "latency.p50", label="other") == []


def test_flags_are_added_to_those_there():
    record = Measurement(artifact="a", label="l", metric="size", value=1, flags=("noisy",))
    assert flagged(record, "outliers").flags == ("noisy", "outliers")
    assert record.flags == ("noisy",)


def test_every_metric_has_a_direction_and_a_meaning():
    for metric in METRICS.values():
        assert metric.better in ("lower", "higher")
        assert len(metric.about) > 5


def test_a_value_that_is_not_a_number_survives_the_file(tmp_path):
    record = Measurement(artifact="a", label="l", metric="size", value=math.nan)
    write([record], tmp_path / "measurements.jsonl")
    assert math.isnan(read(tmp_path)[0].value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"label": 3}, "`label` is `3`"),
        ({"value": True}, "`value` is `True`"),
        ({"value": "1"}, "`value`"),
        ({"n": None}, "`n` is `None`"),
        ({"batch_size": 1.5}, "`batch_size`"),
        ({"flags": [1]}, "`flags`"),
        ({"metric": "latency.p51"}, "latency.p51"),
        ({"value": 10**30}, "31 digits"),
        ({"x": json.loads("[" * 70 + "]" * 70)}, "in one another"),
    ],
)
def test_a_line_with_a_wrong_value_is_named(tmp_path, changed, message):
    record = Measurement(artifact="a", label="l", metric="size", value=1).to_dict()
    path = tmp_path / "measurements.jsonl"
    path.write_text(f"{json.dumps(record)}\n{json.dumps({**record, **changed})}\n")
    for reader in (read, load):
        with pytest.raises(DataError, match=f"jsonl, line 2 is not a measurement: .*{message}"):
            reader(path)


@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n\x1a\n", b"[" * 100_000, b"{", b"\xff\xfe{\0}\0", b"x" * 2**21, b"[]"]
)
def test_a_file_of_something_else_is_named_with_its_first_line(tmp_path, content):
    path = tmp_path / "measurements.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match="jsonl, line 1 is not a measurement") as caught:
        read(path)
    assert len(str(caught.value)) < 1000
