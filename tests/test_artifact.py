import errno
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from kdeploy.artifact import Store, artifact_id, find_artifact, open_artifact
from kdeploy.errors import ArtifactCorrupt, FileMissing, Unavailable

ENTRY = {"id": "0123456789ab", "kind": "torch", "label": "student", "lineage": []}


@pytest.fixture
def store(tmp_path):
    return Store(root=tmp_path / "artifacts")


def written(folder):
    (folder / "payload.bin").write_bytes(b"weights" * 100)
    return {"model": {"build": "x"}}


def test_keeps_what_was_written_and_finds_it_again(store):
    assert store.get(ENTRY["id"]) is None
    store.add(ENTRY, written)
    artifact = store.get(ENTRY["id"])
    assert artifact.label == "student"
    assert artifact.manifest["model"] == {"build": "x"}
    assert artifact.manifest["files"]["payload.bin"]["size"] == 700


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest", "no_json"])
def test_refuses_a_damaged_artefact(store, damage):
    folder = store.add(ENTRY, written).folder
    payload, manifest = folder / "payload.bin", folder / "manifest.json"
    if damage == "flip":
        payload.write_bytes(b"W" + payload.read_bytes()[1:])
    elif damage == "truncate":
        payload.write_bytes(payload.read_bytes()[:-1])
    elif damage == "remove":
        payload.unlink()
    elif damage == "manifest":
        manifest.write_text(manifest.read_text().replace("student", "teacher"))
    else:
        manifest.write_text(manifest.read_text()[:-20])
    with pytest.raises(ArtifactCorrupt) as caught:
        store.get(ENTRY["id"])
    assert str(folder) in caught.value.message
    assert "rm -r" in caught.value.hint


def test_leaves_nothing_when_writing_fails(store):
    def full_disk(folder):
        (folder / "half").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(Unavailable, match="full"):
        store.add(ENTRY, full_disk)
    assert [p.name for p in store.root.iterdir() if not p.name.startswith(".work")] == []

    def interrupted(folder):
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.add(ENTRY, interrupted)
    assert store.get(ENTRY["id"]) is None


def test_what_a_kill_left_half_written_is_no_artefact(store):
    half = store.root / f".partial-{ENTRY['id']}"
    half.mkdir(parents=True)
    (half / "manifest.json").write_text("{}")
    assert store.get(ENTRY["id"]) is None
    store.add(ENTRY, written)
    assert not half.exists()


def test_only_one_of_several_makes_an_artefact(store):
    made = []

    def make(_):
        with store.lock(ENTRY["id"]):
            if store.get(ENTRY["id"]) is None:
                made.append(1)
                store.add(ENTRY, written)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make, range(16)))
    assert made == [1]


def test_the_id_follows_from_the_inputs_alone():
    inputs = {"stage": "distill", "parameters": {"epochs": 3, "losses": ["kd"]}}
    same = json.loads(json.dumps({"parameters": inputs["parameters"], "stage": "distill"}))
    assert artifact_id(inputs) == artifact_id(same)
    assert artifact_id(inputs) != artifact_id({**inputs, "stage": "compress"})
    assert len(artifact_id(inputs)) == 12


def test_finds_artefacts_by_folder_and_by_id(store, monkeypatch, tmp_path):
    folder = store.add(ENTRY, written).folder
    assert find_artifact(str(folder)).id == ENTRY["id"]
    assert find_artifact(ENTRY["id"], [store.root]).id == ENTRY["id"]
    monkeypatch.chdir(tmp_path)
    assert find_artifact(ENTRY["id"]).id == ENTRY["id"]
    assert find_artifact("build.py:resnet") is None
    with pytest.raises(FileMissing, match="ffffffffffff"):
        find_artifact("ffffffffffff", [store.root])


def test_a_folder_without_manifest_is_no_artefact(tmp_path):
    with pytest.raises(FileMissing, match="not an artefact"):
        open_artifact(tmp_path)


def test_refuses_an_artefact_of_a_later_version(store):
    with pytest.raises(ArtifactCorrupt, match="newer"):
        store.add({**ENTRY, "schema_version": 99}, written)


def test_adopts_an_artefact_of_another_store(store, tmp_path):
    artifact = store.add(ENTRY, written)
    other = Store(root=tmp_path / "other")
    assert other.adopt(artifact).id == artifact.id
    assert other.get(artifact.id).folder.parent == other.root
    assert other.adopt(other.get(artifact.id)).folder.parent == other.root
