"""The C++ runner against the Python runner: the same bundles, answers and refusals."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from kdeploy.data.contract import Preprocessing
from kdeploy.data.decoded import Form, decoded_image
from kdeploy.package.checksums import write_sums
from tests.package.runner.cpp import built

pytestmark = pytest.mark.skipif(bool(built.missing()), reason=built.missing())
SEED = np.random.default_rng(7)


@pytest.fixture(scope="module")
def cpp():
    """Return a function that runs the program."""
    program = built.program()

    def run(*arguments, stdin=None):
        done = subprocess.run(
            [program, *map(str, arguments)],
            input=stdin,
            capture_output=True,
            check=False,
            timeout=60,
            env={**os.environ, **built.ENVIRONMENT},
        )
        assert b"Sanitizer" not in done.stderr, done.stderr.decode()
        assert done.returncode in (0, 1, 2, 3), done.stderr.decode()
        return done

    return run


@pytest.fixture(scope="module")
def predict(cpp):
    """Return a function that gives the predictions for a file."""

    def run(bundle, *given, stdin=None):
        done = cpp("--json", "--bundle", bundle, *given, stdin=stdin)
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)["predictions"]

    return run


def self_test(cpp, bundle, *more):
    done = cpp("--self-test", bundle, "--json", "--threads", 1, "--seconds", 0, *more)
    return done.returncode, json.loads(done.stdout)


def identity(path, **shapes):
    """Write a model that gives what it takes."""
    ports = [
        [
            helper.make_tensor_value_info(prefix + name, TensorProto.FLOAT, ["batch", *shape])
            for name, shape in shapes.items()
        ]
        for prefix in ("in.", "")
    ]
    nodes = [helper.make_node("Identity", [f"in.{name}"], [name]) for name in shapes]
    opsets = [helper.make_opsetid("", 18)]
    graph = helper.make_graph(nodes, "identity", *ports)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def task_bundle(make_bundle, artifact_manifest, folder, task, arrays):
    """Return the bundle of a model that answers these arrays, and a file that asks for them."""
    manifest = artifact_manifest()
    manifest["data"] = {"task": task}
    file = identity(folder / "identity.onnx", **{name: x.shape[1:] for name, x in arrays.items()})
    given = {f"in.{name}": x for name, x in arrays.items()}
    np.savez(folder / "items.npz", **given)
    bundle = make_bundle(
        folder / "bundle", file=file, manifest=manifest, golden=(given, arrays), accuracy={}
    )
    return bundle, folder / "items.npz"


def logits(*shape):
    return SEED.standard_normal(shape).astype(np.float32) * 3


TASKS = {
    "ctc": ({"out": logits(2, 9, 5)}, {}, {"blank": 0, "alphabet": "aäß字"}),
    "embedding": ({"out": logits(3, 6)}, {}, {}),
    "keypoint_heatmaps": ({"out": logits(2, 4, 5, 7)}, {}, {"size": [20, 28]}),
    "multi_label": ({"out": logits(3, 5)}, {"threshold": 0.5}, {"labels": list("abcde")}),
    "regression": (
        {"out": logits(3, 2)},
        {"standardize": True},
        {"mean": [1.0, -20.0], "std": [0.5, 3.0]},
    ),
    "segmentation": ({"out": logits(2, 3, 4, 5)}, {}, {"size": [7, 9], "classes": ["a", "b", "c"]}),
    "tokens": ({"out": logits(2, 6, 3)}, {}, {"classes": ["a", "b"]}),
}


def decoded(task, arrays, item):
    module = importlib.import_module(f"kdeploy.tasks.decoding.{task['name']}")
    return module.decode({name: x[item : item + 1] for name, x in arrays.items()}, task)


def assert_equal(found, expected):
    """Compare documents: texts exactly, numbers closely."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_equal(found[key], expected[key])
    elif isinstance(expected, list) and expected and not isinstance(expected[0], (int, float)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    elif isinstance(expected, str):
        assert found == expected
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_it_reads_answers_as_the_task_does(make_bundle, artifact_manifest, predict, tmp_path, name):
    arrays, parameters, found = TASKS[name]
    task = {"name": name, "parameters": parameters, "found": found}
    bundle, items = task_bundle(make_bundle, artifact_manifest, tmp_path, task, arrays)
    predictions = predict(bundle, items)
    assert [one["item"] for one in predictions] == list(range(len(arrays["out"])))
    for item, one in enumerate(predictions):
        assert_equal(one["decoded"], decoded(task, arrays, item))


@pytest.mark.parametrize("name", [name for name in TASKS if name != "regression"])
def test_what_it_reads_in_golden_items_is_compared_as_in_python(
    make_bundle, artifact_manifest, cpp, tmp_path, name
):
    arrays, parameters, found = TASKS[name]
    task = {"name": name, "parameters": parameters, "found": found}
    bundle, _ = task_bundle(make_bundle, artifact_manifest, tmp_path, task, arrays)
    # Recorded as its negative, every item reads otherwise; deviations stay what they are.
    np.savez(bundle / "golden/outputs.npz", -arrays["out"])
    write_sums(bundle)
    code, report = self_test(cpp, bundle)
    program = [sys.executable, bundle / "runner/python/run.py", "--self-test", "--json"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    expected = {one["check"]: one for one in json.loads(done.stdout)["checks"]}
    own = {one["check"]: one for one in report["checks"]}
    assert code == done.returncode == 1
    assert not own["golden.decoded"]["passed"]
    assert own["golden.decoded"]["reason"] == expected["golden.decoded"]["reason"]


def boxes(*shape):
    low = SEED.uniform(0, 30, (*shape, 2))
    return np.concatenate([low, low + SEED.uniform(2, 30, (*shape, 2))], -1).astype(np.float32)


DETECTORS = {
    "distances": {
        "boxes.0": SEED.uniform(1, 20, (2, 4, 6, 8)).astype(np.float32),
        "scores.0": logits(2, 3, 6, 8),
        "boxes.1": SEED.uniform(1, 20, (2, 4, 3, 4)).astype(np.float32),
        "scores.1": logits(2, 3, 3, 4),
    },
    "bins": {"boxes": logits(2, 20, 6, 8), "scores": logits(2, 3, 6, 8)},
    "decoded": {"boxes": boxes(2, 40), "scores": SEED.random((2, 40, 3)).astype(np.float32)},
}


@pytest.mark.parametrize("kind", DETECTORS)
def test_it_finds_the_boxes_that_python_finds(
    make_bundle, artifact_manifest, cpp, predict, tmp_path, kind
):
    arrays = DETECTORS[kind]
    task = {
        "name": "detection",
        "parameters": {"head": "", "scores": "auto", "score_threshold": 0.05, "overlap": 0.5},
        "found": {"size": [48, 64], "classes": ["cat", "dog", "owl"]},
    }
    bundle, items = task_bundle(make_bundle, artifact_manifest, tmp_path, task, arrays)
    for item, one in enumerate(predict(bundle, items)):
        expected = decoded(task, arrays, item)
        assert len(expected["boxes"]) > 5
        assert_equal(one["decoded"], expected)
    code, report = self_test(cpp, bundle)
    assert code == 0, report
    assert "golden.decoded" in [one["check"] for one in report["checks"]]


def test_its_self_test_says_what_that_of_python_says(pristine, cpp, runner, capsys):
    code, report = self_test(cpp, pristine)
    assert runner.main(["--self-test", "--json", "--threads", "1", "--bundle", str(pristine)]) == 0
    expected = json.loads(capsys.readouterr().out)
    assert code == 0
    assert [one["check"] for one in report["checks"]] == [c["check"] for c in expected["checks"]]
    assert report["checks"][0].keys() == expected["checks"][0].keys()
    assert list(report["measured"]) == list(expected["measured"])
    assert all(one["passed"] for one in report["checks"])
    assert 0 < report["measured"]["latency.p50"] <= report["measured"]["latency.p99"]
    assert report["measured"]["size"] == (pristine / "model.onnx").stat().st_size


@pytest.fixture(scope="module")
def quantized(tiny, int8, make_bundle, run_onnx, tmp_path_factory):
    outputs = run_onnx(int8, tiny.inputs)
    out = tmp_path_factory.mktemp("quantized") / "bundle"
    return make_bundle(out, file=int8, golden=(tiny.inputs, outputs)), outputs


def test_a_quantized_model_passes_with_the_very_outputs(quantized, cpp, predict, tiny, tmp_path):
    bundle, outputs = quantized
    code, report = self_test(cpp, bundle)
    assert code == 0, report
    assert next(c for c in report["checks"] if c["check"] == "golden.rms")["value"] == 0
    np.save(tmp_path / "stored.npy", tiny.stored)
    found = predict(bundle, tmp_path / "stored.npy")
    assert [one["index"] for one in found] == outputs.argmax(axis=1).tolist()


def test_classes_and_scores_are_those_of_python(pristine, predict, runner, tiny, tmp_path, capsys):
    np.save(tmp_path / "stored.npy", tiny.stored)
    np.save(tmp_path / "ready.npy", tiny.inputs)
    for name, flags in (("stored.npy", []), ("ready.npy", ["--preprocessed"])):
        given = [str(tmp_path / name), "--top", "3", *flags]
        assert runner.main([*given, "--json", "--bundle", str(pristine)]) == 0
        expected = json.loads(capsys.readouterr().out)["predictions"]
        assert_equal(predict(pristine, *given), expected)
    read = predict(pristine, "-", stdin=(tmp_path / "stored.npy").read_bytes())
    assert [one["index"] for one in read] == tiny.outputs.argmax(axis=1).tolist()


def test_lines_for_people_are_those_of_python(pristine, cpp, runner, tiny, tmp_path, capsys):
    np.save(tmp_path / "stored.npy", tiny.stored)
    given = [str(tmp_path / "stored.npy"), "--bundle", str(pristine)]
    assert runner.main(given) == 0
    assert cpp(*given).stdout.decode() == capsys.readouterr().out


def test_inputs_beside_one_another_are_scaled_as_the_manifest_says(
    make_bundle, artifact_manifest, predict, signed_again, tmp_path
):
    task = {"name": "own", "parameters": {}, "found": {}}
    arrays = {"a": logits(2, 3, 4), "b": logits(2, 5)}
    bundle, _ = task_bundle(make_bundle, artifact_manifest, tmp_path, task, arrays)
    form = {"scale": 0.5, "mean": [1.0, 2.0, 3.0], "std": [1.0, 2.0, 4.0], "vocabulary": 0}
    signed_again(bundle, "manifest.json", lambda m: m["inputs"][0].update(preprocessing=form))
    stored = {"in.a": SEED.integers(0, 256, (2, 3, 4)), "in.b": SEED.integers(0, 9, (2, 5))}
    np.savez(tmp_path / "stored.npz", **stored)
    scale, mean, std = 0.5, np.array([[1.0], [2], [3]]), np.array([[1.0], [2], [4]])
    ready = {"a": (stored["in.a"] * scale - mean) / std, "b": stored["in.b"]}
    for flags, expected in ([], ready), (["--preprocessed"], {n[3:]: x for n, x in stored.items()}):
        for one in predict(bundle, tmp_path / "stored.npz", *flags):
            for name, x in expected.items():
                np.testing.assert_allclose(one["outputs"][name][0], x[one["item"]], rtol=1e-6)


def test_a_file_that_prepares_its_pictures_is_given_them_as_they_are(
    folded_bundle, cpp, predict, runner, tmp_path, capsys
):
    bundle = folded_bundle.bundle
    code, report = self_test(cpp, bundle)
    assert code == 0, report
    files = [tmp_path / name for name in ("a.png", "b.jpg", "c.npy", "d.npz")]
    for file, size in zip(files[:2], ((30, 23), (5, 9)), strict=True):
        Image.fromarray(SEED.integers(0, 256, (*size, 3), dtype=np.uint8)).save(file)
    np.save(files[2], SEED.integers(0, 256, (2, 9, 14, 1), dtype=np.uint8))
    np.savez(files[3], pixels=SEED.integers(0, 256, (9, 14, 1), dtype=np.uint8))
    given = [*map(str, files), "--top", "3"]
    assert runner.main([*given, "--json", "--bundle", str(bundle)]) == 0
    expected = json.loads(capsys.readouterr().out)["predictions"]
    assert len(expected) == 3 * 5
    assert_equal(predict(bundle, *given), expected)


@pytest.mark.parametrize("array", [np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9, 1), np.int32)])
def test_what_are_no_pixels_of_it_is_refused_as_in_python(
    folded_bundle, cpp, runner, tmp_path, capsys, array
):
    given = [str(tmp_path / "a.npy"), "--bundle", str(folded_bundle.bundle)]
    np.save(given[0], array)
    with pytest.raises(SystemExit) as caught:
        runner.main(given)
    done = cpp(*given)
    assert caught.value.code == done.returncode == 2
    python, native = capsys.readouterr().err, done.stderr.decode()
    assert python.replace(" ", "")[:60] == native.replace(" ", "")[:60]


