"""Is the recipe that is advised first the best of those that are advised?

    python benchmarks/suites/advice.py [--only NETWORK ...] [--work DIR]

Twelve small networks of other people (`benchmarks/shared/others_networks.py`) learn scikit-learn's
digits at 16 x 16 pixels. `kdeploy advise` is asked without a target: as fast as it gets at no more
than 1 pp. Each recipe that it writes is run to its end as it was written; their files and that of
the network itself are then called in turns in one process, on one thread, and the processor's time
of the thread is what counts, so that other load does not. What a recipe is worth is its speed-up
where its accuracy on the test part holds, and 1 where it does not: then the network stays as it is.
Accuracy holds within 1 pp and the standard error of the difference: there are 360 test items. The
first recipe is right where it is worth the most, or within 5 % of it.

A line a network goes to `results/<machine>/advice.jsonl`; one that stands there is not made again.
Ends with 1 where the first is right in fewer than three quarters.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from safetensors.torch import save_file

from benchmarks.shared.others_networks import NETWORKS, SIDE, Network, untrained
from benchmarks.shared.plain_loop import trained_by_hand
from benchmarks.shared.running import Row, add_row, here, parser_of, results_folder, rows_of, table
from kdeploy.advise import measured
from kdeploy.advise.run import advise
from kdeploy.data.load import DataReference, load
from kdeploy.pipeline.log import NullListener
from kdeploy.pipeline.run import run
from kdeploy.pipeline.single import Source
from kdeploy.recipe.read import load as load_recipe

NAME = "advice"
TEACHER_EPOCHS = 6
ALLOWED, NEAR, SHARE = 0.01, 0.95, 0.75
ROUNDS, CALLS = 40, 25
MEASURING_SECONDS = 1800.0
"""Of `advise`, in place of its minute: what it measures must not depend on other load."""
SHORT = ("bench.minimum_seconds=0.05", "bench.minimum_count=20")
"""The runs' own timing is not used."""


def main() -> None:
    """Ask, run and time what is missing; write the table."""
    arguments = parser_of(__doc__ or "", work=NAME, only=NETWORKS).parse_args()
    file = results_folder(here().cpu) / f"{NAME}.jsonl"
    known = {row["network"] for row in rows_of(file)}
    for name in arguments.only or NETWORKS:
        if name not in known:
            row = {"network": name, **_outcomes(NETWORKS[name], arguments.work.resolve() / name)}
            add_row(file, row)
            print(row, flush=True)
    rows = rows_of(file)
    text = _text(rows)
    file.with_suffix(".md").write_text(text)
    print(text)
    sys.exit(0 if sum(map(_is_right, rows)) >= SHARE * len(rows) else 1)


def _outcomes(network: Network, work: Path) -> Row:
    """Return what each recipe came to, in the order in which they were advised."""
    digits = DataReference(name="digits", parameters={"size": SIDE})
    source = Source(
        reference=network.reference,
        weights=_trained(network, digits, work),
        args=network.args,
        data=digits,
    )
    measured.SECONDS = MEASURING_SECONDS
    advice = advise(source, (), work / "advice", NullListener())
    data = load(digits)
    x, y = data.preprocessing.apply(np.asarray(data.test.x)), np.asarray(data.test.y)
    files: dict[str, Path] = {}
    for one in advice.recipes:
        ran = run(load_recipe(one.file, overrides=SHORT), work / one.rule.name)
        files.setdefault("network", ran.out / "exports" / "teacher.onnx")
        if ran.packaged is not None:
            files[one.rule.name] = ran.packaged.file.file
    right = {name: _answers(file, x) == y for name, file in files.items()}
    seconds = _processor_seconds(files, x[:1])
    return {
        "accuracy": float(right["network"].mean()),
        "microseconds": 1e6 * seconds["network"],
        "recipes": [
            {
                "name": one.rule.name,
                "promise": one.promise,
                "expected": list(one.expected.speed_up),
                "speed_up": seconds["network"] / seconds[one.rule.name],
                **_lost(right["network"], right[one.rule.name]),
            }
            for one in advice.recipes
            if one.rule.name in files
        ],
    }


