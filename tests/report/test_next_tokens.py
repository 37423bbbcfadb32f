"""Tokens that differ: counts in a row a file, examples as text whose blanks can be seen."""

from __future__ import annotations

import json

import pytest

from kdeploy.errors import DataError
from kdeploy.report.next_tokens import differing, meaning, visible
from kdeploy.report.run import comparison, render

EXAMPLE = {
    "window": 3,
    "place": 7,
    "before": "def f(x):\n\treturn <b>",
    "teacher_token": " x",
    "teacher_probability": 0.912,
    "teacher_probability_here": 0.104,
    "token": "<script>alert(1)</script>\n",
    "probability": 0.5,
    "text_token": "|`*",
}
LINE = {
    "label": "int4",
    "profile": "cpu",
    "runtime": "onnxruntime_genai",
    "tokens": 2040,
    "differing": 51,
    "near_ties": 34,
    "near_tie_margin": 0.1,
    "divergence_nats": 0.01234,
    "examples": [EXAMPLE],
}


def told(folder, *lines):
    (folder / "next_tokens.json").write_text(json.dumps(lines))
    return comparison([folder])


def test_a_row_counts_near_ties_apart(demo):
    (file,) = differing(told(demo, LINE))
    assert file.texts == (
        *("int4 (profile cpu)", "onnxruntime_genai", "2040"),
        *("51 (2.50 %)", "34 (1.67 %)", "17 (0.83 %)", "0.01234 nat"),
    )
    assert file.title == "int4 (profile cpu) in onnxruntime_genai"
    assert file.note == "1 where the probability of the teacher's choice fell most"


def test_blanks_of_a_token_can_be_seen(demo):
    assert visible(" a\tb\n") == "␣a→b↵"
    (file,) = differing(told(demo, LINE))
    assert file.example_rows == [
        [
            "def f(x):↵→return <b>",
            "␣x (91.2 % to 10.4 %)",
            "<script>alert(1)</script>↵ (50.0 %)",
            "|`*",
        ]
    ]


def test_the_page_shows_the_examples_escaped(demo):
    page = render(told(demo, LINE), "html")
    assert "Tokens that differ from the teacher" in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;↵" in page
    assert "91.2 % to 10.4 %" in page


def test_the_markdown_shows_them_too_and_no_cell_ends_early(demo):
    text = render(told(demo, LINE), "markdown")
    (line,) = [line for line in text.splitlines() if "alert(1)" in line]
    assert line == (
        r"| def f(x):↵→return &lt;b&gt; | ␣x (91.2 % to 10.4 %) "
        r"| &lt;script&gt;alert(1)&lt;/script&gt;↵ (50.0 %) | \|\`\* |"
    )


def test_the_json_has_every_line(demo):
    assert json.loads(render(told(demo, LINE, LINE), "json"))["next_tokens"] == [LINE, LINE]
    (demo / "next_tokens.json").unlink()
    assert "next_tokens" not in json.loads(render(comparison([demo]), "json"))


def test_a_run_of_another_task_says_nothing_of_tokens(demo):
    drawn = comparison([demo])
    assert differing(drawn) == []
    for form in ("html", "markdown"):
        assert "Tokens that differ" not in render(drawn, form)


def test_what_differs_nowhere_has_its_row_and_no_examples(demo):
    same = {**LINE, "differing": 0, "near_ties": 0, "examples": [], "divergence_nats": None}
    drawn = told(demo, same)
    (file,) = differing(drawn)
    assert file.texts[3:] == ("0 (0.00 %)", "0 (0.00 %)", "0 (0.00 %)", "-")
    assert "text before" not in render(drawn, "html")
    assert "text before" not in render(drawn, "markdown")


def test_the_margin_of_near_ties_is_that_of_the_file(demo):
    text = meaning(told(demo, LINE, {**LINE, "near_tie_margin": 0.05}))
    assert "less than 5 or 10 percentage points apart" in text


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"differing": "many"}, "differing: .*`'many'`"),
        ({"examples": [{**EXAMPLE, "probability": 1.5}]}, "examples.0.probability: .*`1.5`"),
        ({"examples": [{**EXAMPLE, "token": None}]}, "examples.0.token: .*`None`"),
    ],
)
def test_a_file_that_holds_something_else_is_named(demo, change, found):
    with pytest.raises(DataError, match=rf"next_tokens.json cannot be read: 0\.{found}"):
        told(demo, {**LINE, **change})
