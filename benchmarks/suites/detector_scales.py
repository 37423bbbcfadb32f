"""What one scale over all outputs of a detector costs, beside a scale for each: mAP on test scenes.

    kdeploy run models/detect_objects/recipe.yaml --out runs/detect_objects
        --set distill.losses=[] --set distill.epochs=12
        --set student.build=build.py:detector --set 'student.args={width: 8, depth: 1}'
    python benchmarks/suites/detector_scales.py --work runs/detect_objects

Four rows of one student, computed by PyTorch: float; INT8 by `int8_ptq`; and float but for 8 bits
with one scale over the outputs, as they are (distances in pixels and logits), or after decoding
(corners in pixels and probabilities), which is what converters join.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.shared.one_scale import OneScale
from benchmarks.shared.running import conclude, conditions, here, parser_of, table
from kdeploy.data.load import load
from kdeploy.recipe.read import load as load_recipe
from kdeploy.store.model_io import load_model
from kdeploy.tasks.contract import task_of
from kdeploy.tasks.detection_heads import KnownHead
from kdeploy.training.predict import batches_in_order, metrics_on

RECIPE = Path("models/detect_objects/recipe.yaml")
CALIBRATION = 256
CPU = torch.device("cpu")
MOST_LOSS = 0.01
"""Of mean average precision, by our INT8."""


class Decoded(nn.Module):
    """A detector with corners in pixels and probabilities, as converters join them."""

    def __init__(self, model: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.size = model, size

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = KnownHead().decode(self.model(x), self.size)
        return {"boxes": found.boxes, "scores": found.logits.sigmoid()}


def main() -> None:
    """Judge all four on the test part."""
    parser = parser_of(__doc__, work="detect_objects")
    work = parser.parse_args().work
    data = load(load_recipe(RECIPE).data)
    model, quantized = (_stored(work, name) for name in ("offline", "int8_ptq"))
    size = data.preprocessing.shape[1:]
    calibration = data.train.x[:CALIBRATION]

    def one_scale(network: nn.Module) -> nn.Module:
        batches = batches_in_order(calibration, data.preprocessing, batch_size=64, device=CPU)
        return OneScale.calibrated(network, batches).eval()

    naive, joined = one_scale(model), one_scale(Decoded(model, size).eval())
    networks = {
        "float": model,
        "INT8, ours": quantized,
        "one scale over distances and logits": naive,
        "one scale over corners and probabilities": joined,
    }
    rows = [_row(name, network, data) for name, network in networks.items()]
    _conclude(rows, len(data.test))


def _stored(work: Path, technique: str) -> nn.Module:
    manifests = sorted((work / "artifacts").glob("*/manifest.json"))
    return load_model(
        next(p.parent for p in manifests if json.loads(p.read_text())["technique"] == technique)
    )


def _row(name: str, network: nn.Module, data: Any) -> dict[str, Any]:
    metrics = metrics_on(network, data.test, data.preprocessing, task_of(data))
    return {"network": name, **metrics}


def _conclude(rows: list[dict[str, Any]], items: int) -> None:
    cells = [
        (r["network"], f"{100 * r['detection.map']:.1f}", f"{100 * r['detection.map50']:.1f}")
        for r in rows
    ]
    lines = [
        f"# One scale over a detector's outputs: {items} test scenes, one seed",
        "",
        conditions(here(), 1),
        "",
        *table("network | mAP % | mAP at 0.5 %", cells, right=(1, 2)),
        "",
        "All four computed by PyTorch. "
        f"Ours may lose {100 * MOST_LOSS:.0f} point. Made by the commands at the top of "
        "`benchmarks/suites/detector_scales.py`.",
        "",
    ]
    holds = rows[0]["detection.map"] - rows[1]["detection.map"] <= MOST_LOSS
    conclude("detector_scales", {"rows": rows}, "\n".join(lines), holds=holds)


if __name__ == "__main__":
    main()
