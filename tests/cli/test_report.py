"""`kdeploy report`: exit codes, where the text goes, what the JSON has."""

from __future__ import annotations

import json

import pytest

from kdeploy.measurement import Measurement, write


@pytest.fixture
def results(tmp_path):
    """Return a function that writes a folder of results with one latency a label."""

    def make(name, **p50):
        folder = tmp_path / name
        folder.mkdir()
        records = [
            Measurement(
                artifact=label, label=label, metric="latency.p50", value=value, low=value * 0.99,
                high=value * 1.01, n=2000, runtime="onnxruntime_cpu", batch_size=1, machine="m",
            )
            for label, value in p50.items()
        ]  # fmt: skip
        write(records, folder / "measurements.jsonl")
        return folder

    return make


def test_a_broken_gate_is_exit_code_1_and_worse_is_not(kdeploy, results):
    old, new = results("old", teacher=4e-3, net=1e-3), results("new", teacher=4e-3, net=2e-3)
    worse = kdeploy("report", new, "--against", old)
    assert (worse.code, "+100.0 %" in worse.out) == (0, True)
    assert kdeploy("report", new, "--against", old, "--gate", "latency.p50: +50%").code == 1
    assert kdeploy("report", new, "--gate", "latency.p50: 2x").code == 0
    written = kdeploy("report", new, "--gate", "latency.p50: 3x", "--out", new / "r.html")
    assert "latency.p50: 3x  FAIL" in written.out
    broken = kdeploy("report", new, "--gate", "latency.p50: 3x", "--json")
    assert broken.code == 1
    assert json.loads(broken.out)["best"][0]["passed"] is False


def test_the_summary_goes_to_stdout_or_to_github(kdeploy, results, tmp_path, monkeypatch):
    folder = results("new", teacher=4e-3, net=2e-3)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    assert kdeploy("report", folder, "--github-summary").out.startswith("## new")
    file = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(file))
    answer = kdeploy("report", folder, "--github-summary", "--out", tmp_path / "r.html")
    assert answer.out.splitlines() == [f"wrote {tmp_path / 'r.html'}", f"appended to {file}"]
    assert file.read_text().startswith("## new")


def test_a_folder_of_folders_is_all_of_them(kdeploy, results, tmp_path):
    results("one", teacher=4e-3)
    results("two", teacher=5e-3)
    answer = kdeploy("report", tmp_path, "--json")
    assert len(json.loads(answer.out)["measurements"]) == 2


@pytest.mark.parametrize("content", [b"", b"\x00\xff" * 1000, b"[" * 3000, b'{"artifact": "a"'])
def test_a_file_without_measurements_is_exit_code_2(kdeploy, tmp_path, content):
    (tmp_path / "measurements.jsonl").write_bytes(content)
    answer = kdeploy("report", tmp_path)
    assert answer.code == 2
    assert answer.err.startswith(f"DataError: {tmp_path}")
    assert answer.err.count("hint:") == 1


def test_a_page_a_device_is_written_beside_the_page_of_all(kdeploy, results, tmp_path):
    folders = [results(name, teacher=4e-3, net=1e-3) for name in ("one", "two")]
    lines = (folders[1] / "measurements.jsonl").read_text().replace('"m"', '"other"')
    (folders[1] / "measurements.jsonl").write_text(lines)
    found = kdeploy("report", *folders, "--by-device", "--out", tmp_path / "all.html", "--json")
    assert found.code == 0
    pages = {"m": str(tmp_path / "all-m.html"), "other": str(tmp_path / "all-other.html")}
    assert json.loads(found.out)["pages"] == pages
    for page in pages.values():
        assert page.rpartition("/")[2] in (tmp_path / "all.html").read_text()
        assert "<!doctype html>" in (tmp_path / page).read_text().lower()
    missing = kdeploy("report", *folders, "--by-device")
    assert missing.code == 2
    assert "--out compared.html" in missing.err