@pytest.mark.parametrize(
    "change", [{"folded": False}, {"layout": "NCHW"}, {"resize": ""}, {"shape": [1, 8]}]
)
def test_a_manifest_that_says_another_form_is_refused_by_both(
    folded_bundle, cpp, runner, signed_again, tmp_path, capsys, change
):
    bundle = shutil.copytree(folded_bundle.bundle, tmp_path / "bundle")
    signed_again(bundle, "manifest.json", lambda m: m["preprocessing"].update(change))
    assert self_test(cpp, bundle)[0] == 1
    assert runner.main(["--self-test", "--json", "--bundle", str(bundle)]) == 1
    failed = json.loads(capsys.readouterr().out)["checks"][-1]
    assert (failed["check"], failed["passed"]) == ("manifest", False)


@pytest.fixture(scope="module", params=["bilinear", "letterbox"])
def pixels(request, make_bundle, artifact_manifest, tmp_path_factory):
    """Return the bundle of a model that gives the pixels that it takes, and their form."""
    folder = tmp_path_factory.mktemp("pixels")
    form = Preprocessing(shape=(3, 8, 11), resize=request.param, background=(9, 90, 200))
    items = SEED.integers(0, 256, (2, 3, 8, 11)).astype(np.float32)
    bundle = make_bundle(
        folder / "bundle",
        file=identity(folder / "i.onnx", pixels=(3, 8, 11)),
        manifest=artifact_manifest(form),
        golden=({"in.pixels": items}, {"pixels": items}),
    )
    return bundle, Form(
        size=(8, 11), channels=3, background=(9, 90, 200), letterbox=request.param == "letterbox"
    )


