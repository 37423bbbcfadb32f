"""Text as token ids: documents read, encoded by a model's own tokenizer, packed into windows.

Windows are disjoint and full, so nothing is padded; a token is learned and judged from those before
it in its window, and the first of each window is not. A document never lies in two parts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.chats import ChatTemplate, Message, messages_of, read_template
from kdeploy.data.contract import NOT_COUNTED, Parts, Preprocessing, Split
from kdeploy.data.shared_passages import groups, repeated
from kdeploy.errors import DataError, FileMissing, MissingDependency, ModelError
from kdeploy.store.transformers_models import MOST_TOKENIZER_BYTES, TOKENIZER

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Ids = NDArray[np.int32]
Learned = NDArray[np.bool_]
BETWEEN = "\n"
"""Stands behind each document."""
SUFFIXES = (".txt", ".md", ".rst", ".jsonl")
TEST_SHARE, VALIDATION_SHARE = 8, 15
"""One document of so many is held out, drawn by its name."""
TOLD = 0.01
"""Of a part's passages, what may stand in the training part without a word."""
AT_ONCE = 256
"""Documents that are encoded in one call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text that belongs to one part as a whole."""

    name: str
    text: str
    messages: tuple[Message, ...] = ()
    """Of a conversation; its text is then what was said, without roles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """How text is cut: so many tokens a window, and at most so many windows of the test part."""

    tokens: int
    tokenizer: Path
    test_windows: int | None = None


def parts_of_documents(
    documents: Mapping[str, Sequence[Document]], windows: Windows, *, origin: str
) -> Parts:
    """Return packed parts, with notes that say how a perplexity of the test part is counted.

    Args:
        documents: `train` and `test`, and `validation` where it is given.
        windows: How text is cut.
        origin: Where it comes from, for messages.

    Raises:
        DataError: a part has not one full window.
    """
    encoder, splits = Encoder(windows.tokenizer), {}
    for part, listed in documents.items():
        most = windows.test_windows if part == "test" else None
        ids, is_learned = _packed(listed, encoder, windows.tokens, most=most)
        if not len(ids):
            raise DataError(
                f"{part} part of {origin}: its {len(listed)} documents have fewer than "
                f"{windows.tokens} tokens, so there is not one window",
                hint="lower `tokens`, or add text",
            )
        splits[part] = Split(x=ids, y=_next_tokens(ids, is_learned), origin=origin)
    return Parts(
        train=splits["train"],
        test=splits["test"],
        validation=splits.get("validation"),
        preprocessing=Preprocessing(
            shape=(windows.tokens,), dtype="int64", vocabulary=encoder.vocabulary
        ),
        notes=(_how_counted(splits["test"], windows), *_what_repeats(documents)),
    )


def divided(documents: Sequence[Document], share: int) -> tuple[list[Document], list[Document]]:
    """Return documents without and with one of `share`, drawn by their names.

    Those that share passages stay together, so fewer may be held out.
    """
    held_out: set[str] = set()
    for names in _drawn_groups(documents):
        if len(held_out) + len(names) <= len(documents) // share:
            held_out.update(names)
    drawn = [document for document in documents if document.name in held_out]
    return [document for document in documents if document.name not in held_out], drawn


def _drawn_groups(documents: Sequence[Document]) -> Iterator[list[str]]:
    """Yield the names of documents that belong together, in an order that names alone decide."""
    ordered = sorted(documents, key=lambda document: document.name)
    members: dict[int, list[str]] = {}
    firsts = groups([document.text for document in ordered])
    for document, first in zip(ordered, firsts, strict=True):
        members.setdefault(first, []).append(document.name)
    order = sorted(members, key=lambda first: _drawn(ordered[first].name))
    yield from (members[first] for first in order)


def _drawn(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def read_documents(paths: Sequence[Path], key: str) -> list[Document]:
    """Return the documents of files: each text file is one, and each line of a .jsonl file.

    Args:
        paths: Files, folders of them, or patterns such as `docs/*.txt`.
        key: Of the text in a line of JSON.

    Raises:
        FileMissing: there is no such file.
        DataError: a file holds no text, or a line has no such key.
    """
    documents = [document for path in paths for file in _files(path) for document in _in(file, key)]
    written = [document for document in documents if document.text.strip()]
    if not written:
        raise DataError(
            f"there is no text in {', '.join(map(str, paths))}",
            hint=f"give files {', '.join(SUFFIXES)} that are not empty",
        )
    return written


def read_tokenizer(source: Path) -> Tokenizer:
    """Return the tokenizer of a tokenizer.json, of a folder that has one, or of a GGUF file.

    Raises:
        FileMissing: there is none.
        DataError: it is none.
        MissingDependency: the library `tokenizers` is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingDependency.named(
            "tokenizers", needed_for="text", pip="'kdeploy[language]'"
        ) from None
    file = _tokenizer_file(source)
    if file.stat().st_size > MOST_TOKENIZER_BYTES:
        raise DataError(
            f"{file} has {file.stat().st_size} bytes, more than any tokenizer",
            hint="give the tokenizer.json that `tokenizer.save_pretrained(DIR)` wrote",
        )
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more special
        raise DataError(
            f"{file} is no tokenizer: {error}",
            hint="give the tokenizer.json that `tokenizer.save_pretrained(DIR)` wrote",
        ) from error


