"""Peak memory of a training of a language model: all weights, `lora`, `checkpoint_activations`.

    python -m benchmarks.suites.training_memory [--rounds 2] [--texts 4] [--tokens 256]

A random Llama of the shape of SmolLM2-135M makes three AdamW steps in float32 on random text, and
a checkpoint, in four ways that take turns, each in a process of its own: all weights;
`lora: {rank: 8}`; `checkpoint_activations: true`; both. What counts is the largest resident set of
the process less what it was before the training, when the model was there.
Asked: each of the two takes at most 0.7 of the memory of all weights, both together at most 0.35.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.shared.running import conclude, conditions, here, parser_of, table

ARMS: dict[str, dict[str, Any]] = {
    "all weights": {},
    "lora": {"lora": {"rank": 8}},
    "checkpoint_activations": {"checkpoint_activations": True},
    "both": {"lora": {"rank": 8}, "checkpoint_activations": True},
}
STEPS = 3
VOCABULARY = 49_152
MOST = {"lora": 0.7, "checkpoint_activations": 0.7, "both": 0.35}


def main() -> None:
    """Measure all ways in turns, print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--texts", type=int, default=4, help="to a step")
    parser.add_argument("--tokens", type=int, default=256, help="of each text")
    parser.add_argument("--arm", choices=list(ARMS))
    arguments = parser.parse_args()
    if arguments.arm:
        print(json.dumps(_measured(arguments.arm, arguments.texts, arguments.tokens)))
        return
    rows: list[dict[str, Any]] = []
    for number in range(arguments.rounds):
        for arm in list(ARMS)[:: -1 if number % 2 else 1]:
            rows.append(_in_a_process(arm, arguments))
            print(rows[-1], file=sys.stderr)
    _conclude(rows, arguments)


def _in_a_process(arm: str, arguments: Any) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.suites.training_memory", "--arm", arm]
    command += ["--texts", str(arguments.texts), "--tokens", str(arguments.tokens)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def _measured(arm: str, texts: int, tokens: int) -> dict[str, Any]:
    """Return what one way takes: this runs in a process of its own."""
    from kdeploy.training.checkpoint import LAST
    from kdeploy.training.fit import FitContext, Supervised, TrainingConfig, fit

    model, data = _model(), _data(texts, tokens)
    config = TrainingConfig(
        epochs=1,
        batch_size=texts,
        learning_rate=1e-4,
        optimizer="adamw",
        precision="fp32",
        compile="off",
        keep="last",
        **ARMS[arm],
    )
    before, start = _resident_bytes("VmRSS"), time.process_time()
    with TemporaryDirectory() as folder:
        context = FitContext(work=Path(folder), device="cpu")
        result = fit(Supervised(model), data, context, config)
        stored = (Path(folder) / LAST).stat().st_size
    return {
        "arm": arm,
        "before_bytes": before,
        "peak_bytes": _resident_bytes("VmHWM"),
        "checkpoint_bytes": stored,
        "processor_seconds": time.process_time() - start,
        "loss": result.history[-1].loss,
    }


def _model() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from kdeploy.torch_module.transformers_outputs import TextLogits

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    return TextLogits(LlamaForCausalLM(config))


def _data(texts: int, tokens: int) -> Any:
    import numpy as np

    from kdeploy.data.contract import NOT_COUNTED, Dataset, Preprocessing, Split

    def part(count: int) -> Any:
        x = np.random.default_rng(count).integers(0, VOCABULARY, (count, tokens)).astype(np.int32)
        last = np.full((count, 1), NOT_COUNTED)
        return Split(x=x, y=np.concatenate([x[:, 1:], last], axis=1).astype(np.int64))

    return Dataset(
        name="random text",
        train=part(STEPS * texts),
        validation=part(1),
        test=part(1),
        preprocessing=Preprocessing(shape=(tokens,), dtype="int64", vocabulary=VOCABULARY),
        fingerprint="random text",
    )


def _resident_bytes(name: str) -> int:
    text = Path("/proc/self/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def _conclude(rows: list[dict[str, Any]], arguments: Any) -> None:
    def median(arm: str, value: Any) -> float:
        return statistics.median(value(row) for row in rows if row["arm"] == arm)

    taken = {arm: median(arm, lambda row: row["peak_bytes"] - row["before_bytes"]) for arm in ARMS}
    ratios = {arm: taken[arm] / taken["all weights"] for arm in ARMS}
    cells = [
        (
            arm,
            f"{taken[arm] / 2**30:.2f}",
            f"{ratios[arm]:.2f}",
            f"{median(arm, lambda row: row['checkpoint_bytes']) / 2**20:.0f}",
            f"{median(arm, lambda row: row['processor_seconds']):.0f}",
        )
        for arm in ARMS
    ]
    header = "trained | GiB beside the model | of all weights | MiB of a checkpoint | processor s"
    lines = [
        f"# Memory of {STEPS} AdamW steps, SmolLM2-135M's shape, {arguments.texts} texts of"
        f" {arguments.tokens} tokens, float32, median of {arguments.rounds} runs",
        "",
        conditions(here(), 1),
        "",
        *table(header, cells, right=range(1, 5)),
        "",
        f"`python -m benchmarks.suites.training_memory --rounds {arguments.rounds}"
        f" --texts {arguments.texts} --tokens {arguments.tokens}`",
        "",
    ]
    holds = all(ratios[arm] <= most for arm, most in MOST.items())
    conclude("training_memory", {"rows": rows}, "\n".join(lines), holds=holds)


if __name__ == "__main__":
    main()