IMAGES = [
    *((f"{mode}.png", mode, (9, 7)) for mode in ("RGB", "RGBA", "LA", "L", "P", "1")),
    *(("RGB.png", "RGB", size) for size in ((8, 11), (1, 40), (30, 31), (50, 3))),
    *((f"{mode}.jpg", mode, (40, 30)) for mode in ("RGB", "L")),
    *((name, mode, (12, 17)) for name, mode in (("RGB.ppm", "RGB"), ("L.pgm", "L"))),
]


@pytest.mark.parametrize("turn", [1, 6])
def test_images_become_the_pixels_that_pillow_makes_of_them(pixels, predict, tmp_path, turn):
    bundle, form = pixels
    files = []
    for number, (name, mode, (height, width)) in enumerate(IMAGES):
        drawn = SEED.integers(0, 256, (height, width, 4), dtype=np.uint8)
        exif = Image.Exif()
        exif[0x0112] = turn
        more = {"transparency": 3} if mode == "P" else {}
        more |= {} if name.endswith("m") else {"exif": exif}
        files.append(tmp_path / f"{number}-{name}")
        Image.fromarray(drawn).convert(mode).save(files[-1], **more)
    found = predict(bundle, *files)
    for file, one in zip(files, found, strict=True):
        assert_pixels(one, file, form)


