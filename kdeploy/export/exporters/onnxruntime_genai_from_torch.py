"""A folder for ONNX Runtime GenAI: a decoder with its cache, weights as codes, and the tokenizer.

The graph is that of the library's own model builder; weights that `int4_weights` made codes of
stand in it as they are. https://onnxruntime.ai/docs/genai/
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import onnx_ir as ir
from pydantic import Field
from torch import Tensor, nn

from kdeploy.errors import ModelError
from kdeploy.export.contract import exporter
from kdeploy.export.decoder_cache import FLOAT_BOUND, cache_bound, check_cache, required_decoder
from kdeploy.export.genai_builder import build_float_graph, write_float_folder
from kdeploy.export.genai_codes import put_codes_in
from kdeploy.system.temporary import temporary_folder
from kdeploy.torch_module.block_quantized import block_quantized


@exporter(
    source={"torch"},
    suffix=".json",
    file="genai_config.json",
    runtime="onnxruntime_genai",
    refuses={"int8", "int8_dynamic"},
    tokenizer=True,
    of="language_model",
)
def onnxruntime_genai_from_torch(
    model: nn.Module,
    example: Tensor,
    path: Path,
    *,
    max_length: Annotated[int, Field(ge=16)] = 2048,
) -> None:
    """Write the folder of a decoder.

    Args:
        model: A causal language model of transformers, float or with weights on codes.
        example: Two rows of token ids.
        path: Its genai_config.json; the tokenizer's files lie beside it already.
        max_length: Tokens of prompt and answer together where nobody says, at most those that
            the model knows: the cache takes the memory of so many at once.

    Raises:
        ModelError: it is no causal language model, has no tokenizer, or the builder does not know
            its architecture.
        ParityFailed: the cache changes what the file computes.
    """
    module = required_decoder(model, target="onnxruntime_genai", other="onnx")
    if not (path.parent / "tokenizer.json").is_file():
        raise ModelError(
            "the model has no tokenizer (tokenizer.json), and a folder for ONNX Runtime GenAI "
            "is one that takes text",
            hint="`tokenizer.save_pretrained(DIR)` into the folder of `transformers:DIR`",
        )
    with temporary_folder("genai") as work:
        write_float_folder(module, work / "float", path.parent)
        build_float_graph(work / "float", work / "built")
        check_cache("onnxruntime_genai", work / "built" / path.name, example[0], bound=FLOAT_BOUND)
        graph = ir.load(work / "built" / "model.onnx")
        put_codes_in(graph, model)
        ir.save(graph, path.parent / "model.onnx", external_data="model.onnx.data")
        for file in (work / "built").iterdir():
            if not file.name.startswith("model.onnx"):
                shutil.copyfile(file, path.parent / file.name)
        del graph  # it reads files of the folder
    _set_length(path, max_length)
    if block_quantized(model):
        check_cache("onnxruntime_genai", path, example[0], bound=cache_bound(model, example[:1]))


def _set_length(path: Path, max_length: int) -> None:
    config = json.loads(path.read_text())
    known = int(config["model"].get("context_length", max_length))
    config["search"]["max_length"] = min(max_length, known)
    path.write_text(json.dumps(config, indent=2) + "\n")
