"""Models of a Hugging Face folder: config.json, safetensors and the tokenizer; no code of it runs.

Nothing is downloaded, no pickle is read, and what a configuration asks for is bounded by the file
of its weights before it is made.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdeploy.errors import DataError, FileMissing, ModelError, UnknownName
from kdeploy.untrusted.json_document import json_file
from kdeploy.untrusted.named_path import named_path

if TYPE_CHECKING:
    from torch import nn

HUGGING_FACE = ("transformers", "gguf")
"""What references to such models begin with."""
CONFIG, GENERATION, WEIGHTS = "config.json", "generation_config.json", "model.safetensors"
TOKENIZER = "tokenizer.json"
TOKENIZER_FILES = (
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
MOST_CONFIG_BYTES, MOST_TOKENIZER_BYTES = 2**20, 2**27
MOST_LAYERS = 2048
MOST_PRUNED = 64
"""How many times as large as what is stored of it a model may once have been."""
MACHINE_KEYS = ("_name_or_path", "_commit_hash", "transformers_version")
"""Of a configuration: where it was and who wrote it, and nothing of the model."""


def transformers_model(
    library: Any, folder: Path, args: Mapping[str, Any], *, asked: str
) -> nn.Module:
    """Return the model of a folder, with its weights where safetensors are there.

    Args:
        library: The module `transformers`.
        folder: Has the config.json.
        args: Entries of the configuration to change, and `pooling` of one without a head.
        asked: The reference, for messages.

    Raises:
        UnknownName: the configuration has no such entry.
        ModelError: it needs code or weights that are not read.
    """
    changed = dict(args)
    pooling = changed.pop("pooling", None)
    config = _configuration(library, folder, changed, asked)
    has_weights = _has_weights(folder, asked)
    with quiet(library):
        if has_weights:
            model = _with_weights(library, config, folder, asked)
        else:
            model = _class(library, config, asked).from_config(config, **_options(library, config))
    return _one_answer(model, pooling, asked)


def kept_model(library: Any, folder: Path, args: Mapping[str, Any], *, asked: str) -> nn.Module:
    """Return the model of an artefact's configuration, ready for its tensors.

    Raises:
        ModelError: it is far larger than the tensors that are stored with it.
    """
    from transformers.initialization import no_init_weights

    config = _configuration(library, folder, {}, asked)
    _check_size(library, config, folder / WEIGHTS, asked)
    with quiet(library), no_init_weights():
        made = _class(library, config, asked).from_config(config, **_options(library, config))
        made.tie_weights()
    return _one_answer(made, args.get("pooling"), asked)


def keep_description(model: nn.Module, source: Path, folder: Path) -> None:
    """Write a model's configuration and its tokenizer into a folder.

    Args:
        model: The library's own module.
        source: The folder that the tokenizer lies in.
        folder: Takes config.json, generation_config.json and the files of the tokenizer.
    """
    config: Any = model.config
    named = {**config.to_dict(), "architectures": [type(model).__name__]}
    _write_json(folder / CONFIG, named)
    if getattr(model, "generation_config", None) is not None:
        _write_json(folder / GENERATION, model.generation_config.to_diff_dict())  # type: ignore[operator,union-attr]
    for file in tokenizer_files(source) if source != folder else ():
        shutil.copyfile(file, folder / file.name)


def tokenizer_files(folder: Path) -> list[Path]:
    """Return what of a tokenizer lies in a folder.

    Raises:
        DataError: one of the files is too large to be of a tokenizer.
    """
    found = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    for file in found:
        if file.stat().st_size > MOST_TOKENIZER_BYTES:
            raise DataError(
                f"{file} has {file.stat().st_size} bytes, more than any tokenizer",
                hint="give the folder that `tokenizer.save_pretrained(DIR)` wrote",
            )
    return found


def brings_weights(build: str, folder: Path) -> bool:
    """Return whether a reference names trained weights, and not only how a model is built."""
    place, _, name = build.partition(":")
    if place == "transformers":
        return any(named_path(name, folder).glob("*.safetensors"))
    return place == "gguf"


def tokenizer_source(build: str, folder: Path) -> Path | None:
    """Return the file or folder that has the tokenizer of a model reference; None: nothing has."""
    place, _, name = build.partition(":")
    source = named_path(name if place in HUGGING_FACE else build, folder)
    if place in HUGGING_FACE and source.is_file():
        return source
    return source if (source / TOKENIZER).is_file() else None


def description_text(folder: Path) -> str:
    """Return the configuration, and a digest of each file of the tokenizer."""
    from kdeploy.store.artifact import file_sha256

    digests = [f"\n{file.name} {file_sha256(file)}" for file in tokenizer_files(folder)]
    return (folder / CONFIG).read_text() + "".join(digests)


def checked_folder(folder: Path, *, asked: str) -> Path:
    """Return the folder, or raise FileMissing where it has no config.json."""
    if not (folder / CONFIG).is_file():
        message = f"`{asked}`: there is no `{folder / CONFIG}`"
        raise FileMissing(message, hint="give a local folder; nothing is downloaded")
    return folder


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    kept = {key: value for key, value in values.items() if key not in MACHINE_KEYS}
    path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")


def _configuration(library: Any, folder: Path, args: Mapping[str, Any], asked: str) -> Any:
    file = folder / CONFIG
    if file.stat().st_size > MOST_CONFIG_BYTES:
        raise ModelError(
            f"`{asked}`: {file} has {file.stat().st_size} bytes, more than any configuration",
            hint="give the folder that `model.save_pretrained(DIR)` wrote",
        )
    known = json_file(file)
    _refuse_what_is_not_read(known, folder, asked)
    config = library.AutoConfig.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    own = {name for name in (*config.to_dict(), "num_labels") if not name.startswith("_")}
    for name, value in args.items():
        if name not in own:
            raise UnknownName.among("entry", name, own, where=f"the config.json of `{asked}`")
        setattr(config, name, value)
    return config


def _refuse_what_is_not_read(known: Any, folder: Path, asked: str) -> None:
    if not isinstance(known, dict):
        raise ModelError(
            f"`{asked}`: {folder / CONFIG} is no mapping",
            hint="give the folder that `model.save_pretrained(DIR)` wrote",
        )
    if "auto_map" in known:
        raise ModelError(
            f"`{asked}` brings code of its own (`auto_map` in {CONFIG}), which is not executed",
            hint="use an architecture that transformers itself has, or a `build.py:function`",
        )
    quantized = known.get("quantization_config")
    if quantized:
        method = quantized.get("quant_method", "?") if isinstance(quantized, dict) else "?"
        raise ModelError(
            f"`{asked}` is quantized already (`{method}`), and kdeploy starts from float weights",
            hint="give the folder of the float model; of GGUF the file itself: `gguf:FILE`",
        )
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"`{asked}` is an adapter of another model, not a model",
            hint="merge it first: `PeftModel.from_pretrained(...).merge_and_unload()`",
        )


def _has_weights(folder: Path, asked: str) -> bool:
    has_weights = any(folder.glob("*.safetensors"))
    if not has_weights and (pickled := sorted(folder.glob("pytorch_model*.bin"))):
        raise ModelError(
            f"`{asked}`: its weights are in {pickled[0].name}, which is not read",
            hint="save the folder again: `model.save_pretrained(DIR, safe_serialization=True)`",
        )
    return has_weights


def _with_weights(library: Any, config: Any, folder: Path, asked: str) -> nn.Module:
    try:
        model, told = _class(library, config, asked).from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **_options(library, config),
        )
    except RuntimeError as error:
        if "mismatched_sizes" not in str(error):
            raise
        raise ModelError(
            f"`{asked}`: its safetensors have other shapes than {CONFIG} says",
            hint="an artefact of a pruned model is given as it is, without `transformers:` "
            "before it; else save the folder again: `model.save_pretrained(DIR)`",
        ) from error
    missing = sorted(told["missing_keys"])
    if missing:
        raise ModelError(
            f"`{asked}`: its safetensors lack {len(missing)} tensors of the model (first: "
            f"`{missing[0]}`), which would be random",
            hint=f"correct `architectures` in {CONFIG}, or save the whole model",
        )
    return model  # type: ignore[no-any-return]


def _options(library: Any, config: Any) -> dict[str, Any]:
    import torch

    # Said outright: a configuration may name kernels that would be downloaded.
    del library, config
    return {"dtype": torch.float32, "attn_implementation": "sdpa"}


def _class(library: Any, config: Any, asked: str) -> Any:
    """Return the Auto class of the task that the architecture's name ends in."""
    name = (config.architectures or [""])[0]
    task = name.partition("For")[2]
    if not task and name.endswith("Model"):
        return library.AutoModel
    task = task or ("CausalLM" if hasattr(config, "vocab_size") else "ImageClassification")
    auto = getattr(library, f"AutoModelFor{task}", None)
    if auto is None:
        raise ModelError(
            f"`{asked}`: transformers has no models for `{task}` (`architectures` is `{name}`)",
            hint="use a model for causal language modelling, classification, or a bare encoder",
        )
    return auto