def assert_pixels(found, file, form, most=1):
    """Compare with Pillow, which chooses the order of its two passes: one step of 255."""
    expected = decoded_image(file, form).pixels
    away = np.abs(np.array(found["outputs"]["pixels"][0]) - expected)
    assert away.max() <= most, file.name
    assert (away > 0).mean() < 0.3, file.name


@pytest.mark.parametrize(("height", "width"), [(8, 11), (8, 40), (8, 5), (30, 11), (3, 11)])
def test_pixels_are_exact_where_one_axis_is_resized(pixels, predict, tmp_path, height, width):
    bundle, form = pixels
    drawn = SEED.integers(0, 256, (height, width, 4), dtype=np.uint8)
    Image.fromarray(drawn).save(tmp_path / "a.png")
    (one,) = predict(bundle, tmp_path / "a.png")
    assert_pixels(one, tmp_path / "a.png", form, most=1 if form.letterbox else 0)


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation_of_exif_is_turned_upright(pixels, predict, tmp_path, turn):
    bundle, form = pixels
    exif = Image.Exif()
    exif[0x0112] = turn
    drawn = SEED.integers(0, 256, (9, 14, 3), dtype=np.uint8)
    Image.fromarray(drawn).save(tmp_path / "a.png", exif=exif)
    (one,) = predict(bundle, tmp_path / "a.png")
    assert_pixels(one, tmp_path / "a.png", form)


