"""Classify inputs with the model of this bundle, or prove that the bundle works on this machine.

    python run.py --self-test           checksums, outputs, memory and latency against the budgets
    python run.py photo.png items.npy   the class of each input and its score
    python run.py items.npz             of a model that takes several: an array for each, by name
    python run.py --prompt "Why?"       what a language model answers

Needs Python 3.9 or later, numpy and what `session.py` imports; Pillow only to read image files.
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

WARM_UP_COUNT, WARM_UP_SECONDS = 20, 0.2  # whichever lasts longer
# A 99th percentile of fewer than 1000 samples is little more than their maximum.
MINIMUM_COUNT, P99_COUNT, MINIMUM_SECONDS, LONGEST_SECONDS = 100, 1000, 1.0, 60.0
DAY = 86_400.0
Json = dict[str, Any]
Arrays = dict[str, Any]
Run = Callable[[Arrays], Arrays]
np: Any = None
package = types.ModuleType("kdeploy_bundle")
package.__path__ = [FOLDER]
sys.modules[package.__name__] = package
reading: Any = importlib.import_module("kdeploy_bundle.reading")
limits: Any = importlib.import_module("kdeploy_bundle.limits")
parts: Any = importlib.import_module("kdeploy_bundle.parts")
rules: Any = importlib.import_module("kdeploy_bundle.rules")
texts: Any = importlib.import_module("kdeploy_bundle.texts")
session: Any = importlib.import_module("kdeploy_bundle.session")
_stop: Callable[..., NoReturn] = texts.stop


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


def _part(name: str) -> Any:
    """Return a file of this program that needs numpy."""
    return importlib.import_module(f"kdeploy_bundle.{name}")


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("run.py", description=(__doc__ or "").split("\n")[0])
    option = parser.add_argument
    option("inputs", nargs="*", type=Path, metavar="INPUT", help="an image file, .npy or .npz")
    option("--prompt", metavar="TEXT", help="of a language model: what it shall answer")
    option("--new-tokens", type=int, default=128, metavar="N", help="of its answer, at most")
    option("--self-test", action="store_true", help="prove the bundle; exit code 0 or 1")
    option("--json", action="store_true", help="print one JSON document")
    option("--top", type=int, default=1, metavar="K", help="how many classes to print")
    option("--threads", type=int, default=allowed_cores(), metavar="N", help="of the processor")
    option("--bundle", type=Path, default=Path(__file__).resolve().parents[2], metavar="FOLDER")
    option("--timeout", type=float, metavar="SECONDS", help="stop after so long; else by budgets")
    option("--memory-limit", type=int, metavar="MB", help="of the model; else by budgets and size")
    option("--in-child", action="store_true", help=argparse.SUPPRESS)
    option("--preprocessed", action="store_true", help="INPUT holds what the model takes")
    given = parser.parse_args(arguments)
    asked = [given.self_test, bool(given.inputs), given.prompt is not None]
    if sum(asked) != 1 or min(given.top, given.threads, given.new_tokens) < 1:
        parser.error("give --self-test, --prompt or inputs; counts are at least 1")
    if not all(limit is None or limit > 0 for limit in (given.timeout, given.memory_limit)):
        parser.error("--timeout and --memory-limit are above 0")
    return given


def allowed_cores() -> int:
    """Return how many of the processor's cores this process may use."""
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
    global np
    try:
        np = importlib.import_module("numpy")
        for name in session.LIBRARIES:
            importlib.import_module(name)
    except ImportError as error:
        _stop(str(error), f"pip install numpy {' '.join(session.LIBRARIES)}", 3)
    manifest = json.loads((given.bundle / "manifest.json").read_bytes())
    if given.in_child:
        limits.limit(given.memory_limit, given.timeout, given.threads)
    if not given.self_test:
        return (_predicted if given.prompt is None else _answered)(given, manifest)
    measured: Json = {}
    checks: list[Json] = []
    try:
        _proof(given.bundle, manifest, given.threads, measured, checks)
    except Exception as error:  # whatever a foreign file raises is a failed check
        checks.append(_check("run", False, limits.reason(error, given.memory_limit)))
    return {"checks": checks, "measured": measured}


def _open(folder: Path, manifest: Json, threads: int) -> Run:
    run: Run = session.open_model(str(folder / manifest["model"]["file"]), threads)
    return run


def _library(threads: int) -> str:
    names = (f"{n} {getattr(sys.modules[n], '__version__', '')}" for n in session.LIBRARIES)
    return f"{', '.join(name.strip() for name in names)}, {threads} threads"


def _calls(manifest: Json, arrays: list[Any]) -> list[Arrays]:
    """Return what each item gives the model, without the state."""
    ports = rules.data_ports(manifest)
    given = list(zip(ports, arrays))  # noqa: B905 - Python 3.9
    return [
        {p["name"]: x[i : i + 1] if rules.takes_rows(p) else x[i, ...] for p, x in given}
        for i in range(len(arrays[0]))
    ]


class Stream:
    """A model whose state goes out of one call and into the next; without one it has none."""

    def __init__(self, run: Run, manifest: Json) -> None:
        self._run, self._manifest = run, manifest
        self.restart()

    def restart(self) -> None:
        """Begin anew, with zeros."""
        ports = {port["name"]: port for port in self._manifest["inputs"]}
        self._pairs = [(s["input"], s["output"]) for s in self._manifest.get("state", [])]
        self._state = {name: _zeros(ports[name]) for name, _ in self._pairs}

    def __call__(self, call: Arrays) -> Arrays:
        outputs = self._run({**call, **self._state} if self._pairs else call)
        self.part = getattr(self._run, "part", 0)
        self._state = {name: outputs[output] for name, output in self._pairs}
        return outputs


