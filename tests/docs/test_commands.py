"""What README and docs say to type is typed here, in a copy of the repository.

A fenced block under the comment `<!-- run -->` is executed (bash or python), one under
`<!-- file: NAME -->` is written to that file first. The blocks of a page share one folder.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.parser
import pytest

from tests.package.runner.cpp import built

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"^<!-- (?P<does>run|file: (?P<name>\S+)) -->\n+```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
DIRECTIVE = re.compile(r"^<!-- (run|file:)", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)")
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".*_cache", "tests")
LIMIT_SECONDS = 600
DEVICES, LANGUAGE = (REPOSITORY / "docs" / f"{name}.md" for name in ("devices", "language_models"))
# That page takes devices and two files for granted; these say how bright ten pixels are.
FIRST_PIXELS = """<ir_version: 9, opset_import: ["": 17]>
first_pixels (float[batch, 1, 16, 16] x) => (float[batch, 10] y)
{
    pixels = Flatten(x)
    zero = Constant<value_ints = [0]>()
    ten = Constant<value_ints = [10]>()
    one = Constant<value_ints = [1]>()
    y = Slice(pixels, zero, ten, one)
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block with what is done with it."""

    name: str | None
    language: str
    text: str


def blocks_of(page):
    return [
        Block(name=m["name"], language=m["language"], text=m["text"])
        for m in BLOCK.finditer(page.read_text())
    ]


def named(page):
    return page.relative_to(REPOSITORY).as_posix()


def run(block, folder):
    command = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
    }
    return subprocess.run(
        [*command[block.language], block.text],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_SECONDS,
    )


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if blocks_of(p)], ids=named)
def test_what_a_page_says_to_run_runs(page, tmp_path, request):
    folder = tmp_path / "copy"
    if page == LANGUAGE:
        pytest.importorskip("transformers", reason="pip install 'kdeploy[language]'")
    shutil.copytree(REPOSITORY, folder, ignore=NOT_COPIED)
    if page == DEVICES:
        request.getfixturevalue("ssh")
        for name in ("teacher", "student"):
            onnx.save(onnx.parser.parse_model(FIRST_PIXELS), folder / f"{name}.onnx")
    for block in blocks_of(page):
        if block.name is not None:
            (folder / block.name).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.name).write_text(block.text)
            continue
        if "cmake" in block.text and built.missing():
            pytest.skip(built.missing())
        done = run(block, folder)
        said = f"{block.text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert done.returncode == 0, said


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_directive_stands_on_a_block(page):
    assert len(DIRECTIVE.findall(page.read_text())) == len(blocks_of(page))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    broken = [to for to in LINK.findall(page.read_text()) if not (page.parent / to).exists()]
    assert broken == []


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md", "docs/devices.md"])
def test_the_pages_that_people_follow_are_executed(page):
    assert any(block.name is None for block in blocks_of(REPOSITORY / page))


def test_a_failing_block_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- run -->\n\n```bash\nfalse\ntrue\n```\n\n```bash\nexit 7\n```\n")
    [block] = blocks_of(page)
    assert run(block, tmp_path).returncode == 1


def test_a_module_and_a_loader_are_twelve_lines_from_a_bundle():
    first = next(b for b in blocks_of(REPOSITORY / "docs" / "python.md") if b.name is None)
    assert len([line for line in first.text.splitlines() if line.strip()]) <= 12
    assert "kdeploy.package(" in first.text
