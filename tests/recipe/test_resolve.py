import json
from pathlib import Path

import pytest
import yaml

from kdeploy.distill.loss_specs import check_fit, loss_specs_of
from kdeploy.errors import FileMissing, InputError, OrderError, RecipeError, UnknownName
from kdeploy.recipe.read import load, overridden, to_yaml
from kdeploy.recipe.resolve import parse
from kdeploy.recipe.schema import json_schema
from kdeploy.registry import techniques
from kdeploy.store.artifact import write_manifest
from kdeploy.tasks.contract import facts_of
from kdeploy.training.defaults import RATES

MINIMAL = {"data": {"name": "digits"}, "teacher": {"build": "build.py:net", "train": {"epochs": 1}}}
STUDENT = {"student": {"build": "build.py:net"}, "distill": {"epochs": 2}}


def resolved(**sections):
    return parse({**MINIMAL, **sections}, folder=Path())


def test_fills_in_every_default():
    recipe = resolved()
    assert recipe.teacher.training.epochs == 1
    assert recipe.teacher.training.momentum == 0.9
    assert recipe.export[0].technique == "onnx"
    assert recipe.bench.runtimes == ["onnxruntime_cpu"]
    assert recipe.data.parameters["size"] == 16


def test_what_a_bundle_brings_is_resolved_with_all_parameters_and_written_so(tmp_path):
    given = {"budgets": ["size: <= 1MB"], "emit": ["triton", {"systemd": {"port": 9000}}]}
    recipe = resolved(package=given)
    assert [one.name for one in recipe.emitted] == ["triton", "systemd", "http_server"]
    again = parse(yaml.safe_load(to_yaml(recipe)), folder=Path())
    assert again.emitted == recipe.emitted
    assert again.emitted[1].parameters["port"] == 9000
    assert resolved(package={}).emitted == resolved().emitted == ()


def test_a_loss_by_its_former_name_stays_as_written_so_that_ids_do_not_change():
    losses = [{"similarity_of_maps": {"layers": {"1": "1"}}}]
    (loss,) = resolved(**{**STUDENT, "distill": {"losses": losses}}).distill.losses
    (spec,) = loss_specs_of([loss])
    assert (list(loss), spec.name) == (["similarity_of_maps"], "similarity_of_maps")
    (renamed,) = resolved(**{**STUDENT, "distill": {"losses": [{"nst": {}}]}}).distill.losses
    assert spec.function is loss_specs_of([renamed])[0].function


def test_reads_losses_with_their_weight_and_layers():
    losses = [{"kd": {"temperature": 2.0, "weight": 0.9}}, {"attention": {"layers": {"1": "2"}}}]
    recipe = resolved(**{**STUDENT, "distill": {"epochs": 2, "losses": losses}})
    kd, attention = recipe.distill.losses
    assert kd["kd"]["temperature"] == 2.0
    assert kd["kd"]["weight"] == 0.9
    assert attention["attention"]["layers"] == {"1": "2"}
    assert attention["attention"]["weight"] == 1.0


def test_one_word_stands_for_a_technique_or_a_section_with_its_defaults(tmp_path):
    words = {
        "data": "digits",
        "teacher": "build.py:net",
        "student": "build.py:net",
        "distill": {"losses": ["kd"]},
        "compress": ["int8_ptq"],
        "export": ["onnx"],
    }
    spelled = {
        "data": {"name": "digits"},
        "teacher": {"build": "build.py:net"},
        "student": {"build": "build.py:net"},
        "distill": {"losses": [{"kd": {}}]},
        "compress": [{"int8_ptq": {}}],
        "export": [{"onnx": {}}],
    }
    short, long = (parse(given, folder=tmp_path) for given in (words, spelled))
    assert to_yaml(short) == to_yaml(long)


def test_overrides_reach_into_what_was_one_word():
    given = {"data": "digits", "teacher": "build.py:net", "export": ["onnx"]}
    given = overridden(given, ["data.size=8", "teacher.train.epochs=1", "export.0.onnx.opset=20"])
    recipe = parse(given, folder=Path())
    assert recipe.data.parameters["size"] == 8
    assert recipe.teacher.training.epochs == 1
    assert recipe.export[0].parameters["opset"] == 20


def test_a_recovery_learns_slower_than_a_training():
    step = {"prune_channels": {"ratio": 0.5, "recover": {"epochs": 1}}}
    recovery = resolved(compress=[step]).compress[0].recover
    assert recovery.learning_rate < RATES[recovery.optimizer]["other"]
    assert recovery.losses[0].keys() == {"kd"}
    assert recovery.label_weight == 0.1


