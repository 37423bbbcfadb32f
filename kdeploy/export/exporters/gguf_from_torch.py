"""A GGUF file, for llama.cpp and all that is built on it: weights, codes, tokenizer in one file.

Codes of `int4_weights` stand in it as they are: blocks of 64 or 128 become blocks of 32 with one
scale. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kdeploy.errors import MissingDependency, ModelError
from kdeploy.export.contract import exporter
from kdeploy.export.decoder_cache import cache_bound, check_cache, required_decoder
from kdeploy.export.gguf_tensors import tensors_of
from kdeploy.export.gguf_tokenizer import write_tokenizer
from kdeploy.store.transformers_models import tokenizer_files

ARCHITECTURES = {
    "llama": ("llama", True),
    "mistral": ("llama", True),
    "qwen2": ("qwen2", False),
    "qwen3": ("qwen3", False),
}
"""By `model_type` of transformers: that of llama.cpp, and whether rows of heads are turned."""
FILE_TYPES = {"F32": 0, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7}
"""`general.file_type`: what most of the weights are, for people."""


@exporter(
    source={"torch"},
    suffix=".gguf",
    runtime="llama_cpp",
    refuses={"int8", "int8_dynamic"},
    tokenizer=True,
    of="language_model",
)
def gguf_from_torch(model: nn.Module, example: Tensor, path: Path) -> None:
    """Write the file.

    Args:
        model: A causal language model of transformers, float or with weights on codes.
        example: Two rows of token ids.
        path: The `.gguf` file; the tokenizer's files lie beside it, and are taken into it.

    Raises:
        MissingDependency: the library `gguf` is not installed.
        ModelError: another architecture than llama, mistral, qwen2 and qwen3, no tokenizer of byte
            pairs, or codes in blocks that such a file has not.
        ParityFailed: the cache changes what the file computes.
    """
    try:
        import gguf
    except ImportError as error:
        raise MissingDependency.named(
            "gguf", needed_for="`gguf`", pip="'kdeploy[language]'"
        ) from error
    decoder = required_decoder(model, target="gguf", other="onnx")
    config = decoder.config
    known = ARCHITECTURES.get(config.model_type)
    if known is None or _rotation(config) != "default":
        raise ModelError(
            f"`gguf` writes {', '.join(ARCHITECTURES)} with plain rotations, and this is a "
            f"{config.model_type} with `{_rotation(config)}`",
            hint="`onnxruntime_genai` writes more architectures",
        )
    architecture, is_turned = known
    writer = gguf.GGUFWriter(path, architecture)
    _write_facts(writer, config)
    write_tokenizer(writer, path.parent, config)
    for file in tokenizer_files(path.parent):
        file.unlink()
    kind = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == architecture)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    sizes: dict[str, int] = {}
    for name, array, form in tensors_of(decoder, is_turned=is_turned):
        called = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if called is None:
            raise ModelError(
                f"GGUF has no name for `{name}` of a {config.model_type}",
                hint="`onnxruntime_genai` writes models with parts of their own",
            )
        sizes[form] = sizes.get(form, 0) + array.nbytes
        stored = None if form == "F32" else getattr(gguf.GGMLQuantizationType, form)
        writer.add_tensor(called, array, raw_dtype=stored)
    writer.add_file_type(FILE_TYPES[max(sizes, key=sizes.__getitem__)])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    check_cache("llama_cpp", path, example[0], bound=cache_bound(model, example[:1]))


def _rotation(config: Any) -> str:
    told = getattr(config, "rope_parameters", None) or {}
    return str(told.get("rope_type", "default"))


def _write_facts(writer: Any, config: Any) -> None:
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name(Path(str(config.name_or_path or "")).name or config.model_type)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_quantization_version(2)