def _trained(network: Network, digits: DataReference, work: Path) -> Path:
    """Return the weights of the network after a plain loop on the training part."""
    file = work / "teacher.safetensors"
    if not file.exists():
        import torch

        data = load(digits)
        x = torch.from_numpy(data.preprocessing.apply(np.asarray(data.train.x)))
        y = torch.from_numpy(np.array(data.train.y))
        model = trained_by_hand(untrained(network, seed=0), x, y, epochs=TEACHER_EPOCHS, seed=0)
        work.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), file)
    return file


def _session(file: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _answers(file: Path, x: NDArray[Any]) -> NDArray[np.int64]:
    session = _session(file)
    name = session.get_inputs()[0].name
    answers = [session.run(None, {name: x[i : i + 60]})[0] for i in range(0, len(x), 60)]
    found: NDArray[np.int64] = np.concatenate(answers).argmax(-1)
    return found


def _processor_seconds(files: Mapping[str, Path], x: NDArray[Any]) -> dict[str, float]:
    """Return the processor's time of one call, the median over rounds in which all take turns."""
    sessions = {name: _session(file) for name, file in files.items()}
    rounds: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(ROUNDS + 1):
        for name, session in sessions.items():
            given = {session.get_inputs()[0].name: x}
            started = time.thread_time()
            for _ in range(CALLS):
                session.run(None, given)
            rounds[name].append((time.thread_time() - started) / CALLS)
    return {name: float(np.median(found[1:])) for name, found in rounds.items()}


def _lost(base: NDArray[np.bool_], own: NDArray[np.bool_]) -> Row:
    """Return by how much less often a file is right, and the standard error; fractions."""
    apart = base.astype(float) - own
    return {"lost": float(apart.mean()), "error": float(apart.std() / np.sqrt(len(apart)))}


def _worth(recipe: Row) -> float:
    holds = recipe["lost"] <= ALLOWED + recipe["error"]
    return max(1.0, float(recipe["speed_up"])) if holds else 1.0


def _is_right(row: Row) -> bool:
    worth = [_worth(recipe) for recipe in row["recipes"]]
    return worth[0] >= NEAR * max(worth)


def _text(rows: list[Row]) -> str:
    right = sum(map(_is_right, rows))
    lines = [
        "# Advice: is the first recipe the best of those that are advised?",
        "",
        f"`python benchmarks/suites/{NAME}.py`; {here().cpu}, one thread, the processor's time of "
        f"calls in turns; onnxruntime {onnxruntime.__version__}.",
        "",
        f"The first is the best, or within {1 - NEAR:.0%} of it, for {right} of {len(rows)} "
        f"networks ({len(NETWORKS)} are asked for). In brackets what was expected; accuracy is of "
        "360 test items, with the standard error; a recipe that loses more than 1 pp and that "
        "error is worth nothing.",
        "",
    ]
    cells = []
    for row in rows:
        told = [_told(recipe) for recipe in row["recipes"]]
        verdict = "yes" if _is_right(row) else "no"
        one = [row["network"], f"{row['accuracy']:.1%}", f"{row['microseconds']:.0f}"]
        cells.append([*one, *(told + [""] * 3)[:3], verdict])
    header = "network | accuracy | us | first | second | third | the first is right"
    return "\n".join([*lines, *table(header, cells, right=(1, 2))]) + "\n"


def _told(recipe: Row) -> str:
    low, high = recipe["expected"]
    speed = f"{recipe['speed_up']:.2f}x ({low:.1f} to {high:.1f})"
    lost = f"{-100 * recipe['lost']:+.1f} +- {100 * recipe['error']:.1f} pp"
    return f"{recipe['name']} {speed}, {lost}"


if __name__ == "__main__":
    main()
