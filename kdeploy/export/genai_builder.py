"""A decoder's graph by the model builder of ONNX Runtime GenAI, in a process of its own.

The builder knows how decoders of Hugging Face are written with a cache; it is given a folder with
the weights that the model computes with. Nothing is downloaded, and it reports to nobody.
https://onnxruntime.ai/docs/genai/howto/build-model.html
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kdeploy.errors import ModelError
from kdeploy.torch_module.block_quantized import block_quantized
from kdeploy.torch_module.transformers_configuration import unlike_configuration

ALONE = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
LONGEST_SECONDS = 3600.0


def write_float_folder(module: Any, folder: Path, tokenizer: Path) -> None:
    """Write configuration, weights and tokenizer of a transformers model.

    Args:
        module: The library's own module; layers on codes are written as real weights.
        folder: Is made.
        tokenizer: The folder that has the tokenizer's files.

    Raises:
        ModelError: its configuration describes another model.
    """
    from safetensors.torch import save_file

    tensors = _real_tensors(module)
    if name := unlike_configuration(module, {n: t.shape for n, t in tensors.items()}):
        raise ModelError(
            f"no configuration of a `{type(module).__name__}` describes this model (first: "
            f"`{name}`), and the builder of ONNX Runtime GenAI goes by that",
            hint="shrink it by `prune_decoder` or whole layers (`drop_layers: {target: {layers: "
            "0.5}}`), or export `onnx`",
        )
    folder.mkdir()
    described = {**module.config.to_dict(), "architectures": [type(module).__name__]}
    described.pop("quantization_config", None)
    (folder / "config.json").write_text(json.dumps(described, default=str))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for file in tokenizer.iterdir():
        if file.is_file():
            shutil.copyfile(file, folder / file.name)


def build_float_graph(source: Path, target: Path) -> None:
    """Write a folder for ONNX Runtime GenAI, with float weights.

    Args:
        source: As `write_float_folder` wrote it.
        target: The folder to be made.

    Raises:
        ModelError: the builder knows no such architecture, or failed.
    """
    builder = ["-m", "onnxruntime_genai.models.builder"]
    ends = ["-i", str(source), "-o", str(target), "-c", str(source / "cache")]
    try:
        done = subprocess.run(
            [sys.executable, "-P", *builder, *ends, "-p", "fp32", "-e", "cpu"],
            env={**os.environ, **ALONE},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LONGEST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _failed(f"it took longer than {LONGEST_SECONDS:g} s") from None
    if done.returncode or not (target / "model.onnx").is_file():
        said = [line for line in done.stderr.strip().splitlines() if line.strip()]
        raise _failed(said[-1][:300] if said else f"it ended with {done.returncode}")


def _failed(reason: str) -> ModelError:
    return ModelError(
        f"the builder of ONNX Runtime GenAI cannot write this model: {reason}",
        hint="it knows decoders such as Llama, Qwen, Gemma, Phi and Mistral; `onnx` writes any",
    )


def _real_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the state of the float model that a module computes; a shared tensor once."""
    coded = block_quantized(module)
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if name.rpartition(".")[0] in coded and not name.endswith(".bias"):
            continue
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor.detach().float().cpu().contiguous()
    for name, layer in coded.items():
        if layer.codes.data_ptr() not in seen:
            seen.add(layer.codes.data_ptr())
            tensors[f"{name}.weight"] = layer.weight.cpu().contiguous()
    return tensors