def _one_answer(model: Any, pooling: str | None, asked: str) -> nn.Module:
    from kdeploy.torch_module.transformers_outputs import (
        POOLINGS,
        Logits,
        TextEmbedding,
        TextLogits,
    )

    for module in model.modules():
        if hasattr(module, "name_or_path"):
            module.name_or_path = ""  # where it lay is nothing of the model
    has_head = "For" in type(model).__name__ or "LMHead" in type(model).__name__
    if has_head and pooling is not None:
        raise ModelError(
            f"`{asked}` is a `{type(model).__name__}`, which answers with logits",
            hint="leave `args: {pooling: ...}` out: it is for encoders without a head",
        )
    if has_head:
        return (TextLogits if model.main_input_name == "input_ids" else Logits)(model)
    chosen = pooling or "mean"
    if chosen not in POOLINGS:
        raise UnknownName.among("pooling", str(chosen), POOLINGS, where=f"`{asked}`")
    return TextEmbedding(model, chosen)


def _check_size(library: Any, config: Any, weights: Path, asked: str) -> None:
    """Refuse a configuration of more layers or numbers than the weights' file has room for."""
    import torch

    layers = max(_counts(config.to_dict()), default=0)
    if layers > MOST_LAYERS:
        raise ModelError(
            f"`{asked}`: {CONFIG} asks for {layers} layers",
            hint=f"the artefact is not as it was written; at most {MOST_LAYERS} are made",
        )
    with torch.device("meta"):  # shapes without memory
        twin = _class(library, config, asked).from_config(config, **_options(library, config))
    numbers = sum(int(tensor.numel()) for tensor in twin.parameters())
    held = _numbers_in(weights)
    if numbers > MOST_PRUNED * held:
        raise ModelError(
            f"`{asked}`: {CONFIG} describes {numbers} parameters, {weights.name} holds {held}",
            hint="the artefact is not as it was written: run again what made it",
        )


def _counts(config: Mapping[str, Any]) -> Iterator[int]:
    """Yield how many layers a configuration and those in it ask for."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _counts(value)
        elif "layers" in str(name) and isinstance(value, int):
            yield value


def _numbers_in(weights: Path) -> int:
    """Return how many numbers the tensors of a safetensors file have."""
    with weights.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(weights.stat().st_size, 2**27):
            return 0
        header = json.loads(file.read(length))
    return sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")


@contextmanager
def quiet(library: Any) -> Iterator[None]:
    """Keep the library's bars and advice from the terminal; errors are errors all the same."""
    logging = library.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
