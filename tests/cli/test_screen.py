"""What others wrote is shown as it stands: no markup, no escape sequence, in no way of printing."""

from __future__ import annotations

import ast
import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import kdeploy
from kdeploy.cli import output
from kdeploy.errors import KdeployError
from kdeploy.measurement import Measurement, write
from kdeploy.pipeline.log import StageRecord
from kdeploy.progress import terminal as terminal_module
from kdeploy.progress.screen import Screen
from kdeploy.progress.terminal import Terminal, TrainingBar
from kdeploy.report.run import comparison
from kdeploy.training.fit import EpochRecord

ODD = ("[/red]", "[bold]x", ":smile:", "[link=http://x]y[/link]", "{0}", "%s", "\x1b[31mred\x07")
SOURCES = sorted(Path(kdeploy.__file__).parent.rglob("*.py"))


def screen_of(*, width=160, is_terminal=False):
    """Return a screen and the text that it has printed so far."""
    text = io.StringIO()
    if is_terminal:
        text.isatty = lambda: True
    return Screen(file=text, width=width), text


def drawn(renderable, width):
    """Return what is drawn at a width, without colours."""
    console = Console(width=width, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


def test_only_the_screen_knows_the_console():
    known = {
        "screen.py": {"rich.console", "rich.table", "rich.text", "rich.progress", "rich.status"}
    }
    known["terminal.py"] = {"rich.progress", "rich.table", "rich.status"}  # the columns of the bar
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        found = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
        found |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        rich = {name for name in found if name.split(".")[0] == "rich"}
        assert rich <= known.get(path.name, set()), path
        for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
            name = ast.unparse(call.func)
            if name in ("Console", "TextColumn"):
                settings = {k.arg: ast.unparse(k.value) for k in call.keywords}
                assert settings["markup"] == "False", path
            assert not name.endswith("from_markup"), path


@pytest.mark.parametrize("text", ODD)
def test_every_way_of_printing_shows_foreign_text_as_it_stands(text):
    seen = text.replace("\x1b", "\\x1b").replace("\x07", "\\x07")
    screen, printed = screen_of()
    screen.print(text, (text, "bold"))
    screen.table([text], [[text]], title=text)
    assert printed.getvalue().count(seen) == 5
    assert "\x1b[31m" not in printed.getvalue()


@pytest.mark.parametrize("text", ODD)
def test_stages_notes_and_trainings_show_foreign_text(monkeypatch, text):
    screen, printed = screen_of(is_terminal=True)
    monkeypatch.setattr(terminal_module, "Screen", lambda **_: screen)
    terminal = Terminal()
    terminal.stage_started("export", text, text)
    terminal.status(text)
    terminal.message(text)
    record = {"stage": "export", "technique": text, "label": text, "artifact": text}
    terminal.stage_ended(StageRecord(**record, wall_time_s=1.0, cached=False))
    terminal.callback.started(text, 3, 2, 1)
    terminal.callback.prepared(1, 3)
    terminal.callback.epoch_ended(epoch())
    terminal.callback.ended()
    seen = text.replace("\x1b", "\\x1b").replace("\x07", "\\x07")
    assert printed.getvalue().count(seen[:19]) >= 6
    assert "\x1b[31m" not in printed.getvalue()


def test_a_comparison_of_odd_labels_is_drawn_in_every_format(kdeploy, tmp_path):
    cell = {"runtime": "onnxruntime_cpu", "batch_size": 1, "n": 100}
    odd = [*ODD, "a|b", "`c`", "d\ne", "=1+1", "\t@x", "<script>", "x" * 5000]
    write(
        [
            Measurement(artifact=f"i{i}", label=label, metric="latency.p50", value=1e-3, **cell)
            for i, label in enumerate(["teacher", *odd])
        ]
        + [
            Measurement(
                artifact="s", label=label, metric="energy", value=None, skipped=label, **cell
            )
            for label in odd
        ],
        tmp_path / "measurements.jsonl",
    )
    screen, printed = screen_of()
    output.show_comparison(screen, comparison([tmp_path]))
    assert "[/red]" in printed.getvalue()
    for name in ("r.md", "r.html", "r.csv", "r.json"):
        answer = kdeploy("report", tmp_path, "--out", tmp_path / name)
        assert answer.code == 0, answer.err
        assert "\x1b" not in (tmp_path / name).read_text()
    assert "<script>" not in (tmp_path / "r.html").read_text().split("</script>")[-1]
    markdown = (tmp_path / "r.md").read_text()
    assert "| a\\|b" in markdown
    assert "\\`c\\`" in markdown
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text())))
    assert {"'=1+1", "'\t@x"} <= {row["label"] for row in rows}
    assert not [v for row in rows for v in row.values() if v.startswith(("=", "+", "@", "\t"))]


