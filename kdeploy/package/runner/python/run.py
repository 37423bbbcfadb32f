"""Classify inputs with the model of this bundle, or prove that the bundle works on this machine.

    python run.py --self-test           checksums, outputs, memory and latency against the budgets
    python run.py photo.png items.npy   the class of each input and its score

Needs Python 3.9 or later, numpy and onnxruntime; Pillow only to read image files.
Exit codes: 0 done; 1 the self-test failed; 2 wrong input; 3 something is missing here.
"""
# ruff: noqa: E402 - the path is set right before anything is imported

from __future__ import annotations

import os
import sys

# A `json.py` planted beside this file must not run before the checksums had their say.
FOLDER = __file__.rpartition(os.sep)[0]
sys.path[:] = [p for p in sys.path if p != FOLDER]
# Nothing is written into the bundle, and no stale bytecode read.
sys.dont_write_bytecode, sys.pycache_prefix = True, os.devnull

import argparse
import importlib
import json
import re
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

WARM_UP_COUNT, WARM_UP_SECONDS = 20, 0.2
# A 99th percentile of fewer than 1000 samples is little more than their maximum.
MINIMUM_COUNT, P99_COUNT, MINIMUM_SECONDS, LONGEST_SECONDS = 100, 1000, 1.0, 60.0
DAY = 86_400.0
Json = dict[str, Any]
Run = Callable[[Any], Any]
np: Any = None
onnxruntime: Any = None
package = types.ModuleType("kdeploy_bundle")
package.__path__ = [FOLDER]
sys.modules[package.__name__] = package
reading: Any = importlib.import_module("kdeploy_bundle.reading")
limits: Any = importlib.import_module("kdeploy_bundle.limits")
rules: Any = importlib.import_module("kdeploy_bundle.rules")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    given = _parsed(arguments)
    if given.in_child:
        print(json.dumps(_worked(given)))
        return 0
    try:
        result = _self_test(given, arguments) if given.self_test else _classify(given, arguments)
    except KeyboardInterrupt:
        return 130
    show = _report if given.self_test else _classes
    print(json.dumps(result, indent=2) if given.json else show(result))
    return 0 if result.get("passed", True) else 1


def _stop(message: str, hint: str, code: int = 2) -> NoReturn:
    print(f"{message}\n\nhint: {hint}", file=sys.stderr)
    raise SystemExit(code)


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("run.py", description=(__doc__ or "").split("\n")[0])
    option = parser.add_argument
    option("inputs", nargs="*", type=Path, metavar="INPUT", help="an image file, or .npy")
    option("--self-test", action="store_true", help="prove the bundle; exit code 0 or 1")
    option("--json", action="store_true", help="print one JSON document")
    option("--top", type=int, default=1, metavar="K", help="how many classes to print")
    option("--threads", type=int, default=_allowed_cores(), metavar="N", help="of ONNX Runtime")
    option("--bundle", type=Path, default=Path(__file__).resolve().parents[2], metavar="FOLDER")
    option("--timeout", type=float, metavar="SECONDS", help="stop after so long; else by budgets")
    option("--memory-limit", type=int, metavar="MB", help="of the model; else by budgets and size")
    option("--in-child", action="store_true", help=argparse.SUPPRESS)
    option("--preprocessed", action="store_true", help="INPUT is .npy, as the model takes it")
    given = parser.parse_args(arguments)
    if given.self_test == bool(given.inputs) or min(given.top, given.threads) < 1:
        parser.error("give --self-test, or inputs; --top and --threads are at least 1")
    if not all(limit is None or limit > 0 for limit in (given.timeout, given.memory_limit)):
        parser.error("--timeout and --memory-limit are above 0")
    return given


def _allowed_cores() -> int:
    # ONNX Runtime itself asks neither the affinity mask nor the container's quota.
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    limit = Path("/sys/fs/cgroup/cpu.max")
    quota, period = limit.read_text().split() if limit.is_file() else ("max", "1")
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def _checked(folder: Path) -> tuple[Json, list[Json]]:
    """Return the manifest of a bundle, and the checks that it is whole and makes sense."""
    checks: list[Json] = []
    try:
        digests = reading.check_files(folder)
        checks.append(_check("checksums", True, "every file is as packaged"))
        manifest = rules.check_rules(folder, digests)
        return manifest, [*checks, _check("manifest", True, "nothing contradicts another part")]
    except (reading.Refused, OSError) as error:
        return {}, [*checks, _check("manifest" if checks else "checksums", False, str(error))]


