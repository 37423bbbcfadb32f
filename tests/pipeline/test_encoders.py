"""An encoder of transformers teaches one of fewer layers, on ids and a mask of the real tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdeploy.api.run import run
from kdeploy.store.model_io import load_model

transformers = pytest.importorskip("transformers", reason="pip install 'kdeploy[language]'")

TOKENS, VOCABULARY = 8, 50


def write_encoder(folder):
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(1)
    model = transformers.BertModel(config)
    for tensor in model.encoder.parameters():  # initialised so small that a layer does nothing
        if tensor.ndim == 2:
            tensor.data.mul_(10)
    model.save_pretrained(folder)


def write_texts(file, count, seed):
    draw = np.random.default_rng(seed)
    ids = draw.integers(1, VOCABULARY, (count, TOKENS))
    mask = (np.arange(TOKENS) < draw.integers(3, TOKENS + 1, (count, 1))).astype(np.int64)
    np.savez(file, input_ids=ids * mask, attention_mask=mask, y=np.arange(count) % 4)


def test_a_student_of_the_first_layer_learns_the_vectors_and_padding_changes_nothing(tmp_path):
    write_encoder(tmp_path / "bert")
    for name, count in (("train", 64), ("test", 16)):
        write_texts(tmp_path / f"{name}.npz", count, len(name))
    encoder = f"transformers:{tmp_path / 'bert'}"
    recipe = {
        "data": {"name": "arrays", **{n: str(tmp_path / f"{n}.npz") for n in ("train", "test")}},
        "task": "embedding",
        "teacher": {"build": encoder, "args": {"pooling": "mean"}},
        "student": {"build": encoder, "args": {"pooling": "mean", "num_hidden_layers": 1}},
        "distill": {
            "epochs": 8,
            "batch_size": 16,
            "learning_rate": 1e-3,
            "optimizer": "adamw",
            "label_weight": 0.0,
            "losses": [{"mse": {"weight": 1.0}}],
            "baseline": False,
        },
        "export": [],
    }
    made = run(recipe, out=tmp_path / "run", until="distill")
    teacher, student = (load_model(m.artifact) for m in (made.teacher, made.student))
    assert student.model.config.num_hidden_layers == 1
    held_out = np.load(tmp_path / "test.npz")
    ids, mask = (torch.from_numpy(held_out[name]) for name in ("input_ids", "attention_mask"))
    fresh = transformers.BertModel.from_pretrained(tmp_path / "bert", num_hidden_layers=1).eval()
    with torch.no_grad():
        wanted, found = teacher(ids, mask), student(ids, mask)
        states = fresh(ids, attention_mask=mask).last_hidden_state * mask[:, :, None]
        before = states.sum(1) / mask.sum(1, keepdim=True)
        longer = student(*(torch.nn.functional.pad(x, (0, 5)) for x in (ids, mask)))
    assert (found - wanted).square().mean() < (before - wanted).square().mean()
    torch.testing.assert_close(longer, found, atol=1e-5, rtol=0)
