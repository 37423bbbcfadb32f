"""The modules that a source file imports from the folders beside it, found without executing it.

A build.py with helpers beside it is more than its own text: what it imports from there decides the
model too, belongs to its digest, and goes with every copy.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path


def neighbours(text: str, folders: Sequence[Path]) -> dict[str, Path]:
    """Return the files of what `text` imports from `folders`, and of what those import from there.

    Args:
        text: Of a Python file.
        folders: Where modules are looked for, the first one first.

    Returns:
        The files by their path in the folder, in the order of these paths.
    """
    found: dict[str, Path] = {}
    waiting = list(_imported(text, package=""))
    while waiting:
        for name, file in _files(waiting.pop(), folders):
            if name not in found:
                found[name] = file
                package = Path(name).parent.as_posix().replace("/", ".")
                waiting += _imported(_text(file), package="" if package == "." else package)
    return dict(sorted(found.items()))


def _imported(text: str, *, package: str) -> Iterator[str]:
    """Yield the dotted names that a text may import, relative ones seen from its package."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return  # whoever executes it will say so
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".") if package and node.level else []
            above = above[: len(above) - node.level + 1] if node.level > 1 else above
            base = ".".join([*above, *([node.module] if node.module else [])])
            # What is imported from a package may be a module of it.
            yield from (f"{base}.{alias.name}".strip(".") for alias in node.names)


def _files(module: str, folders: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Yield the files of a dotted name, its packages first, in the first folder that has them."""
    parts = module.split(".")
    for folder in folders:
        names = []
        for count in range(1, len(parts) + 1):
            stem = "/".join(parts[:count])
            names += [n for n in (f"{stem}/__init__.py", f"{stem}.py") if (folder / n).is_file()]
        if names:
            yield from ((name, folder / name) for name in names)
            return


def _text(file: Path) -> str:
    return file.read_text(errors="replace")