def _limited(given: argparse.Namespace, arguments: list[str], manifest: Json) -> Json:
    """Return what a process of its own finds, of which the model cannot take the machine."""
    megabytes, seconds = rules.allowances(manifest, given.threads)
    if not given.self_test:
        seconds = DAY  # of many items nobody knows how long they should take
    bounds = {
        "--memory-limit": given.memory_limit or megabytes,
        "--timeout": given.timeout or seconds,
    }
    found: Json = limits.answer(__file__, [*arguments, "--in-child"], bounds)
    return found


def _worked(given: argparse.Namespace) -> Json:
    """Do what was asked, in this process."""
    global np, onnxruntime
    try:
        import numpy
        import onnxruntime as runtime
    except ImportError as error:
        _stop(str(error), "pip install numpy onnxruntime", 3)
    np, onnxruntime = numpy, runtime
    manifest = json.loads((given.bundle / "manifest.json").read_bytes())
    if given.in_child:
        limits.limit(given.memory_limit, given.timeout, given.threads)
    if not given.self_test:
        return _predicted(given, manifest)
    measured: Json = {}
    checks: list[Json] = []
    try:
        _proof(given.bundle, manifest, given.threads, measured, checks)
    except Exception as error:  # whatever a foreign file raises is a failed check
        checks.append(_check("run", False, limits.reason(error, given.memory_limit)))
    return {"checks": checks, "measured": measured}