def wrong_inputs(folder):
    np.save(folder / "shape.npy", np.zeros((2, 1, 9, 9), np.uint8))
    np.save(folder / "empty.npy", np.zeros((0, 1, 8, 8), np.uint8))
    np.save(folder / "nan.npy", np.full((1, 8, 8), np.nan, np.float32))
    np.save(folder / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(folder / "complex.npy", np.zeros((1, 8, 8), np.complex64))
    (folder / "cut.npy").write_bytes((folder / "shape.npy").read_bytes()[:100])
    (folder / "text.png").write_text("this is no image")
    for suffix in ("png", "jpg", "pgm"):
        Image.fromarray(SEED.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"w.{suffix}")
        (folder / f"cut.{suffix}").write_bytes((folder / f"w.{suffix}").read_bytes()[:-20])
    Image.new("I;16", (8, 8)).save(folder / "deep.png")
    (folder / "huge.pgm").write_bytes(b"P5 99999999 99999999 255\n")


@pytest.mark.parametrize(
    "name",
    [
        *("shape.npy", "empty.npy", "nan.npy", "objects.npy", "complex.npy", "cut.npy"),
        *("text.png", "cut.png", "cut.jpg", "cut.pgm", "huge.pgm", "deep.png", "absent.png", "."),
    ],
)
def test_a_wrong_input_is_one_message_and_a_hint(pristine, cpp, tmp_path, name):
    wrong_inputs(tmp_path)
    done = cpp("--bundle", pristine, tmp_path / "w.png", tmp_path / name)
    assert (done.returncode, done.stdout) == (2, b"")
    assert len(done.stderr.decode().strip().split("\n\nhint: ")) == 2
    assert str(tmp_path / name) in done.stderr.decode()


@pytest.mark.parametrize("given", [[], ["--self-test", "--bench"], ["x", "--top", "0"], ["--no"]])
def test_wrong_options_leave_with_exit_code_two(cpp, given):
    done = cpp(*given)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"usage:" in done.stderr


def test_a_library_that_is_none_is_told_with_the_remedy(pristine, cpp, tiny, tmp_path):
    np.save(tmp_path / "one.npy", tiny.stored[0])
    done = cpp("--bundle", pristine, "--library", "/no/such.so", tmp_path / "one.npy")
    assert done.returncode == 3
    assert b"--library" in done.stderr


def test_a_flipped_byte_in_any_file_fails_the_self_test(bundle, each_file, flip_byte, cpp):
    flip_byte(bundle / each_file)
    code, report = self_test(cpp, bundle)
    assert code == 1
    assert [one["check"] for one in report["checks"] if not one["passed"]] == ["checksums"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: m.pop("lineage"), "lineage"),
        (lambda m: m["model"].update(sha256="0" * 64), "checksum"),
        (lambda m: m["model"].update(is_quantized=True), "is_quantized"),
        (lambda m: m["inputs"][0].update(shape=["batch", 1, 9, 9]), "9, 9"),
        (lambda m: m["preprocessing"].update(std=[0.0]), "preprocessing.std.0"),
        (lambda m: m["preprocessing"].update(mean=[0.0, 1.0]), "mean and std"),
        (lambda m: m["classes"].append("fourth"), "not the same names"),
        (lambda m: m["budgets"].append({"gate": "size: <= 1B"}), "budgets.0"),
    ],
)
def test_a_manifest_that_contradicts_is_refused_before_anything_runs(bundle, cpp, change, named):
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    write_sums(bundle)
    code, report = self_test(cpp, bundle)
    assert code == 1
    assert [c["check"] for c in report["checks"]] == ["checksums", "manifest"]
    assert named in report["checks"][-1]["reason"]


def test_outputs_that_are_others_fail(bundle, cpp, tiny):
    atol = json.loads((bundle / "golden/tolerance.json").read_text())["atol"]
    np.savez(bundle / "golden/outputs.npz", outputs=tiny.outputs + np.float32(2 * atol))
    write_sums(bundle)
    code, report = self_test(cpp, bundle)
    found = next(c for c in report["checks"] if c["check"] == "golden.max_abs")
    assert (code, found["passed"]) == (1, False)
    assert found["value"] == pytest.approx(2 * atol, rel=1e-2)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (b"a\xf4\xffb", "a\ufffd\ufffdb"),
        (b"\xed\xa0\x80", "\ufffd" * 3),  # half of a pair
        (b"\xc0\xaf", "\ufffd" * 2),  # longer than need be
        ("dé\u4e2d\U0001f600".encode(), "dé\u4e2d\U0001f600"),
    ],
)
def test_names_that_are_no_text_are_told_as_json(pristine, predict, tiny, tmp_path, name, told):
    path = tmp_path / os.fsdecode(name + b".npy")
    np.save(path, tiny.stored)
    found = predict(pristine, path)
    assert found[0]["input"] == str(tmp_path / f"{told}.npy")


