"""The page: escaped, self-contained, small, and whole in a browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from kdeploy.gate import parse_gates
from kdeploy.measurement import Measurement
from kdeploy.report.run import comparison, render

VOID = {"meta", "link", "br", "wbr", "line", "circle"}


class Tags(HTMLParser):
    """Counts tags and checks that each is closed."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.seen = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(text):
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    return tags.seen


def page(folder):
    return render(comparison([folder]), "html")


def having(seen, name):
    return [attrs for tag, attrs in seen if name in attrs.get("class", "").split()]


def test_says_everything(demo):
    text = page(demo)
    for part in (
        "10.0x faster",
        "9.80x to 10.2x",
        "20.0x smaller",
        "2 of 4 gates passed. Packaged: int8. Why: it is the smallest.",
        "observer=mse, recover={epochs: 5}",
        "94.00 % (-1.00 pp)",
        "Test CPU &lt;4 cores&gt; (0123456789ab)",
        "killed by signal 9 &lt;after 600 s&gt;",
        f"kdeploy run {demo}/recipe.yaml --out {demo}",
    ):
        assert part in text


def test_one_mark_a_drawn_row_each_with_a_name_and_a_row_to_go_to(demo):
    seen = parsed(page(demo))
    marks = having(seen, "mark")
    ids = {attrs.get("id") for _, attrs in seen}
    assert len(marks) == 5
    assert all(mark["aria-label"] and mark["href"].removeprefix("#") in ids for mark in marks)


def test_rows_have_the_numbers_that_marks_link_to(demo):
    rows = comparison([demo]).rows
    text = page(demo)
    places = [text.index(f'id="row-{i}"') for i in range(len(rows))]
    assert places == sorted(places)
    for index, row in enumerate(rows):
        assert f">{row.label}<" in text[places[index] : places[index] + 300]


def test_nothing_in_a_label_or_reason_becomes_markup(records_of, write_run):
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
    records = [*records_of("teacher"), *records_of(evil, machine=evil)]
    records.append(
        Measurement(
            artifact="a", label=evil, metric="latency.p50", value=None, runtime=evil, skipped=evil
        )
    )
    summary = {"gates": [{"gate": evil, "value": None, "passed": False, "reason": evil}]}
    summary |= {"chosen_because": evil, "packaged": evil}
    folder = write_run(records, summary=summary, machine={"id": "m", "cpu": evil}, recipe="a: 1")
    seen = parsed(page(folder))
    assert sum(tag == "script" for tag, _ in seen) == 1
    assert not any(tag == "img" for tag, _ in seen)
    assert not any("onerror" in attrs for _, attrs in seen)


def test_asks_for_nothing_from_the_network(demo):
    text = page(demo)
    assert not re.search(r"(src|href)=.?(https?:)?//", text)
    assert "url(" not in text
    assert "default-src 'none'" in text


def test_is_small(records_of, write_run):
    cells = {"runtimes": ("a", "b", "c", "d"), "batch_sizes": (1, 2, 4, 8)}
    records = [r for i in range(10) for r in records_of(f"model-{i}", **cells)]
    text = page(write_run(records))
    assert len(having(parsed(text), "mark")) == 160
    assert len(text.encode()) < 1_000_000


def test_a_dotted_value_carries_a_doubt_of_its_own(records_of, write_run):
    records = records_of("teacher", flags=("virtual_machine",))
    records += records_of("student", flags=("virtual_machine",), n=20)
    doubtful = having(parsed(page(write_run(records))), "doubtful")
    assert [attrs["title"] for attrs in doubtful] == ["few_samples"]


@pytest.mark.parametrize("several", [False, True])
def test_a_filter_only_for_what_differs(records_of, write_run, several):
    batch_sizes = (1, 8) if several else (1,)
    folder = write_run(records_of("teacher", batch_sizes=batch_sizes))
    names = [attrs["name"] for tag, attrs in parsed(page(folder)) if tag == "select"]
    assert names == (["batch size"] if several else [])


def test_an_int8_file_without_integer_kernels_is_said_at_the_top(records_of, write_run):
    text = page(write_run(records_of("int8", flags=("no_op_int8",))))
    alarm = "INT8 file, nothing ran as INT8: int8 in onnxruntime_cpu."
    assert text.index(alarm) < text.index("<h2>")


def test_many_rows_are_shortened_and_the_page_says_so(records_of, write_run):
    places = {"runtimes": ("one", "two"), "batch_sizes": range(1, 42)}
    records = [r for i in range(5) for r in records_of(f"model-{i}", **places)]
    text = page(write_run(records))
    assert "400 of 410 rows" in text
    assert sum(attrs.get("id", "").startswith("row-") for _, attrs in parsed(text)) == 400


def test_what_the_report_was_asked_stands_in_the_page(demo, write_run, records_of):
    old = write_run(records_of("int8", p50=5e-5, profile="cpu"), name="old")
    drawn = comparison([demo], gates=parse_gates(["size: <= 10B"]), against=old)
    text = render(drawn, "html")
    assert "Gates asked for: 0 of 1 checks passed." in text
    assert "none (nearest: int8)" in text
    assert "+100.0 % (times better: 0.49x to 0.51x)" in text
