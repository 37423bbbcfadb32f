import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from kdeploy.errors import ArtifactCorrupt, FileMissing, Unavailable
from kdeploy.store.artifact import Store, artifact_id, find_artifact, open_artifact, write_manifest

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


def test_what_killed_runs_left_half_written_is_swept_unless_it_is_being_made(store):
    for identity in ("a" * 12, "b" * 12):
        (store.root / f".partial-{identity}" / "inner").mkdir(parents=True)
    with store.lock("b" * 12):
        store.sweep()
        assert [p.name for p in store.root.glob(".partial-*")] == [f".partial-{'b' * 12}"]
    store.sweep()
    assert list(store.root.glob(".partial-*")) == []


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


def with_a_folder(folder):
    (folder / "bundle").mkdir()
    (folder / "bundle" / "manifest.json").write_text('{"accuracy": 0.91}')
    return written(folder)


def test_a_changed_digit_in_a_manifest_inside_the_payload_is_noticed(store):
    folder = store.add(ENTRY, with_a_folder).folder
    inner = folder / "bundle" / "manifest.json"
    assert "bundle/manifest.json" in open_artifact(folder).manifest["files"]
    inner.write_text(inner.read_text().replace("0.91", "0.97"))
    with pytest.raises(ArtifactCorrupt, match=r"checksum of bundle/manifest\.json"):
        open_artifact(folder)


@pytest.mark.parametrize("name", ["extra.py", "bundle/manifest.json", ".hidden/file"])
def test_a_file_that_the_manifest_does_not_list_is_noticed(store, name):
    folder = store.add(ENTRY, written).folder
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}")
    with pytest.raises(ArtifactCorrupt, match="does not list") as caught:
        open_artifact(folder)
    assert name in caught.value.message
    assert "run again" in caught.value.hint
    assert ("earlier kdeploy" in caught.value.message) == (name == "bundle/manifest.json")


def test_bytecode_that_python_leaves_is_no_damage(store):
    folder = store.add(ENTRY, written).folder
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "blocks.cpython-312.pyc").write_bytes(b"x")
    assert open_artifact(folder).id == ENTRY["id"]


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_no_plain_file_is_refused_and_not_opened(store, kind, tmp_path):
    folder = store.add(ENTRY, written).folder
    (folder / "payload.bin").rename(tmp_path / "payload.bin")
    if kind == "pipe":
        os.mkfifo(folder / "payload.bin")
    else:
        (folder / "payload.bin").symlink_to(tmp_path / "payload.bin")
    with pytest.raises(ArtifactCorrupt, match="link or a device"):
        open_artifact(folder)


def test_an_artefact_in_the_place_of_another_is_refused(store):
    folder = store.add(ENTRY, written).folder
    folder.rename(store.root / ("f" * 12))
    with pytest.raises(ArtifactCorrupt, match=f"that of {ENTRY['id']}"):
        store.get("f" * 12)


def test_a_manifest_of_100_megabytes_is_refused_unread(store):
    folder = store.add(ENTRY, written).folder
    with (folder / "manifest.json").open("r+b") as file:
        file.truncate(100_000_000)
    with pytest.raises(ArtifactCorrupt, match="100000000 bytes"):
        open_artifact(folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"id": "../../../etc"}, "id is"),
        ({"id": 5}, "id is 5"),
        ({"label": ["a"]}, "label"),
        ({"schema_version": "1"}, "schema_version"),
        ({"schema_version": True}, "schema_version"),
        ({"lineage": {"a": 1}}, "lineage"),
        ({"lineage": [3]}, "lineage.0"),
        ({"lineage": [{"facts": {"macs": "many"}}]}, "lineage.0.facts.macs"),
        ({"facts": {"size": float("nan")}}, "facts.size"),
        ({"facts": {"checks": [1]}}, "facts.checks"),
        ({"scores": {"validation_accuracy": "high"}}, "scores.validation_accuracy"),
        ({"parameters": None}, "parameters"),
        ({"data": "digits"}, "data"),
        ({"data": {"preprocessing": {"shape": [2**40, 2**40]}}}, "preprocessing.shape"),
        ({"data": {"preprocessing": {"shape": "big"}}}, "preprocessing.shape"),
        ({"data": {"preprocessing": {"std": [float("inf")]}}}, "preprocessing.std"),
        ({"model_artifact": "../x"}, "model_artifact"),
        ({"file": "../../secret"}, "file"),
        ({"kind": None}, "kind"),
    ],
)
def test_a_signed_manifest_of_wrong_types_is_one_error_that_names_the_key(store, change, named):
    folder = store.add(ENTRY, written).folder
    write_manifest(folder, {**ENTRY, **change})
    with pytest.raises(ArtifactCorrupt) as caught:
        open_artifact(folder)
    assert named in caught.value.message
    assert "run again" in caught.value.hint


def test_keys_that_are_absent_read_as_nothing(store):
    manifest = store.add({"id": ENTRY["id"], "kind": "onnx", "label": "a"}, written).manifest
    assert (manifest["stage"], manifest["facts"], manifest["lineage"]) == ("", {}, [])
