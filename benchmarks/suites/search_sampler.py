"""Proposals of the search against chance, on a made-up space: seconds, and no network is trained.

    python -m benchmarks.suites.search_sampler [--seeds 10] [--samplers random tpe gp]

Ten keys, shaped like those of recipes: width, depth, pruning, INT8, how it is trained. Error and
latency follow from a formula, and proposals see them with noise of 0.3 pp and 2 %, as validation
and timing have; what is covered is computed without noise. It says whether proposals are better
than chance where there is something to learn; it says nothing about networks.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.shared.running import here, parser_of, results_folder, table
from kdeploy.recipe.sections import SearchSection
from kdeploy.search.front import Costs, costs, hypervolume
from kdeploy.search.sampler import propose
from kdeploy.search.space import Choice, Range
from kdeploy.search.trials import Trial

OBJECTIVES = ["accuracy.top1", "latency.p50"]
REFERENCE: Costs = (0.25, -3.0)  # 75 % right, 1 ms
SPACE = (
    Choice(key="student.args.width", options=(4, 8, 12, 16, 24, 32)),
    Choice(key="student.args.depth", options=(1, 2, 3)),
    Range(key="compress.0.prune_channels.target.macs", low=0.2, high=1.0),
    Choice(key="compress.1", options=({"int8_ptq": {}}, None)),
    Range(key="distill.learning_rate", low=0.005, high=1.0, log=True),
    Range(key="distill.weight_decay", low=1e-5, high=1e-2, log=True),
    Choice(key="distill.losses", options=("kd", "dkd", "dist", "none")),
    Range(key="distill.losses.0.temperature", low=1.0, high=8.0),
    Choice(key="data.augment", options=("none", "crop", "crop and flip")),
    Range(key="distill.epochs", low=5, high=40, step=5),
)
AT = (10, 20, 30, 40)


def main() -> None:
    """Search under several seeds, and write what was covered."""
    parser = parser_of(__doc__ or "")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument(
        "--out", type=Path, default=results_folder(here().cpu) / "search_sampler.md"
    )
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    parser.add_argument("--candidates", type=int, default=max(AT))
    arguments = parser.parse_args()
    rows = []
    at = [n for n in AT if n <= arguments.candidates]
    for sampler in arguments.samplers:
        courses = [_course(sampler, seed, arguments.candidates) for seed in range(arguments.seeds)]
        medians = [
            f"{statistics.median(course[count - 1] for course in courses):.4f}" for count in at
        ]
        rows.append([f"`{sampler}`", *medians])
    lines = [
        "# Proposals against chance, on a made-up space",
        "",
        f"Hypervolume over error and log10 of latency, median of {arguments.seeds} seeds; no "
        "network is trained, see the suite for the formula.",
        "",
        *table("sampler | " + " | ".join(f"{n} candidates" for n in at), rows, right=range(1, 5)),
        "",
        f"Command: `python -m benchmarks.suites.search_sampler --seeds {arguments.seeds} "
        f"--samplers {' '.join(arguments.samplers)} --candidates {arguments.candidates}`",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    arguments.out.write_text(text)


def _course(sampler: str, seed: int, count: int) -> list[float]:
    section = SearchSection(sampler=sampler, seed=seed, objectives=OBJECTIVES)  # type: ignore[arg-type]
    noise = random.Random(seed)
    trials: list[Trial] = []
    covered: list[float] = []
    true: list[Costs] = []
    for number in range(count):
        point = propose(SPACE, section, trials, [], number=number)
        values = _values(point)
        found = costs(values, OBJECTIVES)
        assert found is not None, "the formula gives both objectives"
        true.append(found)
        covered.append(hypervolume(true, REFERENCE))
        seen = {
            "accuracy.top1": values["accuracy.top1"] + noise.gauss(0, 0.003),
            "latency.p50": values["latency.p50"] * math.exp(noise.gauss(0, 0.02)),
        }
        trials.append(Trial(number=number, state="complete", parameters=point, values=seen))
    return covered


def _values(point: Mapping[str, Any]) -> dict[str, float]:
    width, depth = point["student.args.width"], point["student.args.depth"]
    kept = point["compress.0.prune_channels.target.macs"]
    macs = width**2 * depth * kept
    is_int8 = point["compress.1"] is not None
    # Integer kernels lose in narrow networks: their blocks are partly empty.
    gain = 0.8 if width < 12 else 2.0 if width < 24 else 2.8
    latency = 1e-5 + 4e-7 * macs / (gain if is_int8 else 1.0)
    error = 0.05 + 0.35 / (macs**0.5)
    error += 0.015 * (math.log10(point["distill.learning_rate"]) + 1.0) ** 2
    error += 0.004 * (math.log10(point["distill.weight_decay"]) + 3.5) ** 2
    error += {"kd": 0.004, "dkd": 0.002, "dist": 0.0, "none": 0.012}[point["distill.losses"]]
    error += 0.0004 * (point["distill.losses.0.temperature"] - 3.0) ** 2
    error += {"none": 0.012, "crop": 0.0, "crop and flip": 0.004}[point["data.augment"]]
    error += 0.15 / point["distill.epochs"] + (0.002 + 0.02 / width) * is_int8
    return {"accuracy.top1": 1.0 - min(error, 0.9), "latency.p50": latency}


if __name__ == "__main__":
    main()
