"""Hugging Face folders: built, kept whole in artefacts, and refused where code or pickles begin."""

from __future__ import annotations

import json

import pytest
import torch

from kdeploy.errors import FileMissing, KdeployError, ModelError, UnknownName
from kdeploy.store.artifact import open_artifact
from kdeploy.store.model_io import load_model, rebuild, save_model
from kdeploy.store.references import ModelReference, build_model, source_sha256
from kdeploy.store.transformers_models import brings_weights, tokenizer_source

transformers = pytest.importorskip(
    "transformers", reason="pip install 'kdeploy[language]' for the tests of Hugging Face folders"
)

from tests.tiny.language import VOCABULARY, llama_config, write_llama  # noqa: E402 - needs it

IDS = torch.arange(24).reshape(2, 12)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("llama") / "tiny")


def refer(folder, **fields):
    return ModelReference(build=f"transformers:{folder}", **fields)


def edited(llama, tmp_path, **entries):
    folder = tmp_path / "edited"
    folder.mkdir()
    for file in llama.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    known = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**known, **entries}))
    return folder


def test_a_decoder_answers_as_the_library_itself(llama):
    model = build_model(refer(llama)).eval()
    own = transformers.LlamaForCausalLM.from_pretrained(llama).eval()
    with torch.no_grad():
        assert torch.equal(model(IDS), own(IDS, use_cache=False).logits)
    assert model(IDS).shape == (2, 12, VOCABULARY)


def test_padding_on_the_right_changes_no_real_token(llama):
    model = build_model(refer(llama)).eval()
    mask = torch.ones_like(IDS)
    mask[:, 8:] = 0
    with torch.no_grad():
        short, padded = model(IDS[:, :8]), model(IDS, mask)
    torch.testing.assert_close(padded[:, :8], short, atol=1e-5, rtol=0)


def test_an_artefact_is_whole_without_the_folder_and_is_a_folder_itself(llama, tmp_path):
    moved = tmp_path / "moved"
    model = build_model(refer(llama)).eval()
    gone = edited(llama, tmp_path)
    artefact = tmp_path / "artefact"
    artefact.mkdir()
    facts = save_model(artefact, model, refer(gone))
    gone.rename(moved)
    names = {file.name for file in artefact.iterdir()}
    assert {"config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"} <= names
    assert facts["edits"] == []
    assert facts["tied"] == {"model.lm_head.weight": "model.model.embed_tokens.weight"}
    assert str(tmp_path) not in (artefact / "config.json").read_text()
    with torch.no_grad():
        expected = model(IDS)
        assert torch.equal(rebuild(artefact, facts, None)(IDS), expected)
        assert torch.equal(build_model(refer(artefact)).eval()(IDS), expected)


def test_entries_of_the_configuration_are_arguments(llama):
    model = build_model(refer(llama, args={"rms_norm_eps": 0.5})).eval()
    with torch.no_grad():
        assert not torch.equal(model(IDS), build_model(refer(llama)).eval()(IDS))
    with pytest.raises(UnknownName, match="hidden_sise"):
        build_model(refer(llama, args={"hidden_sise": 3}))


def test_nobody_can_ask_for_code_that_comes_with_a_folder(llama, tmp_path):
    with pytest.raises(UnknownName, match="trust_remote_code"):
        build_model(refer(llama, args={"trust_remote_code": True}))
    folder = edited(llama, tmp_path, auto_map={"AutoConfig": "evil.Config"})
    (folder / "evil.py").write_text("raise SystemExit('executed')")
    with pytest.raises(ModelError, match="not executed"):
        build_model(refer(folder))


@pytest.mark.parametrize(
    ("entries", "say"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantized already"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "would be random"),
        ({"architectures": ["LlamaForNothingKnown"]}, "NothingKnown"),
        ({"model_type": "unheard_of"}, "failed"),
    ],
)
def test_what_cannot_be_built_is_one_error(llama, tmp_path, entries, say):
    with pytest.raises(ModelError, match=say) as raised:
        build_model(refer(edited(llama, tmp_path, **entries)))
    assert raised.value.hint


