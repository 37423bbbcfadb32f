"""Where language models prefer other next tokens than their teacher: how many, and the worst."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdeploy.report.comparison import Comparison
from kdeploy.report.wording import NOTHING, quantity

TITLE = "Tokens that differ from the teacher's"
HEADERS = (
    *("artefact", "runs on", "tokens", "differ", "near ties", "clear differences"),
    "KL divergence a token",
)
EXAMPLE_HEADERS = ("text before", "teacher", "this file", "the text goes on with")
MOST_FILES = 24  # a page is for people; `next_tokens.json` has all of them
# Blanks that would be invisible, or break a line of a table.
VISIBLE = {"\n": "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}", "\t": "\N{RIGHTWARDS ARROW}"}
VISIBLE |= {"\r": "\N{LEFTWARDS ARROW}"}
BLANK = "\N{OPEN BOX}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token as people can see it, and who gives it which probability."""

    text: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.note})" if self.note else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One place of the text; its tokens are the teacher's, the file's and the text's own."""

    before: str
    tokens: tuple[Token, Token, Token]


@dataclass(frozen=True, slots=True, kw_only=True)
class Differing:
    """One file in one runtime: its row of the table, and the examples."""

    title: str
    note: str
    texts: tuple[str, ...]
    """As `HEADERS`."""
    examples: tuple[Example, ...]

    @property
    def example_rows(self) -> list[list[str]]:
        """Return the examples as plain texts, as `EXAMPLE_HEADERS`."""
        return [[example.before, *map(str, example.tokens)] for example in self.examples]


def differing(comparison: Comparison) -> list[Differing]:
    """Return what differs, a file and runtime each; none where nothing was compared so."""
    several = len(comparison.runs) > 1
    found = [
        _of_file(line, run.name if several else "")
        for run in comparison.runs
        for line in run.next_tokens
    ]
    return found[:MOST_FILES]


def meaning(comparison: Comparison) -> str:
    """Return what the numbers are of, in words."""
    margins = {line["near_tie_margin"] for run in comparison.runs for line in run.next_tokens}
    near = " or ".join(f"{100 * margin:g}" for margin in sorted(margins))
    return (
        "A token differs where the file's likeliest next token is not the teacher's, in the same "
        "runtime on the test part. In a near tie the teacher's two likeliest are less than "
        f"{near} percentage points apart. KL divergence: the mean of p ln(p / q), p the teacher's."
    )


def _of_file(line: Mapping[str, Any], run: str) -> Differing:
    count, differs, ties = line["tokens"], line["differing"], line["near_ties"]
    profile = f" (profile {line['profile']})" if line.get("profile") else ""
    label = f"{line['label']}{profile}" + (f", {run}" if run else "")
    examples = line.get("examples") or []
    fallen = f"{len(examples)} where the probability of the teacher's choice fell most"
    return Differing(
        title=f"{label} in {line['runtime']}",
        note=fallen if len(examples) < differs else f"all {differs}",
        texts=(
            *(label, line["runtime"], str(count)),
            *(_share(number, count) for number in (differs, ties, differs - ties)),
            quantity(line.get("divergence_nats"), "nat"),
        ),
        examples=tuple(_example(example) for example in examples),
    )


def _share(number: int, count: int) -> str:
    return f"{number} ({100 * number / count:.2f} %)" if count else NOTHING


def _example(example: Mapping[str, Any]) -> Example:
    keys = ("teacher_probability", "teacher_probability_here")
    fall = " to ".join(_percent(example[key]) for key in keys)
    return Example(
        before=lines_visible(example["before"]),
        tokens=(
            Token(text=visible(example["teacher_token"]), note=fall),
            Token(text=visible(example["token"]), note=_percent(example["probability"])),
            Token(text=visible(example.get("text_token") or NOTHING)),
        ),
    )


def visible(token: str) -> str:
    """Return a token with every blank drawn: `the` and ` the` are two."""
    return lines_visible(token).replace(" ", BLANK)


def lines_visible(text: str) -> str:
    """Return text in one line, its ends of lines and tabs drawn."""
    return "".join(VISIBLE.get(character, character) for character in text)


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f} %"