def check_same_tokens(teacher: Path, student: Path) -> None:
    """Refuse two models whose ids mean other tokens: a student would learn the wrong words.

    Raises:
        ModelError: the tokenizers differ; it names the first token that does.
    """
    sources = (teacher, student)
    known, own = (read_tokenizer(source).get_vocab(with_added_tokens=True) for source in sources)
    differing = [token for token in known if own.get(token) != known[token]]
    differing += [token for token in own if token not in known]
    if differing:
        first = min(differing)
        ids = [vocabulary.get(first, "no id") for vocabulary in (known, own)]
        raise ModelError(
            f"the student has another tokenizer than the teacher: {len(differing)} tokens differ "
            f"(`{first}` is {ids[0]} for the teacher and {ids[1]} for the student), and answers are"
            " compared token by token",
            hint="make the student from the teacher (`compress: [{prune_decoder: {recover: "
            "...}}]`), or take one of the same tokenizer",
        )


def _tokenizer_file(source: Path) -> Path:
    if source.suffix == ".gguf":
        from kdeploy.store.references import ModelReference, description_of

        folder = description_of(ModelReference(build=f"gguf:{source}"))
        assert folder is not None, "of a GGUF file there is one"
        return folder / TOKENIZER
    file = source / TOKENIZER if source.is_dir() else source
    if not file.is_file():
        raise FileMissing(
            f"there is no tokenizer {file}",
            hint="name a tokenizer.json, a folder that has one, or a GGUF file",
        )
    return file


class Encoder:
    """Makes token ids of documents: of conversations by the chat template beside the tokenizer."""

    def __init__(self, source: Path) -> None:
        self._tokenizer = read_tokenizer(source)
        self._folder = _tokenizer_file(source).parent

    @property
    def vocabulary(self) -> int:
        """Return how many tokens there are."""
        return int(self._tokenizer.get_vocab_size())

    def encoded(self, documents: Sequence[Document]) -> Iterator[tuple[Ids, Learned]]:
        """Yield the ids of each document (tokens,), and which of them are to be learned."""
        chats = {
            place: self._template.rendered(document.messages, where=document.name)
            for place, document in enumerate(documents)
            if document.messages
        }
        texts = [
            chats[place].text if place in chats else document.text + BETWEEN
            for place, document in enumerate(documents)
        ]
        found = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        for place, encoding in enumerate(found):
            ids = np.array(encoding.ids, np.int32)
            learned = np.ones(len(ids), np.bool_)
            if place in chats:
                begins = np.array([start for start, _ in encoding.offsets], np.int64)
                spans = chats[place].answers
                learned = np.any([(a <= begins) & (begins < b) for a, b in spans], axis=0)
            yield ids, learned

    @cached_property
    def _template(self) -> ChatTemplate:
        return read_template(self._folder)