@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        ({"compres": []}, UnknownName, "compress"),
        ({"data": {"name": "digits", "sise": 8}}, UnknownName, "size"),
        ({"data": {"name": "digitz"}}, UnknownName, "digits"),
        ({"data": {"name": "digits", "size": "large"}}, RecipeError, "large"),
        ({"teacher": {"build": "b.py:f", "weights": "no.safetensors"}}, FileMissing, "no.safe"),
        (
            {**STUDENT, "student": {"build": "b.py:f", "weights": "none.safetensors"}},
            FileMissing,
            "student.weights: there is no file",
        ),
        ({"teacher": {"build": "b.py:f", "train": {"epoch": 3}}}, UnknownName, "epochs"),
        ({"teacher": {"build": "b.py:f", "train": {"epochs": "x"}}}, RecipeError, "epochs"),
        ({"student": {"build": "b.py:f"}}, RecipeError, "distill"),
        ({"export": ["onnx", {"onnx": {"profile": "cpu"}}]}, RecipeError, "same as export"),
        ({"compress": [{"prune_chanels": {}}]}, UnknownName, "prune_channels"),
        ({"compress": [{"prune_channels": {"ration": 0.5}}]}, UnknownName, "ratio"),
        ({"compress": [{"prune_channels": {"ratio": 3}}]}, RecipeError, "ratio"),
        ({"compress": [{"a": {}, "b": {}}]}, RecipeError, "one technique"),
        ({"compress": [8]}, RecipeError, "compress"),
        ({"gates": ["latency.p50 fast"]}, RecipeError, "not a gate"),
        ({"gates": ["latency.p5: <= 2ms"]}, UnknownName, "latency.p50"),
        ({"bench": {"runtimes": ["onnxruntime"]}}, UnknownName, "onnxruntime_cpu"),
        ({"bench": {"batch_sizes": []}}, RecipeError, "batch_sizes"),
        ({"package": {"budgets": ["memory: <= 1MB"]}}, UnknownName, "memory"),
        ({"package": {"emit": ["tritn"]}}, UnknownName, "tritn"),
        ({"package": {"emit": [{"triton": {"instances": 0}}]}}, RecipeError, "instances"),
        ({"seed": "zero"}, RecipeError, "seed"),
        (
            {**STUDENT, "distill": {"losses": [{"hidden_states": {}}]}},
            RecipeError,
            "layers",
        ),
        ({**STUDENT, "distill": {"scheme": "ofline"}}, UnknownName, "offline"),
    ],
)
def test_refuses_what_makes_no_sense_with_a_hint(sections, error, message):
    with pytest.raises(error, match=message) as caught:
        resolved(**sections)
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_refuses_pruning_after_quantization():
    steps = [{"int8_ptq": {}}, {"prune_channels": {"ratio": 0.5}}]
    with pytest.raises(OrderError, match=r"prune_channels.*after.*int8_ptq"):
        resolved(compress=steps)
    assert len(resolved(compress=steps[::-1]).compress) == 2


@pytest.mark.parametrize("task", sorted(set(techniques("task")) - {"classification"}))
def test_students_and_recoveries_learn_what_their_task_usually_teaches(task):
    usual, taught = facts_of(task)["loss"], facts_of(task)["taught"]
    own = {"ctc": {"alphabet": "ab"}} if task == "ctc" else {}
    steps = [{"prune_channels": {"recover": {"epochs": 1}}}, {"int8_qat": {"recover": {}}}]
    sections = {"task": {task: own.get(task, {})}, "compress": steps}
    made = resolved(**sections, student={"build": "build.py:net"}, distill={"epochs": 1})
    for config in (step.recover for step in made.compress):
        assert [list(entry) for entry in config.losses] == [[usual]]
    assert [list(entry) for entry in made.distill.losses] == [list(taught or [usual])]
    check_fit([usual, *taught], task)
    assert not made.distill.are_weights_given
    named = resolved(**sections, student={"build": "build.py:net"}, distill={"losses": [usual]})
    assert [list(entry) for entry in named.distill.losses] == [[usual]]


def test_a_task_of_ones_own_takes_the_losses_that_are_named_and_guesses_none():
    sections = {"task": "mine.py:Task", "student": {"build": "build.py:net"}}
    made = resolved(**sections, distill={"epochs": 1, "losses": ["mse"]})
    check_fit(made.distill.losses[0], "mine.py:Task")
    with pytest.raises(RecipeError, match="nothing says what is distilled") as error:
        resolved(**sections, distill={"epochs": 1})
    assert "losses" in error.value.hint