def _open(folder: Path, manifest: Json, threads: int) -> Run:
    outputs, name = [manifest["outputs"][0]["name"]], manifest["inputs"][0]["name"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; warnings would stand between our own lines
    path = str(folder / manifest["model"]["file"])
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(outputs, {name: batch})[0]


def _run_each(run: Run, items: Any) -> Any:
    return np.concatenate([run(items[i : i + 1]) for i in range(len(items))])


def _self_test(given: argparse.Namespace, arguments: list[str]) -> Json:
    manifest, checks = _checked(given.bundle)
    done: Json = {"checks": [], "measured": {}}
    if manifest:
        try:
            done = _limited(given, arguments, manifest)
        except limits.Ended as ended:
            checks.append(_check("run", False, str(ended)))
    checks += done["checks"]
    passed = all(c["passed"] for c in checks)
    return {"passed": passed, "checks": checks, "measured": done["measured"]}


def _proof(folder: Path, manifest: Json, threads: int, measured: Json, checks: list[Json]) -> None:
    golden = np.load(folder / "golden" / "inputs.npz", allow_pickle=False)["inputs"]
    library = f"onnxruntime {onnxruntime.__version__}, {threads} threads"
    started = time.perf_counter()
    run = _open(folder, manifest, threads)
    measured["load_time"] = time.perf_counter() - started
    checks.append(_check("load", True, library, measured["load_time"], unit="s"))
    measured["first_inference"] = _timed(run, golden, 1, 0)[0]
    checks += _golden_checks(folder, _run_each(run, golden))
    warm_up = len(_timed(run, golden, WARM_UP_COUNT, WARM_UP_SECONDS))
    has_p99 = any(b["metric"] == "latency.p99" for b in manifest["budgets"])
    samples = _timed(run, golden, P99_COUNT if has_p99 else MINIMUM_COUNT, MINIMUM_SECONDS)
    measured.update({f"latency.p{q}": float(np.percentile(samples, q)) for q in (50, 90, 99)})
    measured["latency.mean"] = sum(samples) / len(samples)
    measured["throughput"] = 1 / measured["latency.mean"]
    # Large weights lie in a file of their own, named after the model's.
    files = folder.glob(manifest["model"]["file"] + "*")
    measured["size"] = sum(file.stat().st_size for file in files)
    status = Path("/proc/self/status")  # ru_maxrss would count the parent's memory too
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    measured["peak_memory"] = int(peak[1]) * 1024 if peak else None
    measured["conditions"] = f"{len(samples)} runs after {warm_up} to warm up, {library}"
    checks += _budget_checks(manifest, measured)


def _golden_checks(folder: Path, found: Any) -> list[Json]:
    expected = np.load(folder / "golden" / "outputs.npz", allow_pickle=False)["outputs"]
    tolerance = json.loads((folder / "golden" / "tolerance.json").read_bytes())
    atol, items = tolerance["atol"], tolerance["top1_items"]
    if not np.isfinite(expected).all():
        return [_check("golden.max_abs", False, "the recorded outputs are no finite numbers")]
    rows = expected.reshape(-1, expected.shape[-1])
    lead = np.diff(np.sort(rows, axis=1)[:, -2:], axis=1)[:, 0]
    is_derived = items == np.flatnonzero(lead > atol).tolist()  # all but near ties
    if not (is_derived and np.isclose(float(expected.std()), tolerance["output_std"], rtol=1e-3)):
        wrong = "golden/tolerance.json does not follow from the recorded outputs"
        return [_check("golden.tolerance", False, wrong)]
    values = json.loads((folder / "manifest.json").read_bytes())["outputs"][0]["values"]
    sums_to_one = (expected >= 0).all() and np.allclose(expected.sum(axis=-1), 1, atol=1e-3)
    if values != ("probabilities" if sums_to_one else "logits"):
        wrong = f"outputs.0.values is {values!r}, which the recorded outputs are not"
        return [_check("golden.values", False, wrong)]
    error = float(np.abs(found - expected).max()) if found.shape == expected.shape else np.inf
    classes = [x.reshape(-1, x.shape[-1]).argmax(1) for x in (found, expected)]
    agree = int((classes[0][items] == classes[1][items]).sum())
    about = f"largest difference to the outputs of {len(found)} items"
    near = _check("golden.max_abs", error <= atol, about, error, atol)
    same = agree == len(items)
    return [near, _check("golden.top1", same, "items with their class", agree, len(items))]


def _timed(run: Run, items: Any, minimum_count: int, minimum_seconds: float) -> list[float]:
    samples: list[float] = []
    total = 0.0
    while (len(samples) < minimum_count or total < minimum_seconds) and total < LONGEST_SECONDS:
        item = len(samples) % len(items)
        batch = items[item : item + 1]
        started = time.perf_counter()
        run(batch)
        samples.append(time.perf_counter() - started)
        total += samples[-1]
    return samples


def _budget_checks(manifest: Json, measured: Json) -> list[Json]:
    checks = []
    for budget in manifest["budgets"]:
        metric, bound, here = budget["metric"], budget["bound"], budget["judged"] == "device"
        value = (measured if here else manifest["recorded"]).get(metric)
        holds = value is not None and (value <= bound if budget["is_upper"] else value >= bound)
        reason = measured["conditions"] if here else "as recorded at packaging"
        reason = "this machine does not say" if value is None else reason
        checks.append(_check(budget["gate"], holds, reason, value, bound, budget["unit"]))
    for metric, unit in (("peak_memory", "B"), ("latency.p50", "s")):
        if metric not in [b["metric"] for b in manifest["budgets"]]:
            checks.append(_check(metric, True, "no budget", measured[metric], None, unit))
    return checks


def _check(
    name: str, passed: bool, reason: str, value: Any = None, bound: Any = None, unit: str = ""
) -> Json:
    factor, shown = {"s": (1e3, " ms"), "B": (1e-6, " MB"), "fraction": (100, " %")}.get(
        unit, (1, "")
    )
    finite = value if value is not None and abs(value) < float("inf") else None
    numbers = " against ".join(f"{n * factor:.5g}{shown}" for n in (finite, bound) if n is not None)
    verdict = {"check": name, "value": finite, "bound": bound, "unit": unit}
    return {**verdict, "passed": bool(passed), "reason": ", ".join(filter(None, (numbers, reason)))}


def _report(result: Json) -> str:
    words = {True: "ok  ", False: "FAIL"}
    lines = [f"{words[x['passed']]}  {x['check']:<26} {x['reason']}" for x in result["checks"]]
    return "\n".join([*lines, "passed" if result["passed"] else "FAILED"])


def _classify(given: argparse.Namespace, arguments: list[str]) -> Json:
    manifest, checks = _checked(given.bundle)
    if not manifest:
        _stop(f"this bundle is damaged: {checks[-1]['reason']}", "unpack or copy it again")
    try:
        return _limited(given, arguments, manifest)
    except limits.Ended as ended:
        _stop(str(ended), "allow more with --timeout or --memory-limit, if you trust the bundle")


def _predicted(given: argparse.Namespace, manifest: Json) -> Json:
    # All inputs are read before any is run: a wrong one leaves no half of an answer.
    form, is_ready = manifest["preprocessing"], given.preprocessed
    inputs = [(path, _model_input(path, form, is_ready)) for path in given.inputs]
    try:
        run = _open(given.bundle, manifest, given.threads)
    except Exception as error:
        _stop(f"onnxruntime cannot open the model: {error}", "pip install --upgrade onnxruntime", 3)
    predictions: list[Json] = []
    for path, items in inputs:
        try:
            rows = _run_each(run, items)
        except Exception as error:  # as above
            _stop(
                f"{path}: {limits.reason(error, given.memory_limit)}",
                "does the model fit this device?",
            )
        for number, row in enumerate(rows):
            best = _ranked(row, manifest, given.top)
            predictions += [{"input": str(path), "item": number, **one} for one in best]
    return {"predictions": predictions}


def _classes(result: Json) -> str:
    line = "{input}[{item}]: {class} {score:.4f}"
    return "\n".join(line.format(**one) for one in result["predictions"])


def _ranked(row: Any, manifest: Json, top: int) -> list[Json]:
    # Of a model that answers every token, what comes after the last.
    scores = row.reshape(-1, row.shape[-1])[-1].astype(np.float64)
    if not np.isfinite(scores.max()):
        _stop("the model answers NaN or infinity to an input, which is no class", "check the input")
    if manifest["outputs"][0]["values"] == "logits":
        scores = np.exp(scores - scores.max())
        scores /= scores.sum()
    names = manifest["classes"] or [str(i) for i in range(len(scores))]
    order = np.argsort(-scores, kind="stable")[:top]
    return [{"class": names[i], "index": int(i), "score": float(scores[i])} for i in order]


def _model_input(path: Path, form: Json, is_preprocessed: bool) -> Any:
    if not path.is_file():
        _stop(f"there is no file {path}", "name image files or .npy files")
    shape, is_array = tuple(form["shape"]), is_preprocessed or path.suffix == ".npy"
    x = _array(path, shape) if is_array else _image(path, shape, form)
    if form.get("dtype") == "int64":
        if x.dtype.kind == "f" or x.min() < 0 or x.max() >= form["vocabulary"]:
            hint = f"save token ids, integers below {form['vocabulary']}"
            _stop(f"{path} holds {x.dtype} from {x.min()} to {x.max()}", hint)
        return x.astype(np.int64)
    if is_preprocessed:
        return x.astype(np.float32)
    per_channel = (-1, *(1 for _ in shape[1:]))
    mean, std = (np.float32(form[k]).reshape(per_channel) for k in ("mean", "std"))
    return (x.astype(np.float32) * np.float32(form["scale"]) - mean) / std


def _array(path: Path, shape: tuple[int, ...]) -> Any:
    try:
        with path.open("rb") as file:
            start, _, size = reading.npy_header(file.read(reading.MOST_HEADER_BYTES))
        if start + size != path.stat().st_size:
            raise ValueError(f"its header asks for {size} bytes of data")
        x = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as error:
        _stop(f"{path} is not a .npy file of numbers: {error}", "write it with numpy.save")
    x = x[None] if x.shape == shape else x
    if x.shape[1:] != shape or len(x) == 0 or x.dtype.kind not in "uif":
        found = f"{x.dtype} of shape {x.shape}"
        _stop(f"{path} holds {found}; the model takes {shape}", f"save {shape} or (N, *{shape})")
    if not np.isfinite(x).all():
        _stop(f"{path} holds NaN or infinity", "every number must be finite")
    return x


def _image(path: Path, shape: tuple[int, ...], form: Json) -> Any:
    if len(shape) != 3 or shape[0] not in (1, 3):
        _stop(f"{path} is no .npy file, and this model takes no images", f"save numbers: {shape}")
    try:
        from PIL import Image, ImageOps
    except ImportError:
        hint = "pip install pillow, or give a .npy file"
        _stop(f"reading {path} needs Pillow, which is not installed here", hint, 3)
    channels, height, width = shape
    try:
        opened = Image.open(path)
        opaque, ground = _opaque(ImageOps.exif_transpose(opened), form.get("background"))
        image = opaque.convert("L" if channels == 1 else "RGB")
    except Exception as error:  # Pillow's plugins raise errors of many kinds on damaged files
        _stop(f"{path} cannot be decoded: {error}", "give another image, or a .npy file")
    if opened.mode[0] in "IF":
        _stop(f"{path} has more than 8 bits a channel", "convert it to 8 bits, or give .npy")
    if not ground:
        hint = "lay it on a colour first; the data of this model had no transparency"
        _stop(f"{path} is transparent in part", hint)
    if image.size != (width, height) and not form["resize"]:
        _stop(f"{path} has {image.size} pixels, not {(width, height)}", "resize it first")
    if form["resize"] == "letterbox":
        image = reading.letterboxed(image, width, height)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(1, height, width, channels).transpose(0, 3, 1, 2)


def _opaque(image: Any, background: Any) -> tuple[Any, bool]:
    """Return the image laid on the background, and whether that could be done."""
    from PIL import Image

    has_alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    layer = image.convert("RGBA") if has_alpha else image
    if not has_alpha or layer.getchannel("A").getextrema() == (255, 255):
        return layer, True
    if not background:
        return layer, False
    return Image.alpha_composite(Image.new("RGBA", layer.size, (*background, 255)), layer), True


if __name__ == "__main__":
    raise SystemExit(main())
