"""The folder of the best candidate: it stands alone; what was timed elsewhere is judged there."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from kdeploy.errors import RecipeError
from kdeploy.gate import Verdict
from kdeploy.measurement import read
from kdeploy.pipeline.log import NullListener
from kdeploy.search import best
from kdeploy.search.finalists import Finalist, Finalists
from kdeploy.search.run import Budget, search
from kdeploy.search.settings import settings_of
from kdeploy.search.trials import Trial, trial_log
from kdeploy.store.artifact import Store, artifact_id, open_artifact
from tests.search.conftest import RECIPE


class Heard(NullListener):
    def __init__(self):
        self.lines = []

    def message(self, text):
        self.lines.append(text)


def stored(store, name):
    """Add an artefact of one small file."""
    identity = artifact_id({"name": name})

    def write(folder):
        (folder / "weights").write_text(name)
        return {}

    manifest = {"id": identity, "kind": "onnx", "stage": "export", "technique": "onnx"}
    return store.add({**manifest, "label": name, "parameters": {}}, write)


@pytest.fixture
def chosen(project, monkeypatch):
    """Return a function that writes the best one's folder, by a run that is made up."""

    def choose(host=None, listener=None, passed=True):
        settings = settings_of(RECIPE, folder=project, out=project / "out", host=host)
        point = settings.space.start()
        if not (settings.out / "trials.jsonl").is_file():
            with trial_log(settings.out) as log:
                log.append(Trial(number=0, state="complete", parameters=point))
        store = Store(root=settings.store)
        made = [stored(store, name) for name in ("teacher", "student")]
        stored(store, "another candidate's")

        def run(recipe, folder, *, listener):
            assert (folder / "artifacts" / made[0].id).is_dir(), "the run finds what was made"
            file = SimpleNamespace(model=made[1], file=made[1])
            return SimpleNamespace(
                passed=True,
                failures=[],
                gates=recipe.gates,
                summary={"stages": [{"artifact": artifact.id} for artifact in made]},
                chosen=file,
                exported=[SimpleNamespace(model=made[0], file=made[0]), file],
                teacher=made[0],
                out=folder,
            )

        def measured(files, plan, out, **options):
            asked.append((files, options))
            gate = options["gates"][0].text
            verdict = Verdict(gate=gate, value=1.0, passed=passed, reason="because")
            return SimpleNamespace(verdicts=[verdict])

        monkeypatch.setattr(best, "run_recipe", run)
        monkeypatch.setattr(best, "bench_side_by_side", measured)
        one = Finalist(number=0, searched={}, scores=[], values={}, gates={}, test={})
        found = Finalists(finalists=(one,), best=0)
        asked.clear()
        return best.choose_best(settings, found, listener or Heard()), made

    asked = []
    choose.asked = asked
    return choose


def test_the_folder_of_the_best_one_stands_alone(chosen, project, tmp_path):
    passed, made = chosen()
    assert passed
    moved = tmp_path / "elsewhere"
    (project / "out" / "best").rename(moved)
    shutil.rmtree(project / "out" / "artifacts")
    assert not [path for path in moved.rglob("*") if path.is_symlink()]
    found = {path.name for path in (moved / "artifacts").iterdir()}
    assert found == {artifact.id for artifact in made}
    assert [open_artifact(moved / "artifacts" / a.id).id for a in made] == [a.id for a in made]


def test_another_best_one_takes_the_place_of_the_first(chosen, project):
    chosen()
    (project / "out" / "best" / "artifacts" / "left").mkdir()
    _, made = chosen()
    found = {path.name for path in (project / "out" / "best" / "artifacts").iterdir()}
    assert found == {artifact.id for artifact in made}


def test_gates_of_a_device_are_judged_on_it_and_stay_in_the_recipe(chosen, project):
    listener = Heard()
    passed, made = chosen(host="pi@board", listener=listener)
    assert passed
    [(files, options)] = chosen.asked
    # The folders lie where the run has them; what is copied comes after.
    assert [options["baseline"], *files] == [str(artifact.folder) for artifact in made]
    assert [gate.text for gate in options["gates"]] == ["latency.p50: <= 60us"]
    assert [host.name for host in options["hosts"]] == ["pi@board"]
    assert "`latency.p50: <= 60us` holds on pi@board: because" in listener.lines
    written = yaml.safe_load((project / "out" / "best" / "recipe.yaml").read_text())
    assert written["gates"] == RECIPE["gates"]


def test_a_gate_that_fails_on_the_device_fails_the_search(chosen):
    passed, _ = chosen(host="pi@board", passed=False)
    assert not passed


def test_times_of_two_devices_are_no_one_search(project):
    out = project / "out"
    out.mkdir()
    settings_of(RECIPE, folder=project, out=out, host="pi@board").keep()
    settings_of(RECIPE, folder=project, out=out, host="pi@board").keep()
    with pytest.raises(RecipeError, match="--host"):
        settings_of(RECIPE, folder=project, out=out).keep()


TINY = {
    "data": {"name": "arrays", "train": "train.npz", "test": "test.npz"},
    "teacher": {"build": "build.py:net", "train": {"epochs": 1, "batch_size": 32}},
    "student": {"build": "build.py:net", "args": {"width": 4}},
    "distill": {"epochs": 1, "batch_size": 32, "learning_rate": 0.1},
    "bench": {
        "runtimes": ["onnxruntime_cpu"],
        "threads": [1],
        "minimum_seconds": 0.05,
        "minimum_count": 20,
    },
    "gates": ["latency.p50: <= 1s", "size: <= 1MB"],
    "search": {
        "space": {"student.args.width": {"choice": [2, 4]}},
        "look": 1,
        "finalists": 1,
        "seeds": 1,
    },
}


@pytest.mark.slow
@pytest.mark.slow
def test_a_whole_search_is_timed_over_ssh_and_judged_here(tmp_path, tiny_build, tiny_data, ssh):
    pytest.importorskip("optuna", reason="pip install 'kdeploy[search]'")
    for name, part in (("train", tiny_data.train), ("test", tiny_data.test)):
        np.savez(tmp_path / f"{name}.npz", x=part.x, y=part.y)
    out, host = tmp_path / "out", ssh[0].option
    settings = settings_of(TINY, folder=tmp_path, out=out, host=host)
    result = search(settings, Budget(trials=1), listener=NullListener())
    assert result.passed
    [trial] = result.trials
    assert trial.state == "complete"
    assert set(trial.values) >= {"accuracy.top1", "latency.p50", "size"}
    there = read(out / "best" / "device" / "hosts" / ssh[0].name)
    assert "latency.p50" in {r.metric for r in there}
    told = json.loads((out / "best" / "summary.json").read_text())
    shutil.rmtree(out / "artifacts")
    for stage in told["stages"]:
        assert open_artifact(out / "best" / "artifacts" / stage["artifact"])
    assert not ssh[0].leftovers()
