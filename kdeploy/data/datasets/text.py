"""Text of your own for language models: files, packed into windows of tokens.

Each text file is a document, and each line of a .jsonl file; none of them lies in two parts, nor
do two that share passages.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from kdeploy.data.contract import Parts, dataset
from kdeploy.data.text_tokens import (
    TEST_SHARE,
    VALIDATION_SHARE,
    Document,
    Windows,
    divided,
    parts_of_documents,
    read_documents,
)
from kdeploy.errors import DataError


@dataset()
def text(
    *,
    train: Path,
    test: Path | None = None,
    validation: Path | None = None,
    key: str = "text",
    tokens: Annotated[int, Field(ge=8, le=2**17)] = 512,
    test_windows: Annotated[int, Field(ge=1)] | None = None,
    tokenizer: Path | None = None,
) -> Parts:
    """Return windows of token ids, each labelled with the token after it.

    Args:
        train: A file (.txt, .md, .rst, .jsonl), a folder of them, or a pattern, `docs/*.txt`.
        test: The same to test on; left out, every eighth document of train, by its name.
        validation: The same to validate on; left out, every fifteenth document of train.
        key: Of the text in a line of a .jsonl file.
        tokens: In a window.
        test_windows: At most so many windows are tested on, the first ones; left out, all.
        tokenizer: A tokenizer.json, a folder with one, or a GGUF file; left out, the teacher's.
    """
    given = {"train": train, "test": test, "validation": validation}
    found = {part: read_documents([path], key) for part, path in given.items() if path is not None}
    for part, share in (("test", TEST_SHARE), ("validation", VALIDATION_SHARE)):
        if part not in found:
            found = _held_out(found, part, share)
    if tokenizer is None:
        raise DataError(
            "text becomes tokens by a model's tokenizer, and the model has none",
            hint="name it: `data.tokenizer: DIR`, a folder with a tokenizer.json, or a GGUF file",
        )
    windows = Windows(tokens=tokens, tokenizer=tokenizer, test_windows=test_windows)
    return parts_of_documents(found, windows, origin=str(train))


def _held_out(found: dict[str, list[Document]], part: str, share: int) -> dict[str, list[Document]]:
    kept, held_out = divided(found["train"], share)
    if held_out and kept:
        return {**found, "train": kept, part: held_out}
    if part == "validation":
        return found
    raise DataError(
        f"train has {len(found['train'])} documents, too few to hold some out for testing: those "
        "that share passages stay together",
        hint="name files to test on: `data.test: FILES`",
    )