def test_refuses_to_recover_a_model_that_cannot_be_trained():
    with pytest.raises(RecipeError, match="cannot be trained"):
        resolved(compress=[{"int8_ptq": {"recover": {"epochs": 1}}}])


def test_overrides_reach_into_lists_and_make_sections():
    given = {"compress": [{"prune_channels": {"ratio": 0.2}}]}
    given = overridden(given, ["compress.0.prune_channels.ratio=0.4", "bench.runtimes=[fake]"])
    assert given["compress"][0]["prune_channels"]["ratio"] == 0.4
    assert given["bench"] == {"runtimes": ["fake"]}
    with pytest.raises(RecipeError, match="not one of the 1 entries"):
        overridden(given, ["compress.1.prune_channels.ratio=0.4"])
    with pytest.raises(RecipeError, match="no `=`"):
        overridden(given, ["seed"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: [unclosed", "not YAML"),
        ("- a list", "expected keys"),
        ("seed: 1\nseed: 2", "twice"),
        ("", "expected keys"),
        # torchdistill and PaddleSlim execute what a configuration names.
        ("seed: !!python/object/apply:os.getpid []", "not YAML"),
    ],
)
def test_refuses_a_file_that_is_no_recipe(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load(path)


@pytest.mark.parametrize(
    "compress",
    [
        [{"prune_channels": {"ratio": 0.5}}],
        # A key that the technique has too, for another purpose, and one that trains by itself.
        [{"prune_channels": {"batch_size": 8, "recover": {"batch_size": 16, "epochs": 2}}}],
        [{"int8_qat": {"epochs": 2, "recover": {"batch_size": 16}}}],
    ],
)
def test_what_is_written_as_resolved_resolves_to_the_same(tmp_path, compress):
    (tmp_path / "build.py").write_text("def net(): ...")
    recipe = parse(
        {**MINIMAL, **STUDENT, "compress": compress, "seed": 3},
        folder=tmp_path,
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "recipe.yaml").write_text(to_yaml(recipe))
    again = load(elsewhere / "recipe.yaml")
    assert again.seed == 3
    assert again.compress == recipe.compress
    assert again.distill == recipe.distill
    assert again.teacher.training == recipe.teacher.training
    assert again.teacher.reference.build == str(tmp_path / "build.py:net")


def test_the_schema_knows_every_technique_and_its_parameters():
    text = str(json_schema())
    for name in ("prune_channels", "int8_ptq", "kd", "temperature", "onnx", "learning_rate"):
        assert f"'{name}'" in text


def test_the_schema_takes_one_word_where_a_recipe_does():
    schema = json_schema()
    exports = schema["properties"]["export"]["items"]["anyOf"]
    assert {"onnx", "openvino"} <= set(exports[-1]["enum"])
    losses = schema["$defs"]["Learning"]["properties"]["losses"]["items"]["anyOf"]
    assert "kd" in losses[-1]["enum"]
    assert {"type": "string"} in schema["properties"]["teacher"]["anyOf"]


def test_the_first_of_several_seeds_is_that_of_data_and_teacher(tmp_path):
    recipe = resolved(**STUDENT, seeds=[3, 1])
    assert (recipe.seed, recipe.seeds, recipe.data.seed) == (3, (3, 1), 3)
    assert resolved(seed=2).seeds == ()
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe))
    assert load(tmp_path / "recipe.yaml").seeds == (3, 1)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({**STUDENT, "seed": 1, "seeds": [0, 1]}, "`seed` is 1, and `seeds` begin with 0"),
        ({**STUDENT, "seeds": [0, 1, 0]}, "hold 0 twice"),
        ({"seeds": [0, 1]}, "are for a student"),
        ({**STUDENT, "seeds": []}, "seeds"),
        ({**STUDENT, "seeds": [-1]}, "seeds"),
    ],
)
def test_refuses_seeds_that_make_no_sense(sections, message):
    with pytest.raises(RecipeError, match=message) as caught:
        resolved(**sections)
    assert caught.value.hint


