"""The one way to a terminal: what others wrote is shown as it stands, never as markup.

Labels, file names, reasons and errors come from models, data and results of other people. Here
brackets and colons mean nothing, control characters and escape sequences are spelt out.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO, TypeAlias

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdeploy.errors import shown

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.status import Status

NUMBERS = frozenset("0123456789-+<>≤")
Piece: TypeAlias = str | tuple[str, str]
"""A text, or a text and its style: `("done", "green")`."""


class Screen:
    """A console that prints pieces of text and tables."""

    def __init__(
        self, *, stderr: bool = False, width: int | None = None, file: TextIO | None = None
    ) -> None:
        self._console = Console(
            stderr=stderr,
            width=width,
            file=file,
            markup=False,
            emoji=False,
            highlight=False,
            soft_wrap=True,
        )
        # Its own way out is exit code 1, and that is a failed gate.
        self._console.on_broken_pipe = read_no_further  # type: ignore[method-assign]

    @property
    def is_terminal(self) -> bool:
        return self._console.is_terminal

    @property
    def width(self) -> int:
        return self._console.width

    def print(self, *pieces: Piece) -> None:
        """Print the pieces as one line."""
        self._console.print(text_of(*pieces))

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
        """Print a table; columns that begin like numbers stand to the right."""
        drawn = Table(
            title=text_of(title) if title else None, title_justify="left", box=None, pad_edge=False
        )
        for index, header in enumerate(headers):
            cells = [row[index] for row in rows if row[index]]
            is_number = bool(cells) and all(cell[0] in NUMBERS for cell in cells)
            drawn.add_column(
                text_of(header), justify="right" if is_number else "left", overflow="fold"
            )
        for row in rows:
            drawn.add_row(*map(text_of, row))
        self._console.print(drawn)

    def status(self, *pieces: Piece) -> Status:
        """Return a line that says what is being done; to be started, updated and stopped."""
        return self._console.status(line_of(*pieces))

    def progress(self, *columns: Any) -> Progress:
        """Return a progress bar of these columns."""
        from rich.progress import Progress

        return Progress(*columns, console=self._console, transient=not sys.stderr.isatty())


def write(text: str, *, stderr: bool = False) -> None:
    """Write a whole document as it is."""
    try:
        print(text, file=sys.stderr if stderr else sys.stdout, flush=True)
    except BrokenPipeError:
        read_no_further()


def read_no_further() -> None:
    """Go on where `| head` has seen enough; Python flushes once more on leaving."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def text_of(*pieces: Piece) -> Text:
    """Return the pieces, fit for a terminal."""
    return Text.assemble(
        *((shown(p), "") if isinstance(p, str) else (shown(p[0]), p[1]) for p in pieces)
    )


def line_of(*pieces: Piece) -> Text:
    """Return the pieces as one line, cut at the terminal's width."""
    line = text_of(*pieces)
    line.no_wrap, line.overflow = True, "ellipsis"
    return line