def test_a_broken_name_ends_a_command_in_words(kdeploy):
    answer = kdeploy("run", "x" * 300 + "[/red].yaml")
    assert (answer.code, "hint:" in answer.err) == (2, True)
    answer = kdeploy("report", "\x1b[31m[/red]")
    assert (answer.code, "\x1b" in answer.err) == (2, False)
    assert str(KdeployError("[/red]")) == "[/red]"


def test_what_ends_a_stage_gives_the_cursor_back(monkeypatch):
    screen, printed = screen_of(is_terminal=True)
    monkeypatch.setattr(terminal_module, "Screen", lambda **_: screen)
    at_exit = []
    monkeypatch.setattr(terminal_module.atexit, "register", at_exit.append)
    Terminal().status("works")
    assert "\x1b[?25h" not in printed.getvalue()
    for function in at_exit:
        function()
    assert "\x1b[?25h" in printed.getvalue()


def epoch(**changed):
    fields = {"epoch": 12, "epochs": 30, "loss": 0.1234, "losses": {}, "validation_accuracy": 0.987}
    fields |= {"images_per_second": 16_234.0, "seconds": 1.0, "learning_rate": 0.1}
    return EpochRecord(**fields | changed)


@pytest.mark.parametrize(
    ("width", "said", "bar"),
    [
        (60, "epoch 12/30  loss 0.1234", 10),
        (80, "epoch 12/30  loss 0.1234  validation 98.70 %", 10),
        (120, "epoch 12/30  loss 0.1234  validation 98.70 %  16,234 items/s", 20),
    ],
)
def test_the_bar_has_its_width_and_the_time_left_is_whole(width, said, bar):
    screen, _ = screen_of(width=width, is_terminal=True)
    training = TrainingBar(screen)
    training.started("student", 30, 10, 11)
    training.epoch_ended(epoch())
    line = drawn(training.progress, width).splitlines()[0]
    training.ended()
    assert said in line
    assert line.rstrip().endswith("-:--:--"), line
    assert len(line.rstrip()) <= width
    assert line.index("epoch") - line.index("━") == bar + 1


def test_a_long_name_leaves_room_for_the_facts():
    screen, _ = screen_of(width=60, is_terminal=True)
    training = TrainingBar(screen)
    training.started("a student with a very long name", 30, 10, 0)
    training.epoch_ended(epoch())
    line = drawn(training.progress, 60).splitlines()[0]
    training.ended()
    assert "a student with a ve…" in line
    assert "epoch 12/30" in line
    assert line.rstrip().endswith("-:--:--"), line


@pytest.mark.parametrize("command", [["list"], ["list", "--markdown"], ["recipe-schema"]])
def test_a_reader_who_has_seen_enough_is_no_failed_gate(command):
    done = subprocess.run(
        [
            "bash",
            "-c",
            f"{sys.executable} -m kdeploy {' '.join(command)} | :; echo ${{PIPESTATUS[0]}}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "0\n"
    assert done.stderr == ""
