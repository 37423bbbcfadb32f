"""Write docs/tree.md: a line a file, its docstring's first line.

python docs/write_tree.py [--check]
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "tree.md"
HEAD = "# The files\n\nWritten by `make docs`; a file's line is the first one of its docstring.\n\n"
SHOWN = ("kdeploy", "benchmarks", "models", "docs")
ABOUT = {
    "kdeploy/py.typed": "the package has types",
    "benchmarks": "what we claim, and the command that makes it again",
    "docs": "guide, concepts, catalogue, decisions",
    "models": "each: build.py, recipe.yaml, card.md, small weights",
    "tests": "mirrors kdeploy/ file for file; contracts/ runs over every registry",
}


def tree() -> str:
    """Return the tree of the files that git tracks, tests as one line."""
    done = subprocess.run(
        ["git", "ls-files", *SHOWN], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = sorted(done.stdout.split(), key=lambda f: (Path(f).parent.parts, Path(f).name))
    lines: list[str] = []
    seen: set[Path] = set()
    for name in files:
        path = Path(name)
        for folder in [*reversed(path.parents)][1:]:
            if folder not in seen:
                seen.add(folder)
                lines.append(_line(folder, f"{folder.name}/", _about_folder(folder)))
        if path.name != "__init__.py":
            lines.append(_line(path, path.name, _about_file(path)))
    lines.append(f"{'tests/':<34} {ABOUT['tests']}")
    return "```\n" + "\n".join(lines) + "\n```"


def _line(path: Path, name: str, about: str) -> str:
    indented = "  " * (len(path.parts) - 1) + name
    return f"{indented:<34} {about}".rstrip()


def _about_folder(folder: Path) -> str:
    init = ROOT / folder / "__init__.py"
    return ABOUT.get(str(folder)) or (_summary(init) if init.is_file() else "")


def _about_file(path: Path) -> str:
    if str(path) in ABOUT:
        return ABOUT[str(path)]
    if path.suffix == ".py":
        return _summary(ROOT / path)
    if path.suffix == ".md":
        text = (ROOT / path).read_text().lstrip()
        return text.splitlines()[0].lstrip("# ") if text else ""
    if path.suffix in (".yaml", ".yml"):
        first = (ROOT / path).read_text().splitlines()[0]
        return first.lstrip("# ") if first.startswith("#") else ""
    return ""


def _summary(path: Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text())) or ""
    return doc.split("\n")[0]


def main() -> None:
    """Write the page, or check that it is fresh."""
    fresh = f"{HEAD}{tree()}\n"
    if "--check" in sys.argv:
        is_fresh = PAGE.is_file() and PAGE.read_text() == fresh
        sys.exit(0 if is_fresh else "docs/tree.md is stale; hint: make docs")
    PAGE.write_text(fresh)


if __name__ == "__main__":
    main()
