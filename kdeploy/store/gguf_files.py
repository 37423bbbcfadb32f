"""Models of GGUF files, read by transformers once and kept as a Hugging Face folder in the cache.

GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Codes of a few bits become float32.
"""

from __future__ import annotations

import shutil
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from kdeploy.errors import FileMissing, ModelError
from kdeploy.store.artifact import disk_error, file_sha256, sync
from kdeploy.store.transformers_models import CONFIG, WEIGHTS, keep_description, quiet
from kdeploy.system.user_cache import cache_folder
from kdeploy.untrusted.user_code import users_code

MAGIC = b"GGUF"
FORM = 1
"""Of what is kept: a change of it makes all files anew."""


def kept_folder(file: Path) -> Path:
    """Return where the model of a file is, or will be, kept: by the file's contents.

    Raises:
        FileMissing: there is no such file.
        ModelError: it is no GGUF file.
    """
    if not file.is_file():
        raise FileMissing(
            f"there is no file {file}", hint="give a local file; nothing is downloaded"
        )
    with file.open("rb") as opened:
        magic = opened.read(4)
    if magic != MAGIC:
        raise ModelError(
            f"{file} is no GGUF file: it begins with {magic!r}",
            hint="of a Hugging Face folder write `transformers:DIR`, of ONNX `onnx:FILE`",
        )
    return cache_folder("gguf") / f"{file_sha256(file)[:24]}-{FORM}"


def converted(file: Path, library: Any) -> Path:
    """Return the folder with config.json, tokenizer and float32 safetensors of a GGUF file.

    Args:
        file: The GGUF file.
        library: The module `transformers`.

    Raises:
        FileMissing: there is no such file.
        ModelError: it cannot be read as a language model.
        Unavailable: the cache cannot be written.
    """
    from filelock import FileLock

    folder = kept_folder(file)
    if (folder / CONFIG).is_file():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not (folder / CONFIG).is_file():
                _convert(file, library, folder)
    except OSError as error:
        raise disk_error(error, folder.parent) from error
    return folder


def _convert(file: Path, library: Any, folder: Path) -> None:
    import torch
    from safetensors.torch import save

    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed: the lock is ours
    named = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    hint = "give a GGUF file of an architecture that transformers reads, e.g. llama or qwen2"
    try:
        # Its bar goes to the terminal past the library's own switch.
        with (
            redirect_stderr(StringIO()),
            quiet(library),
            users_code(f"`{file}` cannot be read as a model", hint=hint),
        ):
            model = library.AutoModelForCausalLM.from_pretrained(
                file.parent, dtype=torch.float32, **named
            )
            partial.mkdir()
            library.AutoTokenizer.from_pretrained(file.parent, **named).save_pretrained(partial)
        del model.config.quantization_config  # it says how the file was read
        keep_description(model, partial, partial)
        tied = set(model.all_tied_weights_keys)
        tensors = {k: t.contiguous() for k, t in model.state_dict().items() if k not in tied}
        (partial / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
        sync(partial / WEIGHTS)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