def _packed(
    documents: Sequence[Document], encoder: Encoder, tokens: int, *, most: int | None
) -> tuple[Ids, Learned]:
    """Return the first `most` full windows of the documents, (N, tokens), and what is learned."""
    wanted = None if most is None else most * tokens
    pieces: list[tuple[Ids, Learned]] = [(np.zeros(0, np.int32), np.zeros(0, np.bool_))]
    found = 0
    for start in range(0, len(documents), AT_ONCE):
        pieces += encoder.encoded(documents[start : start + AT_ONCE])
        found = sum(len(ids) for ids, _ in pieces)
        if wanted is not None and found >= wanted:
            break
    count = found // tokens if most is None else min(found // tokens, most)
    ids, learned = (np.concatenate(side)[: count * tokens] for side in zip(*pieces, strict=True))
    return ids.reshape(count, tokens), learned.reshape(count, tokens)


def _next_tokens(ids: Ids, is_learned: Learned) -> NDArray[np.int64]:
    following = np.full(ids.shape, NOT_COUNTED, np.int64)
    following[:, :-1] = np.where(is_learned[:, 1:], ids[:, 1:], NOT_COUNTED)
    return following


def _how_counted(test: Split, windows: Windows) -> str:
    """Return, for people, what a perplexity of these windows is of."""
    ids, count = test.x, int((test.y != NOT_COUNTED).sum())
    text = hashlib.sha256(np.ascontiguousarray(ids, "<i4").tobytes()).hexdigest()[:12]
    whole = len(ids) * (windows.tokens - 1)
    counted = "each token but the first of a window" if count == whole else "each token of answers"
    return (
        f"perplexity of the test part: {len(ids)} disjoint windows of {windows.tokens} tokens, "
        f"{counted} counted ({count}), no token added in front; "
        f"sha256 of the token ids {text}"
    )


def _what_repeats(documents: Mapping[str, Sequence[Document]]) -> Iterator[str]:
    """Yield, for people, how much of a part is no test: it was there to learn."""
    learned = [document.text for document in documents["train"]]
    for part in ("validation", "test"):
        share = repeated([d.text for d in documents.get(part, ())], learned)
        if share > TOLD:
            yield (
                f"{share:.0%} of the passages of the {part} part stand in the training part too: "
                "what is measured on it is partly memory; hold out other documents"
            )


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES)
    elif path.is_file():
        found = [path]
    else:
        found = sorted(path.parent.glob(path.name)) if path.parent.is_dir() else []
    if not found:
        raise FileMissing(
            f"there is no text file {path}",
            hint=f"name a file, a folder with {', '.join(SUFFIXES)}, or a pattern",
        )
    return found


def _in(file: Path, key: str) -> Iterator[Document]:
    try:
        if file.suffix != ".jsonl":
            yield Document(name=file.name, text=file.read_text(encoding="utf-8"))
            return
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _of_line(line, key, f"{file.name}:{number}")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is not UTF-8: byte {error.start} is {error.object[error.start]:#x}",
            hint="write it as UTF-8: `iconv -f latin1 -t utf-8 FILE`",
        ) from error


def _of_line(line: str, key: str, where: str) -> Document:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is no JSON: {error}", hint="one object a line") from error
    held = value.get(key) if isinstance(value, dict) else None
    if isinstance(held, list) and held:
        messages = messages_of(held, where=where)
        said = "\n".join(message["content"] for message in messages)
        return Document(name=where, text=said, messages=messages)
    if not isinstance(held, str):
        keys = ", ".join(f"`{k}`" for k in value) if isinstance(value, dict) else "no object"
        raise DataError(
            f"{where} has no text under `{key}`, found {keys}",
            hint="name the key of the text: `data.key: NAME`",
        )
    return Document(name=where, text=held)
