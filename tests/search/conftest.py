"""A search whose candidates are made up: what its engine does, in milliseconds."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
import yaml

from kdeploy.search import run as engine
from kdeploy.search.run import Budget, search
from kdeploy.search.settings import settings_of
from kdeploy.search.workers import Answer
from kdeploy.system import machine_turns

RECIPE = {
    "name": "made-up",
    "data": {"name": "arrays", "train": "train.npz", "test": "test.npz"},
    "teacher": {"build": "build.py:net", "args": {"width": 8}, "train": {"epochs": 1}},
    "student": {"build": "build.py:net", "args": {"width": 8}},
    "distill": {"epochs": 16, "learning_rate": 0.1},
    "compress": [{"prune_channels": {"ratio": 0.3}}],
    "gates": ["latency.p50: <= 60us", "accuracy.top1: -30pp"],
    "search": {
        "space": {
            "student.args.width": {"choice": [2, 4, 8, 16, 32]},
            "distill.learning_rate": {"range": [0.01, 1.0], "log": True},
            "compress.0": {"choice": [{"prune_channels": {"ratio": 0.3}}, None]},
        },
        "finalists": 2,
        "seeds": 2,
    },
}


class MadeUp:
    """Workers whose candidates are as good as a formula says."""

    def __init__(self):
        self.asked = []
        self.kill_at = None
        self.fails = None
        self.reason = ""
        self.luck = 0.0
        self.broken = ""

    def ask_all(self, requests):
        return [self.ask_alone(request) for request in requests]

    def ask_alone(self, request):
        self.asked.append(request)
        if self.kill_at is not None and len(self.asked) >= self.kill_at:
            raise KeyboardInterrupt
        recipe = request["recipe"]
        width, rate = recipe["student"]["args"]["width"], recipe["distill"]["learning_rate"]
        if self.fails is not None and request["do"] == "make" and self.fails(width, request):
            return Answer(error=self.reason or f"width {width} cannot be")
        share = 0.7 if recipe["compress"] else 1.0
        accuracy = 0.95 - 0.5 / (width * share) - 0.02 * abs(np.log10(rate) + 1)
        if self.broken == request["do"] or (
            self.broken == "test" and "test" in request.get("parts", ())
        ):
            return Answer(error="the library is gone")
        if request["do"] == "teacher" and self.broken == "unjudged":
            return Answer(reply={"values": {}, "steps": {}, "part": "validation"})
        if request["do"] == "teacher":
            return Answer(
                reply={
                    "values": {"accuracy.top1": 0.95},
                    "steps": {"t": 100.0},
                    "part": "validation",
                }
            )
        if request["do"] == "make":
            short = 0.1 if request["version"] == "short" else 0.0
            short += self.luck * (request.get("student_seed", 0) > 0)
            file = {"width": width, "share": share, "accuracy": accuracy}
            return Answer(
                reply={
                    "steps": {f"{request['version']}-{width}-{share}": 2.0},
                    "found": ["t"],
                    "score": accuracy - short,
                    "file": file,
                    "begins_with": f"{request['version']}.safetensors",
                    "teacher": {},
                }
            )
        return Answer(reply={"measured": [self._measured(f) for f in request["files"][1:]]})

    def _measured(self, file):
        size = 1000.0 * file["width"] * file["share"]
        return {
            "values": {
                "latency.p50": 2e-6 * file["width"] * file["share"],
                "size": size,
                "accuracy.top1": file["accuracy"],
            },
            "baseline": {"latency.p50": 1e-3, "size": 1e5},
            "timed": (1.0, 2.0),
            "reason": "",
            "test": {"accuracy.top1": file["accuracy"]},
        }

    def trained(self):
        """Return the widths that were trained at all."""
        return {
            r["recipe"]["student"]["args"]["width"]
            for r in self.asked
            if r["do"] == "make" and r["version"] != "untrained"
        }


@pytest.fixture
def project(tmp_path):
    for part in ("train", "test"):
        x = np.random.default_rng(0).integers(0, 255, (40, 1, 8, 8)).astype(np.uint8)
        np.savez(tmp_path / f"{part}.npz", x=x, y=np.arange(40) % 4)
    (tmp_path / "build.py").write_text("def net(*, width=8):\n    raise AssertionError\n")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return tmp_path


@pytest.fixture
def go(project, monkeypatch):
    """Return a function that searches with made-up workers."""
    # Nothing is timed here: no other search on this machine has to wait.
    monkeypatch.setenv(machine_turns.FOLDER, str(project))
    pytest.importorskip("optuna", reason="pip install 'kdeploy[search]'")
    monkeypatch.setattr(engine, "choose_best", lambda *args: True)
    monkeypatch.setattr(engine, "check_measurable", lambda recipe: None)

    def run(out="out", *, workers=None, trials=12, count=1, overrides=()):
        made_up = workers or MadeUp()

        @contextlib.contextmanager
        def local(_):
            yield made_up

        monkeypatch.setattr(engine, "local_workers", local)
        settings = settings_of(
            json.loads(json.dumps(RECIPE)), folder=project, out=project / out, overrides=overrides
        )
        return search(settings, Budget(trials=trials, workers=count))

    return run


@pytest.fixture
def made_up():
    return MadeUp()
