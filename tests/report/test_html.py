"""The page: escaped, self-contained, small, and whole in a browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from kdeploy.measurement import Measurement
from kdeploy.report.run import comparison, render

VOID = {"meta", "link", "br", "line", "circle"}


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
def test_a_filter_only_for_several_batch_sizes(records_of, write_run, several):
    batch_sizes = (1, 8) if several else (1,)
    folder = write_run(records_of("teacher", batch_sizes=batch_sizes))
    assert bool(having(parsed(page(folder)), "filter")) is several


def test_a_browser_draws_the_plot_and_reports_no_error(demo, chromium, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(page(demo))
    dom, log = chromium(file)
    marks = having(parsed_loosely(dom), "mark")
    assert log == []
    assert len(marks) == 5
    assert not any("hidden" in mark for mark in marks)


def test_a_browser_shows_the_headline_s_batch_size_first(records_of, write_run, chromium, tmp_path):
    both = {"batch_sizes": (1, 8)}
    records = [*records_of("teacher", **both), *records_of("student", p50=1e-4, **both)]
    file = tmp_path / "report.html"
    file.write_text(page(write_run(records)))
    dom, log = chromium(file)
    marks = having(parsed_loosely(dom), "mark")
    assert log == []
    assert [("batch 8" in m["aria-label"], "hidden" in m) for m in marks] == [
        ("batch 8" in m["aria-label"],) * 2 for m in marks
    ]
    assert sum("hidden" in mark for mark in marks) == 2


def parsed_loosely(dom):
    tags = Tags()
    tags.handle_endtag = lambda tag: None
    tags.feed(dom)
    return tags.seen