@pytest.mark.parametrize(("moved", "holds"), [("one", True), ("all", False)])
def test_where_single_numbers_move_far_all_of_them_are_judged(
    bundle, cpp, runner, tiny, capsys, moved, holds
):
    std = float(np.std(tiny.outputs))
    outputs = tiny.outputs + (0.3 * std if moved == "all" else 0)
    worst = np.abs(outputs).argmin()
    outputs.reshape(-1)[worst] += 0.75 * std * (moved == "one")
    std = float(np.std(outputs))
    np.savez(bundle / "golden/outputs.npz", outputs=np.float32(outputs))
    lead = np.diff(np.sort(outputs, axis=1)[:, -2:], axis=1)[:, 0]
    told = {"output_std": std, "atol": std, "spread": std, "rms_spread": std / 20}
    told |= {"rms_atol": std / 5, "top1_items": np.flatnonzero(lead > std).tolist()}
    path = bundle / "golden/tolerance.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **told}))
    write_sums(bundle)
    code, report = self_test(cpp, bundle)
    assert runner.main(["--self-test", "--json", "--bundle", str(bundle)]) == code == (not holds)
    found = [
        next(c for c in r["checks"] if c["check"] == "golden.rms")
        for r in (report, json.loads(capsys.readouterr().out))
    ]
    exact = np.sqrt(np.square(np.float64(outputs) - tiny.outputs).mean())
    assert [c["value"] for c in found] == pytest.approx([exact, exact], rel=1e-4)
    assert [c["passed"] for c in found] == [holds, holds]
    assert found[0]["reason"] == found[1]["reason"]


@pytest.mark.parametrize(
    ("shape", "is_that_of_the_file"),
    [([3], False), (["batch", "classes"], True), (["batch", "batch", 3], False)],
)
def test_outputs_of_another_shape_than_the_manifest_names_fail(
    bundle, cpp, runner, capsys, shape, is_that_of_the_file
):
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["outputs"][0]["shape"] = shape
    manifest["classes"] = manifest["preprocessing"]["classes"] = []
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    write_sums(bundle)
    code, report = self_test(cpp, bundle)
    assert runner.main(["--self-test", "--json", "--bundle", str(bundle)]) == code
    in_python = json.loads(capsys.readouterr().out)
    assert report["passed"] == in_python["passed"] == is_that_of_the_file
    reasons = [[c["reason"] for c in r["checks"] if not c["passed"]] for r in (report, in_python)]
    assert reasons[0] == reasons[1]


@pytest.mark.parametrize(
    ("gate", "holds"),
    [
        *(("peak_memory: <= 1KB", False), ("latency.p50: <= 1ns", False), ("size: <= 10B", False)),
        *(("throughput: >= 0.001", True), ("accuracy.top1: >= 0.95", False)),
    ],
)
def test_budgets_are_judged(make_bundle, tmp_path, cpp, gate, holds):
    bundle = make_bundle(tmp_path / "bundle", budgets=[gate])
    code, report = self_test(cpp, bundle)
    assert code == (0 if holds else 1)
    failed = [one["check"] for one in report["checks"] if not one["passed"]]
    assert failed == ([] if holds else [gate])


def test_bench_measures_without_a_verdict(pristine, cpp):
    done = cpp("--bench", pristine, "--json", "--seconds", 0)
    assert done.returncode == 0
    measured = json.loads(done.stdout)["measured"]
    assert {"load_time", "first_inference", "latency.p50", "peak_memory"} <= set(measured)


def test_a_model_that_takes_too_much_time_is_ended(tmp_path, make_bundle, cpp):
    bundle = make_bundle(tmp_path / "bundle")
    done = cpp("--self-test", bundle, "--json", "--seconds", 50, "--timeout", 1)
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert "the limit (--timeout)" in report["checks"][-1]["reason"]


def test_the_folder_that_is_built_in_is_the_bundle_itself(pristine, tmp_path):
    """As a device does it: `cmake -S runner/cpp`, and no word about where the bundle is."""
    if sys.platform != "linux":
        pytest.skip("the program is for Linux")
    shutil.copytree(pristine, tmp_path / "bundle")
    done = subprocess.run(
        ["cmake", "-S", "runner/cpp", "-B", tmp_path / "build"],
        cwd=tmp_path / "bundle",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    flags = next((tmp_path / "build").rglob("flags.make")).read_text()
    assert f"{tmp_path}/bundle/runner/cpp/../.." in flags
