"""A decoder with its tokenizer, run by ONNX Runtime GenAI: it answers prompts on a device.

All that belongs to it is called `model.*` in the bundle: `model.json` is the genai_config.json,
`model.tokenizer.json` the tokenizer.json, and so on; the library finds them under its own names in
a folder of links that is gone once they are open.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdeploy.errors import ModelError
from kdeploy.onnx_graph.block_weights import OPERATOR
from kdeploy.onnx_graph.checks import read_onnx
from kdeploy.package.contract import FileFacts, bundle
from kdeploy.package.manifest import Port
from kdeploy.runtimes.onnxruntime_genai import INPUT, OnnxruntimeGenai
from kdeploy.untrusted.json_document import json_file

PROMPT_TOKENS = 16
PLAIN = re.compile(r"[\w.%|<> -]{0,200}")
"""Texts of a configuration: names of tensors, files beside it, tokens; no path."""
UNTRUSTED = re.compile("librar|custom|provider|plugin|path|pipeline|adapter")
"""Keys by which a configuration can ask for code, or for files from elsewhere."""


@bundle(
    formats={"genai"},
    runtime="onnxruntime_genai",
    libraries={"onnxruntime_genai": "MIT, Copyright (c) Microsoft Corporation"},
    prompt_tokens=16,
)
class Genai:
    """`model.json`, `model.onnx`, its weights, the tokenizer and the chat template."""

    @staticmethod
    def facts_of(path: Path) -> FileFacts:
        config = json_file(path)
        for place in _asks_for_more(config, ""):
            raise ModelError(
                f"{path}: `{place}` could load code or files from elsewhere",
                hint="export it again: `kdeploy export onnxruntime_genai`",
            )
        OnnxruntimeGenai.inputs_of(path)  # refuses what is no such configuration
        graph = read_onnx(path.parent / config["model"]["decoder"]["filename"]).graph
        tokens = config["model"].get("vocab_size")
        if type(tokens) is not int or tokens < 2:
            raise ModelError(
                f"{path} does not say how many tokens there are", hint="export it again"
            )
        return FileFacts(
            inputs=(Port(name=INPUT, shape=("batch", PROMPT_TOKENS), type="int64"),),
            outputs=(Port(name="logits", shape=("batch", tokens), type="float32"),),
            is_quantized=any(node.op_type == OPERATOR for node in graph.node),
        )

    @staticmethod
    def copy(path: Path, folder: Path) -> Path:
        for file in OnnxruntimeGenai.files_of(path):
            name = file.name if file.name.startswith("model.onnx") else f"model.{file.name}"
            shutil.copyfile(file, folder / ("model.json" if file == path else name))
        return folder / "model.json"

    @staticmethod
    def open_model(path: str, threads: int, is_plain: bool = False) -> Any:
        import json
        import os
        import pathlib
        import tempfile
        import time

        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # it is on unless told otherwise
        import onnxruntime_genai

        source = pathlib.Path(path).resolve()
        options: dict[str, Any] = {"intra_op_num_threads": threads}
        if is_plain:
            options["graph_optimization_level"] = "ORT_DISABLE_ALL"
        with tempfile.TemporaryDirectory() as place:
            for file in source.parent.glob("*.*"):
                is_own = file == source or file.name.startswith("model.onnx")
                name = file.name if is_own else file.name.replace("model.", "", 1)
                (pathlib.Path(place) / name.replace("model.json", "genai_config.json")).symlink_to(
                    file
                )
            config = onnxruntime_genai.Config(place)
            config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
            model = onnxruntime_genai.Model(config)
            tokenizer = onnxruntime_genai.Tokenizer(model)
            has_template = (pathlib.Path(place) / "chat_template.jinja").exists()

        def begun(ids: Any, longest: int) -> Any:
            parameters = onnxruntime_genai.GeneratorParams(model)
            parameters.set_search_options(max_length=longest, do_sample=False)
            generator = onnxruntime_genai.Generator(model, parameters)
            generator.append_tokens(ids.astype("int32"))
            return generator

        def run(feeds: dict[str, Any]) -> dict[str, Any]:
            ids = feeds["input_ids"]
            return {"logits": begun(ids, ids.shape[1] + 1).get_logits().reshape(1, -1).copy()}

        def answer(prompt: str, count: int) -> dict[str, Any]:
            if has_template:
                said = json.dumps([{"role": "user", "content": prompt}])
                prompt = tokenizer.apply_chat_template(said, add_generation_prompt=True)
            ids = tokenizer.encode(prompt)
            started = time.perf_counter()
            generator, first = begun(ids, len(ids) + count), 0.0
            while not generator.is_done():
                generator.generate_next_token()
                first = first or time.perf_counter() - started
            seconds = time.perf_counter() - started - first
            tokens = generator.get_sequence(0)[len(ids) :]
            return {
                "answer": tokenizer.decode(tokens),
                "prompt_tokens": len(ids),
                "new_tokens": len(tokens),
                "first_token_seconds": first,
                "tokens_per_second": (len(tokens) - 1) / seconds if len(tokens) > 1 else None,
            }

        run.answer = answer  # type: ignore[attr-defined]  # a function has room for another
        return run


def _asks_for_more(value: Any, place: str) -> Iterator[str]:
    """Yield the places of a configuration that name code, or files that do not lie beside it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            where = f"{place}.{key}".lstrip(".")
            if UNTRUSTED.search(str(key)) and inner not in ([], {}, None):
                yield where
            yield from _asks_for_more(inner, where)
    elif isinstance(value, list):
        for inner in value:
            yield from _asks_for_more(inner, place)
    elif isinstance(value, str) and not PLAIN.fullmatch(value):
        yield place
