"""A random Llama of two layers and a tokenizer of bytes, as Hugging Face folders have them."""

from __future__ import annotations

import json
from pathlib import Path

VOCABULARY = 260
"""256 bytes, and four ids that the tokenizer has no bytes for."""


def write_tokenizer(folder: Path) -> Path:
    """Write a tokenizer whose ids are bytes: tokenizer.json and its configuration."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    return folder


def llama_config(**entries):
    """Return the configuration of a decoder with 4 query and 2 key heads."""
    from transformers import LlamaConfig

    usual = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "eos_token_id": 256,
        "pad_token_id": None,
        "bos_token_id": None,
    }
    return LlamaConfig(**usual | entries)


def write_llama(folder: Path, *, seed: int = 0, **entries) -> Path:
    """Write a random Llama with its tokenizer, and return the folder."""
    import torch
    from transformers import LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(llama_config(**entries))
        for tensor in model.parameters():  # initialised so small that all answers are alike
            if tensor.ndim == 2:
                tensor.data.mul_(4)
    write_tokenizer(folder)
    model.save_pretrained(folder)
    return folder


def text_data(tokens: int = 12, *, items: int = 32):
    """Return data of which the next token follows from the one before."""
    import numpy as np

    from kdeploy.data.contract import NOT_COUNTED, Dataset, Preprocessing, Split

    def split(count, seed):
        start = np.random.default_rng(seed).integers(0, VOCABULARY, (count, 1))
        x = ((start + 3 * np.arange(tokens)) % VOCABULARY).astype(np.int32)
        y = np.full(x.shape, NOT_COUNTED, np.int64)
        y[:, :-1] = x[:, 1:]
        return Split(x=x, y=y)

    return Dataset(
        name="threes",
        train=split(items, 1),
        validation=split(8, 2),
        test=split(8, 3),
        preprocessing=Preprocessing(shape=(tokens,), dtype="int64", vocabulary=VOCABULARY),
        fingerprint="threes",
    )


def random_texts(tokens: int = 24):
    """Return data of random bytes, that any tokenizer of bytes writes."""
    import numpy as np

    from kdeploy.data.contract import Dataset, Preprocessing, Split

    ids = np.random.default_rng(0).integers(0, 256, (20, tokens), dtype=np.int32)
    split = Split(x=ids, y=np.roll(ids, -1, 1).astype(np.int64))
    known = Preprocessing(
        shape=(tokens,),
        classes=tuple(map(str, range(VOCABULARY))),
        dtype="int64",
        vocabulary=VOCABULARY,
    )
    parts = {"train": split, "validation": split, "test": split}
    return Dataset(name="text", **parts, preprocessing=known, fingerprint="0")
