from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.compress.contract import CompressContext
from kdeploy.compress.run import compress
from kdeploy.errors import ModelError
from kdeploy.export.run import export
from kdeploy.package.bundles.genai import Genai
from kdeploy.package.run import golden_of, package
from kdeploy.package.verify import verify
from kdeploy.runtimes.generation import greedy
from kdeploy.runtimes.run import open_runtime
from kdeploy.store.references import ModelReference, build_model
from tests.tiny.language import VOCABULARY, random_texts, write_llama

pytest.importorskip("transformers", reason="pip install 'kdeploy[genai]'")
pytest.importorskip("onnxruntime_genai", reason="pip install 'kdeploy[genai]'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="module")
def small(folder):
    model = build_model(ModelReference(build=f"transformers:{folder}"))
    return compress(model, "int4_weights", {}, CompressContext(data=random_texts()))


@pytest.fixture(scope="module")
def written(folder, small, tmp_path_factory):
    path = tmp_path_factory.mktemp("genai") / "out" / "genai_config.json"
    return export(
        small, "onnxruntime_genai", {"max_length": 64}, random_texts(), path, artifact=folder
    )


@pytest.fixture(scope="module")
def opened(written):
    runtime = open_runtime("onnxruntime_genai", written.path, threads=1)
    yield runtime
    runtime.close()


def test_the_folder_is_whole_and_says_how_long_texts_get(written):
    names = {f.name for f in written.path.parent.iterdir()}
    assert names >= {"genai_config.json", "model.onnx", "model.onnx.data", "tokenizer.json"}
    assert "chat_template.jinja" in names
    assert json.loads(written.path.read_text())["search"]["max_length"] == 64


def test_every_product_runs_on_codes_at_level_4(opened):
    proof = opened.proof_of_use()
    assert proof.four_bit == proof.four_bit_eligible == 2 * 5 + 1
    assert proof.operators["GatherBlockQuantized"] == 1


def test_counts_the_weights_that_its_codes_stand_for(opened, written, small):
    from transformers import LlamaForCausalLM

    learned = sum(p.numel() for p in LlamaForCausalLM(small.model.config).parameters())
    # The file has tables of cosines and sines too: 128 positions, 8 numbers each.
    found = type(opened).parameters_of(written.path)
    assert learned <= found <= learned + 2 * 128 * 8 + 16


def test_greedy_tokens_are_those_of_the_model_without_a_cache(opened, small):
    prompt = random_texts().test.x[0, :8].tolist()
    found = greedy(opened.stream(16), prompt, 6)
    ids = list(prompt)
    margins = []
    for token in found:
        with torch.no_grad():
            scores = small(torch.tensor([ids]))[0, -1]
        best = scores.topk(2).values
        margins.append(float((best[0] - scores[token]) / scores.std()))
        ids.append(token)
    # Inputs are rounded to 8 bits in the file: a token may be another one where two are as likely.
    assert max(margins) < 0.2
    assert greedy(opened.stream(16), prompt, 6) == found


def test_a_decoder_that_lost_layers_is_written_without_them(folder, tmp_path):
    model = build_model(ModelReference(build=f"transformers:{folder}"))
    half = compress(
        model, "drop_layers", {"target": {"layers": 0.5}}, CompressContext(data=random_texts())
    )
    path = tmp_path / "out" / "genai_config.json"
    result = export(
        half, "onnxruntime_genai", {"max_length": 64}, random_texts(), path, artifact=folder
    )
    assert result.max_abs <= result.bound
    assert json.loads(path.read_text())["model"]["decoder"]["num_hidden_layers"] == 1
    half.model.model.layers[0].mlp = nn.Identity()
    with pytest.raises(ModelError, match="no configuration"):
        export(half, "onnxruntime_genai", {}, random_texts(), tmp_path / "no.json", artifact=folder)


def test_what_is_no_decoder_is_refused(tmp_path):
    model = nn.Sequential(nn.Embedding(VOCABULARY, 4), nn.Linear(4, VOCABULARY)).eval()
    with pytest.raises(ModelError, match="causal language model"):
        export(model, "onnxruntime_genai", {}, random_texts(), tmp_path / "genai_config.json")


def test_a_model_without_a_tokenizer_is_refused(small, tmp_path):
    with pytest.raises(ModelError, match="no tokenizer"):
        export(small, "onnxruntime_genai", {}, random_texts(), tmp_path / "genai_config.json")


def test_ids_that_are_no_ids_are_refused(opened):
    with pytest.raises(ModelError, match="token ids"):
        opened.infer(np.zeros((1, 4), np.float32))


# The bundle is tested here too: to write such a folder takes longer than all that is done with it.
@pytest.fixture(scope="module")
def bundle(written, tmp_path_factory):
    ids = random_texts().preprocessing.apply(random_texts().validation.x[:4])
    made = {
        "id": "0" * 12,
        "label": "small",
        "data": {"preprocessing": random_texts().preprocessing.to_dict(), "task": {}},
    }
    out = tmp_path_factory.mktemp("bundle") / "bundle"
    golden = golden_of(written.path, ids)
    return package(written.path, out, manifest=made, golden=golden, accuracy={}, budgets=[])


def run_bundle(bundle, *arguments):
    runner = bundle / "runner" / "python" / "run.py"
    command = [sys.executable, "-P", str(runner), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_bundle_is_proven_by_next_tokens(bundle):
    result = verify(bundle)
    assert result.passed, result.checks
    checks = {check["check"]: check for check in result.checks}
    assert checks["golden.top1"]["value"] == checks["golden.top1"]["bound"] >= 1


def test_the_bundle_answers_a_prompt_from_the_command_line(bundle, opened):
    done = run_bundle(bundle, "--prompt", "Hello", "--new-tokens", "6", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["prompt_tokens"], told["new_tokens"]) == (5, 6)
    assert told["tokens_per_second"] > 0
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(bundle / "model.tokenizer.json"))
    tokens = greedy(opened.stream(11), tokenizer.encode("Hello").ids, 6)
    assert told["answer"] == tokenizer.decode(tokens)


def test_a_bundle_wants_one_thing_at_a_time(bundle):
    assert run_bundle(bundle, "--prompt", "Hello", "--self-test").returncode == 2


@pytest.mark.parametrize(
    "change",
    [
        {"custom_ops_library": "evil"},
        {"log_id": "../evil"},
        {"provider_options": [{"x": {}}]},
    ],
)
def test_a_configuration_that_could_load_code_is_refused(written, tmp_path, change):
    config = json.loads(written.path.read_text())
    config["model"]["decoder"]["session_options"].update(change)
    for file in written.path.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "genai_config.json"
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="from elsewhere"):
        Genai.facts_of(path)
