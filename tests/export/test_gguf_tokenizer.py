from __future__ import annotations

import pytest

from kdeploy.errors import ModelError
from kdeploy.export.gguf_tokenizer import LLAMA3, QWEN2, rules_of

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


def told(*steps, kind="BPE", normalizer=None):
    before = steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": list(steps)}
    return {"model": {"type": kind}, "normalizer": normalizer, "pre_tokenizer": before}


def split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}


@pytest.mark.parametrize(
    ("tokenizer", "rules"),
    [
        (told(BYTES), "gpt-2"),
        (told({"type": "Digits", "individual_digits": True}, BYTES), "smollm"),
        (told(split(QWEN2), {**BYTES, "use_regex": False}), "qwen2"),
        (told(split(LLAMA3), {**BYTES, "use_regex": False}), "llama-bpe"),
    ],
)
def test_rules_have_the_names_of_llama_cpp(tokenizer, rules):
    assert rules_of(tokenizer) == rules


@pytest.mark.parametrize(
    "tokenizer",
    [
        told(BYTES, kind="Unigram"),
        told({**BYTES, "add_prefix_space": True}),
        told(BYTES, normalizer={"type": "NFC"}),
        told({"type": "Digits", "individual_digits": False}, BYTES),
        told(split(r"\s+"), BYTES),
        {"model": {"type": "BPE"}, "pre_tokenizer": None},
    ],
)
def test_other_rules_are_refused(tokenizer):
    with pytest.raises(ModelError, match="no name for"):
        rules_of(tokenizer)