def test_an_adapter_and_pickled_weights_are_refused(llama, tmp_path):
    folder = edited(llama, tmp_path)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="adapter"):
        build_model(refer(folder))
    (folder / "adapter_config.json").unlink()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="not read"):
        build_model(refer(folder))


def test_a_configuration_beyond_the_stored_tensors_is_refused_before_memory(llama, tmp_path):
    artefact = tmp_path / "artefact"
    artefact.mkdir()
    facts = save_model(artefact, build_model(refer(llama)), refer(llama))
    known = json.loads((artefact / "config.json").read_text())
    for entries in ({"hidden_size": 2**22}, {"num_hidden_layers": 10**9}):
        (artefact / "config.json").write_text(json.dumps({**known, **entries}))
        with pytest.raises(KdeployError, match=r"parameters|layers"):
            rebuild(artefact, facts, None)


def test_an_encoder_without_a_head_gives_the_mean_of_real_tokens(tmp_path):
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    bare = transformers.BertModel(config).eval()
    bare.save_pretrained(tmp_path)
    mask = torch.ones_like(IDS)
    mask[1, 5:] = 0
    states = bare(IDS, attention_mask=mask).last_hidden_state
    wanted = {
        "mean": torch.stack([states[0].mean(0), states[1, :5].mean(0)]),
        "first": states[:, 0],
        "last": torch.stack([states[0, -1], states[1, 4]]),
    }
    for pooling, expected in wanted.items():
        model = build_model(refer(tmp_path, args={"pooling": pooling})).eval()
        torch.testing.assert_close(model(IDS, mask), expected)
    with pytest.raises(UnknownName, match="middle"):
        build_model(refer(tmp_path, args={"pooling": "middle"}))


def test_the_source_changes_with_the_tokenizer(llama, tmp_path):
    folder = edited(llama, tmp_path)
    before = source_sha256(refer(folder))
    (folder / "tokenizer.json").write_text("{}")
    assert source_sha256(refer(folder)) != before


def test_references_know_their_weights_and_tokenizers(llama, tmp_path):
    llama_config().save_pretrained(tmp_path)
    assert brings_weights(f"transformers:{llama}", tmp_path)
    assert not brings_weights(f"transformers:{tmp_path}", tmp_path)
    assert not brings_weights("build.py:net", tmp_path)
    assert tokenizer_source(f"transformers:{llama}", tmp_path) == llama
    assert tokenizer_source(f"transformers:{tmp_path}", tmp_path) is None
    with pytest.raises(FileMissing, match=r"config\.json"):
        build_model(refer(tmp_path / "gone"))


def test_a_model_with_its_own_weights_needs_no_flag_and_is_measured_as_it_is(llama, tmp_path):
    from kdeploy.bench.plan import BenchPlan
    from kdeploy.cli.given import check_files
    from kdeploy.data.load import DataReference
    from kdeploy.pipeline import side_by_side
    from kdeploy.pipeline.log import NullListener
    from kdeploy.pipeline.single import Source, import_one
    from kdeploy.registry import check

    (tmp_path / "text.py").write_text(
        "import numpy as np\n"
        "from kdeploy.data.contract import Parts, Preprocessing, Split\n"
        "def text():\n"
        "    x = np.random.default_rng(0).integers(0, 260, (40, 9))\n"
        "    part = Split(x=x[:, :-1].astype(np.int32), y=x[:, 1:].astype(np.int64))\n"
        "    names = tuple(map(str, range(260)))\n"
        "    form = Preprocessing(shape=(8,), classes=names, dtype='int64', vocabulary=260)\n"
        "    return Parts(train=part, test=part, preprocessing=form)\n"
    )
    data = DataReference(name=f"{tmp_path / 'text.py'}:text")
    source = Source(reference=f"transformers:{llama}", data=data)
    made = import_one(source, tmp_path / "out", NullListener())
    assert open_artifact(made.folder).facts["parameters"] == 78400
    assert load_model(made)(IDS).shape == (2, 12, VOCABULARY)
    check_files([f"transformers:{llama}"])
    plan = check(BenchPlan, {"runtimes": ["torch_eager"]}, where="bench")
    found = side_by_side._found(f"transformers:{llama}", tmp_path / "out", data, NullListener())
    assert found == made
    [model] = side_by_side._models(None, found, plan)
    assert model.label == made.label
