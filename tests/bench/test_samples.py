from __future__ import annotations

import json

import numpy as np

from kdeploy.bench.model_under_test import Configuration, ModelUnderTest, Outcome
from kdeploy.bench.samples import keep
from kdeploy.runtimes.contract import Proof

CELL = Configuration(runtime="fake", batch_size=1, threads=2)


def _outcome(folder, label, **more):
    return Outcome(
        model=ModelUnderTest(artifact="a", label=label, path=folder, format="onnx"),
        configuration=CELL,
        rounds=(np.array([1.0, 2.0]), np.array([3.0])),
        elapsed_seconds=(3.5, 3.1),
        **more,
    )


def test_samples_can_be_read_back_with_their_rounds_and_settings(tmp_path):
    proof = Proof(provider="fake", settings={"threads": 2})
    keep([_outcome(tmp_path, "one", proof=proof, predictions=np.array([4, 2]))], tmp_path)
    kept = np.load(tmp_path / "fake-b1-t2-one.npz")
    assert kept["seconds"].tolist() == [1.0, 2.0, 3.0]
    assert kept["round"].tolist() == [0, 0, 1]
    assert kept["elapsed_seconds"].tolist() == [3.5, 3.1]
    assert kept["predictions"].tolist() == [4, 2]
    assert json.loads(str(kept["settings"])) == {"threads": 2}


def test_labels_become_file_names_and_never_overwrite_each_other(tmp_path):
    keep([_outcome(tmp_path, "../a b"), _outcome(tmp_path, "../a b")], tmp_path / "s")
    names = sorted(p.name for p in (tmp_path / "s").iterdir())
    assert names == ["fake-b1-t2-..-a-b-1.npz", "fake-b1-t2-..-a-b.npz"]
    assert not list(tmp_path.glob("*.npz"))
