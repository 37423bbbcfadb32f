"""A tokenizer as a GGUF file holds it: byte pairs, by the rules that llama.cpp knows by name.

llama.cpp has the rules by which a text is cut before its pairs are joined in its program, and the
file names them (`tokenizer.ggml.pre`); a tokenizer.json spells them out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdeploy.errors import ModelError

NORMAL, CONTROL, USERS_OWN, UNUSED = 1, 3, 4, 5  # of llama.h, `llama_token_type`
TOKENIZER, TEMPLATE = "tokenizer.json", "chat_template.jinja"
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
BY_PATTERN = {QWEN2: "qwen2", LLAMA3: "llama-bpe"}


def write_tokenizer(writer: Any, folder: Path, config: Any) -> None:
    """Write the tokenizer of a folder, and its chat template where it has one.

    Args:
        writer: A `gguf.GGUFWriter`.
        folder: Holds tokenizer.json.
        config: The model's, which names the first and last token of a text.

    Raises:
        ModelError: there is no tokenizer, or llama.cpp has no rules for it.
    """
    path = folder / TOKENIZER
    if not path.is_file():
        raise ModelError(
            "the model has no tokenizer (tokenizer.json), and a GGUF file holds one",
            hint="`tokenizer.save_pretrained(DIR)` into the folder of `transformers:DIR`",
        )
    told = json.loads(path.read_bytes())
    rules, merges = rules_of(told), told["model"]["merges"]
    if not merges:
        raise ModelError(
            f"{TOKENIZER} joins no pairs, and llama.cpp reads no byte-pair tokenizer without any",
            hint="`onnxruntime_genai` takes any tokenizer",
        )
    texts: list[str] = [f"[PAD{place}]" for place in range(config.vocab_size)]
    kinds = [UNUSED] * config.vocab_size
    known = {**told["model"]["vocab"], **{a["content"]: a["id"] for a in told["added_tokens"]}}
    for text, place in known.items():
        if place < config.vocab_size:  # a vocabulary may be filled up behind the model's table
            texts[place], kinds[place] = text, NORMAL
    for added in told["added_tokens"]:
        if added["id"] < config.vocab_size:
            kinds[added["id"]] = CONTROL if added["special"] else USERS_OWN
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rules)
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_add_bos_token(False)
    for add, number in (
        (writer.add_bos_token_id, config.bos_token_id),
        (writer.add_eos_token_id, config.eos_token_id),
        (writer.add_pad_token_id, config.pad_token_id),
    ):
        if (first := number[0] if isinstance(number, list) else number) is not None:
            add(int(first))
    if (folder / TEMPLATE).is_file():
        writer.add_chat_template((folder / TEMPLATE).read_text(encoding="utf-8"))


def rules_of(told: Any) -> str:
    """Return what llama.cpp calls the rules of a tokenizer.json.

    Raises:
        ModelError: it has none for them.
    """
    if told["model"]["type"] == "BPE" and not told.get("normalizer"):
        before = told.get("pre_tokenizer") or {}
        steps = before.get("pretokenizers", [before])
        kinds = [step.get("type") for step in steps]
        is_plain = kinds[-1] == "ByteLevel" and not steps[-1].get("add_prefix_space")
        if kinds == ["ByteLevel"] and is_plain and steps[0].get("use_regex", True):
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and is_plain and steps[0].get("individual_digits"):
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and is_plain:
            pattern = steps[0].get("pattern", {}).get("Regex", "")
            if pattern in BY_PATTERN:
                return BY_PATTERN[pattern]
    raise ModelError(
        f"the tokenizer is `{told['model']['type']}` with rules that llama.cpp has no name for, as "
        "far as kdeploy knows",
        hint="`gguf` writes byte-pair tokenizers of GPT-2, SmolLM2, Llama 3 and Qwen2; "
        "`onnxruntime_genai` takes any",
    )
