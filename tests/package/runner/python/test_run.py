"""The runner of a bundle, as a device runs it, and as a module where a clock would take long."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from kdeploy.data.decoded import Form, decoded_image
from kdeploy.package.checksums import write_sums
from kdeploy.package.kinds import runner_files


def softmax(logits):
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def rows(report):
    return {one["check"]: one for one in report["checks"]}


def test_the_self_test_of_an_untouched_bundle_passes(pristine, run_runner):
    done = run_runner(pristine, "--self-test")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "passed"
    assert done.stderr == ""


def test_a_bundle_moved_elsewhere_still_passes_from_any_folder(bundle, tmp_path, run_runner):
    moved = tmp_path / "some where" / "else"
    moved.parent.mkdir()
    shutil.move(bundle, moved)
    done = run_runner(moved, "--self-test", "--json", cwd="/")
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert report["passed"]
    assert {"checksums", "load", "golden.max_abs", "golden.top1"} <= set(rows(report))
    assert all(one["passed"] for one in report["checks"])


def test_it_runs_inside_its_own_folder(pristine, run_runner, tiny, tmp_path):
    np.save(tmp_path / "one.npy", tiny.stored[0])
    done = run_runner(pristine, tmp_path / "one.npy", cwd=pristine / "runner/python")
    assert done.returncode == 0, done.stderr


def test_it_imports_neither_torch_nor_kdeploy(pristine, tiny, tmp_path):
    np.save(tmp_path / "one.npy", tiny.stored[0])
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['run.py', {str(tmp_path / 'one.npy')!r}]\n"
        f"try: runpy.run_path({str(pristine / 'runner/python/run.py')!r}, run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'kdeploy', 'onnx', 'PIL', 'pydantic'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=False
    )
    assert done.stdout.endswith("heavy: []\n"), done.stderr


def test_its_imports_are_the_standard_library_numpy_onnxruntime_and_pillow():
    sources = [own for place, own in runner_files("onnx").items() if place.endswith(".py")]
    trees = [ast.parse(own, feature_version=(3, 9)) for own in sources]
    imported = {
        (alias.name if isinstance(node, ast.Import) else node.module).split(".")[0]
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and not node.level)
        for alias in node.names
    }
    assert imported - sys.stdlib_module_names == {"numpy", "onnxruntime", "PIL"}


def test_a_flipped_byte_in_any_file_fails_the_self_test(
    bundle, each_file, flip_byte, runner, capsys
):
    flip_byte(bundle / each_file)
    assert runner.main(["--self-test", "--json", "--bundle", str(bundle)]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [one["check"] for one in report["checks"]] == ["checksums"]


def test_a_removed_file_fails_the_self_test(bundle, each_file, runner, capsys):
    (bundle / each_file).unlink()
    assert runner.main(["--self-test", "--bundle", str(bundle)]) == 1
    assert "FAIL  checksums" in capsys.readouterr().out


def test_a_damaged_bundle_classifies_nothing(bundle, flip_byte, run_runner, tiny, tmp_path):
    np.save(tmp_path / "one.npy", tiny.stored[0])
    flip_byte(bundle / "model.onnx")
    done = run_runner(bundle, tmp_path / "one.npy", "--json")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "model.onnx was changed" in done.stderr
    assert "hint:" in done.stderr


@pytest.mark.parametrize("name", ["json.py", "numpy.py", "argparse.py"])
def test_a_planted_module_beside_the_runner_is_not_executed(bundle, name, run_runner, tmp_path):
    marker = tmp_path / "executed"
    (bundle / "runner/python" / name).write_text(f"open({str(marker)!r}, 'w')\n")
    done = run_runner(bundle, "--self-test")
    assert done.returncode == 1
    assert f"runner/python/{name} is not listed" in done.stdout
    assert not marker.exists()


def test_a_link_in_place_of_a_file_is_refused(bundle, runner, tmp_path, capsys):
    original = (bundle / "model.onnx").rename(tmp_path / "model.onnx")
    (bundle / "model.onnx").symlink_to(original)
    assert runner.main(["--self-test", "--bundle", str(bundle)]) == 1
    assert "model.onnx is a link or a device" in capsys.readouterr().out


def with_golden_outputs(bundle, outputs):
    np.savez(bundle / "golden/outputs.npz", outputs=outputs)
    write_sums(bundle)


def test_outputs_beyond_the_tolerance_fail(bundle, runner, tiny, capsys):
    atol = json.loads((bundle / "golden/tolerance.json").read_text())["atol"]
    with_golden_outputs(bundle, tiny.outputs + np.float32(2 * atol))
    assert runner.main(["--self-test", "--json", "--bundle", str(bundle)]) == 1
    found = rows(json.loads(capsys.readouterr().out))
    assert not found["golden.max_abs"]["passed"]
    assert found["golden.max_abs"]["value"] == pytest.approx(2 * atol, rel=1e-2)
    assert found["golden.top1"]["passed"]


def test_another_class_fails_even_within_the_tolerance(bundle, golden_checks, tiny):
    outputs = tiny.outputs.copy()
    lead = np.diff(np.sort(outputs, axis=1)[:, -2:], axis=1)[:, 0]
    tolerance = json.loads((bundle / "golden/tolerance.json").read_text())
    assert 0 in tolerance["top1_items"]
    best = outputs[0].argmax()
    outputs[0, best] -= lead[0] * 1.01
    near, same = golden_checks(bundle, outputs)
    assert near["value"] == pytest.approx(lead[0] * 1.01, rel=1e-3)
    assert not same["passed"]
    assert same["value"] == len(tolerance["top1_items"]) - 1


@pytest.mark.parametrize(
    "change",
    [
        lambda t, std: t.update(top1_items=[]),
        lambda t, std: t.update(output_std=std * 4, atol=std * 4e-3),
    ],
)
def test_a_tolerance_that_does_not_follow_from_the_outputs_fails(bundle, runner, change, capsys):
    path = bundle / "golden/tolerance.json"
    tolerance = json.loads(path.read_text())
    change(tolerance, tolerance["output_std"])
    path.write_text(json.dumps(tolerance))
    write_sums(bundle)
    assert runner.main(["--self-test", "--json", "--bundle", str(bundle)]) == 1
    failed = [c for c in json.loads(capsys.readouterr().out)["checks"] if not c["passed"]]
    assert [c["check"] for c in failed] == ["golden.tolerance"]


@pytest.mark.parametrize("golden", [np.full((6, 3), np.nan, np.float32), np.zeros((5, 3))])
def test_golden_outputs_that_make_no_sense_fail_without_a_traceback(bundle, runner, golden, capsys):
    with_golden_outputs(bundle, golden)
    assert runner.main(["--self-test", "--json", "--bundle", str(bundle)]) == 1
    json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))


def test_a_file_that_is_no_model_is_a_failed_check(bundle, runner, capsys):
    (bundle / "model.onnx").write_bytes(b"no model")
    write_sums(bundle)
    assert runner.main(["--self-test", "--json", "--bundle", str(bundle)]) == 1
    last = json.loads(capsys.readouterr().out)["checks"][-1]
    assert (last["check"], last["passed"]) == ("manifest", False)


def test_logits_that_are_called_probabilities_fail(bundle, signed_again, runner, capsys):
    signed_again(bundle, "manifest.json", lambda m: m["outputs"][0].update(values="probabilities"))
    assert runner.main(["--self-test", "--json", "--bundle", str(bundle)]) == 1
    failed = [c for c in json.loads(capsys.readouterr().out)["checks"] if not c["passed"]]
    assert [c["check"] for c in failed] == ["golden.values"]


def test_budgets_that_hold_pass_with_their_values(make_bundle, tmp_path, runner, capsys):
    gates = [
        *("peak_memory: <= 16GB", "latency.p50: <= 10s", "latency.mean: <= 10s", "size: <= 1MB"),
        *("latency.p90: <= 10s", "load_time: <= 60s", "first_inference: <= 60s"),
        *("throughput: >= 0.001", "accuracy.top1: >= 0.9", "parameters: <= 1K"),
    ]
    bundle = make_bundle(tmp_path / "bundle", budgets=gates)
    assert runner.main(["--self-test", "--json", "--bundle", str(bundle)]) == 0
    found = rows(json.loads(capsys.readouterr().out))
    assert set(gates) <= set(found)
    assert all(found[gate]["value"] > 0 for gate in gates)
    assert found["size: <= 1MB"]["value"] == (bundle / "model.onnx").stat().st_size
    assert "as recorded at packaging" in found["accuracy.top1: >= 0.9"]["reason"]
    assert "90 % against 90 %" in found["accuracy.top1: >= 0.9"]["reason"]


@pytest.mark.parametrize(
    "gate",
    [
        "peak_memory: <= 1KB",
        "latency.p50: <= 1ns",
        "load_time: <= 1ns",
        "first_inference: <= 1ns",
        "size: <= 10B",
        "throughput: >= 1e12",
        "accuracy.top1: >= 0.95",
        "parameters: <= 10",
    ],
)
def test_a_budget_that_does_not_hold_fails(make_bundle, tmp_path, runner, capsys, gate):
    bundle = make_bundle(tmp_path / "bundle", budgets=[gate])
    assert runner.main(["--self-test", "--json", "--bundle", str(bundle)]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [one["check"] for one in report["checks"] if not one["passed"]] == [gate]


def test_a_memory_budget_fails_where_the_system_tells_nothing(
    make_bundle, tmp_path, runner, capsys, monkeypatch
):
    bundle = make_bundle(tmp_path / "bundle", budgets=["peak_memory: <= 16GB"])
    monkeypatch.setattr(runner.re, "search", lambda *_: None)
    assert runner.main(["--self-test", "--bundle", str(bundle)]) == 1
    assert "this machine does not say" in capsys.readouterr().out


def test_a_p99_budget_is_judged_on_a_thousand_runs(make_bundle, tmp_path, runner, capsys):
    bundle = make_bundle(tmp_path / "bundle", budgets=["latency.p99: <= 10s"])
    assert runner.main(["--self-test", "--json", "--bundle", str(bundle)]) == 0
    assert "1000 runs after 20 to warm up" in capsys.readouterr().out


def test_it_gives_class_and_score_of_stored_and_of_preprocessed_items(
    pristine, runner, tiny, tmp_path, capsys
):
    np.save(tmp_path / "stored.npy", tiny.stored)
    np.save(tmp_path / "ready.npy", tiny.inputs)
    expected = softmax(tiny.outputs)
    for name, flags in (("stored.npy", []), ("ready.npy", ["--preprocessed"])):
        given = [str(tmp_path / name), "--json", "--bundle", str(pristine), *flags]
        assert runner.main(given) == 0
        found = json.loads(capsys.readouterr().out)["predictions"]
        assert [one["index"] for one in found] == expected.argmax(axis=1).tolist()
        assert [one["item"] for one in found] == list(range(6))
        np.testing.assert_allclose([one["score"] for one in found], expected.max(axis=1), rtol=1e-5)


def test_top_gives_that_many_classes_best_first(pristine, runner, tiny, tmp_path, capsys):
    np.save(tmp_path / "one.npy", tiny.stored[2])
    given = [str(tmp_path / "one.npy"), "--top", "9", "--bundle", str(pristine)]
    assert runner.main(given) == 0
    lines = capsys.readouterr().out.splitlines()
    scores = [float(line.split()[-1]) for line in lines]
    assert len(lines) == 3
    assert sorted(scores, reverse=True) == scores
    assert sum(scores) == pytest.approx(1, abs=1e-3)
    assert {line.split()[-2] for line in lines} == set(tiny.preprocessing.classes)


def test_probabilities_are_not_softened_again(
    make_bundle, onnx_model, run_onnx, runner, tiny, tmp_path, capsys
):
    file = tmp_path / "softmax.onnx"
    file.write_bytes(onnx_model(softmax=True).SerializeToString())
    outputs = run_onnx(file, tiny.inputs)
    bundle = make_bundle(tmp_path / "bundle", file=file, golden=(tiny.inputs, outputs))
    np.save(tmp_path / "items.npy", tiny.stored)
    runner.main([str(tmp_path / "items.npy"), "--json", "--bundle", str(bundle)])
    found = json.loads(capsys.readouterr().out)["predictions"]
    np.testing.assert_allclose([one["score"] for one in found], outputs.max(axis=1), rtol=1e-6)


@pytest.mark.parametrize(("mode", "turn"), [("L", 0), ("RGB", 0), ("RGBA", 0), ("RGB", 6)])
def test_an_image_becomes_what_the_data_set_makes_of_it(
    pristine, runner, run_onnx, tiny, tmp_path, capsys, mode, turn
):
    rng = np.random.default_rng(3)
    shape = (21, 13) if mode == "L" else (21, 13, len(mode))
    image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), mode=None)
    exif = Image.Exif()
    exif[0x0112] = turn or 1
    path = tmp_path / "image.png"
    image.save(path, exif=exif)
    stored = decoded_image(path, Form(size=(8, 8), channels=1)).pixels[None]
    expected = softmax(run_onnx(tiny.path, tiny.preprocessing.apply(stored)))[0]
    assert runner.main([str(path), "--json", "--top", "3", "--bundle", str(pristine)]) == 0
    found = json.loads(capsys.readouterr().out)["predictions"]
    scores = {one["index"]: one["score"] for one in found}
    np.testing.assert_allclose([scores[i] for i in range(3)], expected, rtol=1e-5)


def decoded_by(runner, path, form):
    given = runner._part("given")
    return given.sized(given._image(path, form), path, form)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
@pytest.mark.parametrize("ground", [[255, 255, 255], [0, 90, 30]])
def test_transparent_pixels_are_laid_on_what_the_data_laid_them_on(
    runner, tmp_path, mode, channels, ground
):
    rng = np.random.default_rng(4)
    drawn = Image.fromarray(rng.integers(0, 256, (9, 7, 4), dtype=np.uint8)).convert(mode)
    drawn.save(tmp_path / "a.png", **({"transparency": 3} if mode == "P" else {}))
    form = {"shape": [channels, 8, 8], "resize": "bilinear", "background": ground}
    found = decoded_by(runner, tmp_path / "a.png", form)
    known = Form(size=(8, 8), channels=channels, background=tuple(ground))
    np.testing.assert_array_equal(found[0], decoded_image(tmp_path / "a.png", known).pixels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(9, 7), (7, 9), (30, 31), (1, 40), (8, 8)])
def test_a_letterboxed_image_is_as_the_data_were(runner, tmp_path, channels, size):
    rng = np.random.default_rng(5)
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    form = {"shape": [channels, 8, 11], "resize": "letterbox", "background": []}
    found = decoded_by(runner, tmp_path / "a.png", form)
    known = Form(size=(8, 11), channels=channels, letterbox=True)
    np.testing.assert_array_equal(found[0], decoded_image(tmp_path / "a.png", known).pixels)


def test_an_image_with_holes_is_refused_by_a_model_whose_data_had_none(runner, tmp_path, capsys):
    for name, alpha in (("open.png", 254), ("shut.png", 255)):
        Image.new("RGBA", (8, 8), (5, 6, 7, alpha)).save(tmp_path / name)
    form = {"shape": [3, 8, 8], "resize": "bilinear"}
    shut = decoded_by(runner, tmp_path / "shut.png", form)
    assert shut[0, :, 0, 0].tolist() == [5, 6, 7]
    with pytest.raises(SystemExit) as stopped:
        decoded_by(runner, tmp_path / "open.png", form)
    assert stopped.value.code == 2
    assert "open.png is transparent in part" in capsys.readouterr().err


def inputs_that_are_wrong(folder):
    np.save(folder / "shape.npy", np.zeros((2, 1, 9, 9), np.uint8))
    np.save(folder / "empty.npy", np.zeros((0, 1, 8, 8), np.uint8))
    np.save(folder / "nan.npy", np.full((1, 8, 8), np.nan, np.float32))
    np.save(folder / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(folder / "complex.npy", np.zeros((1, 8, 8), np.complex64))
    (folder / "cut.npy").write_bytes((folder / "shape.npy").read_bytes()[:100])
    (folder / "text.png").write_text("this is no image")
    Image.new("L", (8, 8)).save(folder / "whole.png")
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:40])
    Image.new("I;16", (8, 8)).save(folder / "deep.png")


@pytest.mark.parametrize(
    "name",
    [
        *("shape.npy", "empty.npy", "nan.npy", "objects.npy", "complex.npy", "cut.npy"),
        *("text.png", "cut.png", "deep.png", "absent.png", "."),
    ],
)
def test_a_wrong_input_is_one_message_and_a_hint(pristine, runner, tmp_path, capsys, name):
    inputs_that_are_wrong(tmp_path)
    given = [str(tmp_path / "whole.png"), str(tmp_path / name), "--bundle", str(pristine)]
    with pytest.raises(SystemExit) as end:
        runner.main(given)
    written = capsys.readouterr()
    assert end.value.code == 2
    assert written.out == ""
    assert len(written.err.strip().split("\n\nhint: ")) == 2
    assert str(tmp_path / name) in written.err


def test_the_message_on_a_wrong_shape_names_both_shapes(pristine, run_runner, tmp_path):
    inputs_that_are_wrong(tmp_path)
    done = run_runner(pristine, tmp_path / "shape.npy")
    assert done.returncode == 2
    assert "(2, 1, 9, 9)" in done.stderr
    assert "(1, 8, 8)" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "given", [[], ["--self-test", "x.npy"], ["x.npy", "--top", "0"], ["x.npy", "--threads", "no"]]
)
def test_wrong_options_leave_with_exit_code_two(runner, given, capsys):
    with pytest.raises(SystemExit) as end:
        runner.main(given)
    assert end.value.code == 2
    assert capsys.readouterr().out == ""


def test_an_unresized_image_is_refused_where_the_data_are_not_resized(
    make_bundle, artifact_manifest, tiny, runner, tmp_path, capsys
):
    manifest = artifact_manifest()
    manifest["data"]["preprocessing"]["resize"] = ""
    bundle = make_bundle(tmp_path / "bundle", manifest=manifest)
    Image.new("L", (9, 8)).save(tmp_path / "image.png")
    with pytest.raises(SystemExit) as end:
        runner.main([str(tmp_path / "image.png"), "--bundle", str(bundle)])
    assert end.value.code == 2
    assert "(9, 8)" in capsys.readouterr().err
    Image.new("L", (8, 8)).save(tmp_path / "image.png")
    assert runner.main([str(tmp_path / "image.png"), "--bundle", str(bundle)]) == 0


@pytest.mark.parametrize(("library", "needs"), [("PIL", "Pillow"), ("onnxruntime", "onnxruntime")])
def test_a_missing_library_is_one_message_with_the_pip_command(
    pristine, run_runner, tmp_path, library, needs
):
    (tmp_path / "blocked").mkdir()
    absent = f"raise ModuleNotFoundError('No module named {library}')\n"
    (tmp_path / "blocked" / f"{library}.py").write_text(absent)
    Image.new("L", (8, 8)).save(tmp_path / "image.png")
    environment = {"PYTHONPATH": str(tmp_path / "blocked")}
    done = run_runner(pristine, tmp_path / "image.png", environment=environment)
    assert done.returncode == 3
    assert needs in done.stderr
    assert "hint: pip install" in done.stderr
    assert "Traceback" not in done.stderr


def test_threads_are_those_asked_for(pristine, runner, capsys):
    given = ["--self-test", "--json", "--threads", "1", "--bundle", str(pristine)]
    assert runner.main(given) == 0
    assert ", 1 threads" in json.loads(capsys.readouterr().out)["measured"]["conditions"]