def _zeros(port: Json) -> Any:
    return np.zeros([1 if size == "batch" else size for size in port["shape"]], port["type"])


def _run_each(run: Stream, calls: list[Arrays]) -> list[Arrays]:
    run.restart()
    return [run(call) for call in calls]


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
    golden = _calls(manifest, _part("golden").arrays(folder / "golden" / "inputs.npz"))
    library = _library(threads)
    started = time.perf_counter()
    run = Stream(_open(folder, manifest, threads), manifest)
    measured["load_time"] = time.perf_counter() - started
    checks.append(_check("load", True, library, measured["load_time"], unit="s"))
    measured["first_inference"] = _timed(run, golden, 1, 0)[0]
    answers = _run_each(run, golden)
    checks += [_check(*told) for told in _part("golden").checks(folder, manifest, answers)]
    if "dynamic" in manifest:
        taken = parts.taken(run, golden)
        checks.append(_check(*parts.check(manifest, taken)))
        golden = parts.mixed(manifest, golden)
    warm_up = len(_timed(run, golden, WARM_UP_COUNT, WARM_UP_SECONDS))
    has_p99 = any(b["metric"] == "latency.p99" for b in manifest["budgets"])
    samples = _timed(run, golden, P99_COUNT if has_p99 else MINIMUM_COUNT, MINIMUM_SECONDS)
    measured.update({f"latency.p{q}": _percentile(samples, q / 100) for q in (50, 90, 99)})
    measured["latency.mean"] = sum(samples) / len(samples)
    measured["throughput"] = 1 / measured["latency.mean"]
    # Large weights lie in a file of their own, named as the model.
    files = folder.glob("model.*")
    measured["size"] = sum(file.stat().st_size for file in files)
    status = Path("/proc/self/status")  # ru_maxrss would count the parent's memory too
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    measured["peak_memory"] = int(peak[1]) * 1024 if peak else None
    measured["conditions"] = f"{len(samples)} runs after {warm_up} to warm up, {library}"
    checks += _budget_checks(manifest, measured)


def _percentile(samples: list[float], share: float) -> float:
    """Return what `numpy.percentile` does, which would take 9 MB for it."""
    ordered = sorted(samples)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _timed(
    run: Run, calls: list[Arrays], minimum_count: int, minimum_seconds: float
) -> list[float]:
    samples: list[float] = []
    total = 0.0
    while (len(samples) < minimum_count or total < minimum_seconds) and total < LONGEST_SECONDS:
        call = calls[len(samples) % len(calls)]
        started = time.perf_counter()
        run(call)
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
    read, is_ready = _part("given").given_arrays, given.preprocessed
    inputs = [(path, read(path, manifest, is_ready)) for path in given.inputs]
    predictor = Predictor(given.bundle, manifest, given.threads)
    predictions: list[Json] = []
    for path, arrays in inputs:
        try:
            items = predictor(arrays, given.top)
        except Exception as error:  # as above
            _stop(
                f"{path}: {limits.reason(error, given.memory_limit)}",
                "does the model fit this device?",
            )
        for number, told in enumerate(items):
            predictions += [{"input": str(path), "item": number, **one} for one in told]
    taken = predictor.taken
    told = parts.counted(manifest, taken) if "dynamic" in manifest and taken else {}
    return {"predictions": predictions, **told}


class Predictor:
    """The model of a bundle, opened once, and what is read in its answers."""

    def __init__(self, folder: Path, manifest: Json, threads: int) -> None:
        global np
        np = importlib.import_module("numpy")
        self._manifest = manifest
        self.taken: list[int] = []
        try:
            self._run = Stream(_open(folder, manifest, threads), manifest)
        except Exception as error:
            hint = f"pip install --upgrade {' '.join(session.LIBRARIES)}"
            _stop(f"the model cannot be opened: {error}", hint, 3)

    def __call__(self, arrays: list[Any], top: int) -> list[list[Json]]:
        """Return what is read in each item; of a stream they follow one another."""
        self._run.restart()
        answers = []
        for call in _calls(self._manifest, arrays):
            answers.append(self._run(call))
            self.taken.append(self._run.part)
        return [_told(answer, self._manifest, top) for answer in answers]


def _answered(given: argparse.Namespace, manifest: Json) -> Json:
    answer = getattr(_open(given.bundle, manifest, given.threads), "answer", None)
    if answer is None:
        _stop("the model of this bundle takes no text", "give it files: `run.py --help`")
    found: Json = answer(given.prompt, given.new_tokens)
    return found


def _told(answer: Arrays, manifest: Json, top: int) -> list[Json]:
    """Return what the task reads in an item: its best classes, else all outputs as they are."""
    if (Path(FOLDER) / "decode.py").is_file():
        return [{"decoded": _part("decode").decode(answer, manifest["task"])}]
    if manifest["outputs"][0]["values"]:
        return _ranked(answer[manifest["outputs"][0]["name"]][0], manifest, top)
    return [{"outputs": {name: np.asarray(x).tolist() for name, x in answer.items()}}]


def _classes(result: Json) -> str:
    if "answer" in result:
        return str(result["answer"])
    if "warning" in result:
        print(f"warning: {result['warning']}", file=sys.stderr)
    return "\n".join(texts.line(one) for one in result["predictions"])


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


if __name__ == "__main__":
    raise SystemExit(main())