def test_a_validation_part_of_its_own_takes_the_place_of_a_fraction(tmp_path):
    paths = {part: f"{part}.npz" for part in ("train", "test", "validation")}
    recipe = resolved(data={"name": "arrays", **paths})
    assert recipe.data.parameters["validation"] == Path("validation.npz")
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe))
    again = load(tmp_path / "recipe.yaml")
    assert again.data.parameters["validation"].name == "validation.npz"
    with pytest.raises(RecipeError, match="`validation` names a part"):
        resolved(data={"name": "arrays", **paths, "validation_fraction": 0.2})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("=1", "names no key"),
        ("a..b=1", "names no key"),
        (".".join("a" * 100) + "=1", "names no key"),
        ("compress.0.x=1", "is a value"),
        ("compress.².x=1", "not one of the 1 entries"),
        (f"compress.{'9' * 5000}=1", "not one of the 1 entries"),
        ("seed=[", "not YAML"),
        ("seed=" + "[" * 3000, "in one another"),
    ],
)
def test_refuses_overrides_that_lead_nowhere(override, message):
    with pytest.raises(RecipeError, match=message):
        overridden({"compress": [8]}, [override])


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"seed": True}, "recipe.seed"),
        ({"teacher": {"build": "b.py:f", "train": {"epochs": True}}}, "teacher.train.epochs"),
        ({"teacher": {"build": "b.py:f", "train": {"learning_rate": "inf"}}}, "learning_rate"),
        ({"seed": str(2**70)}, "recipe.seed"),
        ({**STUDENT, "distill": {"cache_budget": "much"}}, "distill.cache_budget"),
        ({"compress": [{"int8_ptq": {"recover": False}}]}, r"compress\[0\].int8_ptq"),
        ({"bench": {"scenarios": ["server"], "latency_limit": "9e999ms"}}, "bench.latency_limit"),
        ({"bench": {"sizes": ["9" * 50]}}, "bench.sizes"),
        ({"gates": ["latency.p50: <= 1e999ms"]}, "gates"),
        ({"gates": ["a" + " " * 100_000 + "b"]}, "gates"),
        ({"teacher": {"build": "b.py:f", "weights": "x" * 300}}, "x"),
    ],
)
def test_names_the_key_of_a_value_that_cannot_be(sections, key):
    with pytest.raises(InputError, match=key) as caught:
        resolved(**sections)
    assert caught.value.hint
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("data", "teacher", "expected"),
    [
        ({}, {}, True),
        ({"normalize": False}, {}, False),
        ({}, {"weights": "weights.safetensors"}, False),
        ({"normalize": True}, {"weights": "weights.safetensors"}, True),
        ({}, {"train": {"epochs": 0}}, False),
    ],
)
def test_items_are_normalised_where_the_teacher_is_trained_here(tmp_path, data, teacher, expected):
    (tmp_path / "weights.safetensors").touch()
    sections = {"data": {"name": "digits", **data}, "teacher": {"build": "build.py:n", **teacher}}
    recipe = parse(sections, folder=tmp_path)
    assert recipe.data.normalize is expected


def test_items_are_what_they_were_for_a_stored_teacher(tmp_path, store_model, tiny_model):
    folder = store_model(tiny_model())
    given = {"data": "digits", "teacher": str(folder)}
    assert not parse(given, folder=tmp_path).data.normalize
    manifest = json.loads((folder / "manifest.json").read_text())
    reference = {"name": "digits", "folder": ".", "normalize": True}
    data = {**manifest["data"], "reference": reference}
    write_manifest(folder, {**manifest, "data": data})
    assert parse(given, folder=tmp_path).data.normalize


@pytest.mark.parametrize(
    "section", [{"gates": [{"size": "<= 1MB"}]}, {"package": {"budgets": [{"size": "<= 1MB"}]}}]
)
def test_a_gate_that_yaml_took_for_a_key_is_told_its_quotes(section):
    with pytest.raises(RecipeError, match="should be a valid string") as caught:
        resolved(**section)
    assert '`"size: <= 1MB"`' in caught.value.hint


def test_updates_of_low_rank_are_read_and_written_with_their_defaults():
    step = {"prune_channels": {"recover": {"epochs": 1, "lora": {"rank": 4}}}}
    recipe = resolved(compress=[step])
    lora = recipe.compress[0].recover.lora
    assert (lora.rank, lora.alpha, lora.targets) == (4, 16.0, ())
    assert recipe.compress[0].recover.learning_rate is None, "sought: they start from nothing"
    again = parse(yaml.safe_load(to_yaml(recipe)), folder=Path())
    assert again.compress == recipe.compress


@pytest.mark.parametrize("technique", ["two_four", "unstructured", "int8_qat", "int4_weights"])
def test_updates_of_low_rank_are_refused_where_weights_have_to_stay(technique):
    recover = {"recover": {"lora": {}}}
    with pytest.raises(RecipeError, match=rf"{technique}\.recover\.lora"):
        resolved(compress=[{technique: recover}])


def test_an_option_of_the_updates_that_does_not_exist_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"lora.*rnak"):
        resolved(compress=[{"prune_channels": {"recover": {"epochs": 1, "lora": {"rnak": 4}}}}])
