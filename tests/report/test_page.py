"""The page in a browser: no error, plots drawn, filters that work, the numbers of the csv."""

from __future__ import annotations

import csv
import io
import json

import pytest

from kdeploy.report.run import comparison, render
from kdeploy.units import format_quantity

ROWS = "[...document.querySelectorAll('[id^=row-]')]"
MARKS = "[...document.querySelectorAll('.mark')]"


@pytest.fixture
def two_machines(records_of, write_run):
    """Return the folders of two machines: three files, two runtimes, two batch sizes."""
    folders = []
    for machine, factor in (("one", 1.0), ("two", 3.0)):
        asked = {"batch_sizes": (1, 8), "runtimes": ("fast", "slow"), "machine": machine}
        files = {"teacher": (1e-3, 0.9), "student": (2e-4, 0.88), "lost": (5e-4, 0.7)}
        records = [
            record
            for label, (p50, accuracy) in files.items()
            for record in records_of(label, p50=p50 * factor, accuracy=accuracy, **asked)
        ]
        facts = {"id": machine, "cpu": f"Processor {machine}"}
        folders.append(write_run(records, name=machine, machine=facts))
    return folders


@pytest.fixture
def drawn(two_machines, tmp_path):
    """Return the page of the two machines."""
    file = tmp_path / "report.html"
    file.write_text(render(comparison(two_machines), "html"))
    return file


def shown(page, what=ROWS):
    return page.run(f"{what}.filter(one => one.getClientRects().length).length")


def choose(page, axis, option):
    page.run(f"""(() => {{
        const select = document.querySelector('select[name="{axis}"]');
        select.value = [...select.options].find(o => o.text === "{option}").value;
        select.dispatchEvent(new Event("change", {{bubbles: true}}));
    }})()""")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [375, 1280])
def test_the_page_is_drawn_without_an_error_and_fits(page, drawn, width, dark):
    page.open(drawn, width=width, dark=dark)
    assert page.problems == []
    assert page.run("document.documentElement.scrollWidth") == width
    assert shown(page, MARKS) == 12
    back = page.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(json.loads(back.replace("rgb(", "[").replace(")", "]"))) < 200) is dark


def test_it_opens_at_the_load_of_the_verdict_and_shows_all_when_asked(page, drawn):
    page.open(drawn)
    assert shown(page) == 12
    page.run("document.querySelector('.filters button').click()")
    assert shown(page) == 24
    assert page.run("document.querySelector('.filters [role=status]').textContent") == (
        "24 of 24 rows shown"
    )


def test_filters_narrow_tables_plot_and_bars_alike(page, drawn):
    page.open(drawn)
    choose(page, "runtime", "fast")
    choose(page, "machine", "two")
    assert (shown(page), shown(page, MARKS)) == (3, 3)
    assert shown(page, "[...document.querySelectorAll('.bars li')]") == 3
    texts = page.run(f"{ROWS}.filter(r => r.getClientRects().length).map(r => r.innerText)")
    assert [text.split()[0] for text in texts] == ["teacher", "student", "lost"]
    assert "3 ms" in texts[0]
    choose(page, "batch size", "8")
    assert "24 ms" in page.run(f"{ROWS}.find(r => r.getClientRects().length).innerText")


def test_an_address_remembers_the_filters(page, drawn):
    page.open(drawn)
    choose(page, "artefact", "student")
    address = page.run("location.href")
    page.open(drawn)
    page.run(f"location.href = {json.dumps(address)}")
    page.run("new Promise(done => setTimeout(done, 50))")
    assert shown(page) == 4


def test_the_front_is_of_what_is_shown(page, drawn):
    page.open(drawn)
    best = "[...document.querySelectorAll('.on-front')].map(m => m.dataset.text.split(' ')[0])"
    assert sorted(page.run(best)) == ["student", "teacher"]
    assert page.run("document.querySelectorAll('.front line').length") == 4
    choose(page, "artefact", "lost")
    assert set(page.run(best)) == {"lost"}


def test_a_bar_is_as_long_as_its_latency_beside_the_longest(page, drawn):
    page.open(drawn)
    bars = ".panel:not([hidden]) .bars li"
    widths = page.run(
        f"[...document.querySelectorAll('{bars}')].map(li => "
        "[+getComputedStyle(li).getPropertyValue('--v'),"
        " li.querySelector('.bar').getBoundingClientRect().width,"
        " li.querySelector('.track').getBoundingClientRect().width])"
    )
    longest = 1.01 * max(value for value, _, _ in widths)  # to the end of its interval
    for value, width, track in widths:
        assert width == pytest.approx(track * value / longest, abs=1.0)


def test_a_mark_says_what_it_is_when_focused(page, drawn):
    page.open(drawn)
    page.run(f"{MARKS}[0].focus()")
    tip = "document.querySelector('.tip')"
    assert "p50" in page.run(f"{tip}.textContent")
    page.run("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}))")
    assert page.run(f"{tip}.hidden") is True


def test_the_numbers_of_the_page_are_those_of_the_csv(page, drawn, two_machines):
    page.open(drawn)
    texts = page.run(
        "[...document.querySelectorAll('.numbers tbody tr')]"
        ".map(tr => [...tr.cells].map(td => td.textContent))"
    )
    lines = csv.DictReader(io.StringIO(render(comparison(two_machines), "csv")))
    wanted = {
        (line["label"], line["metric"], format_quantity(float(line["value"]), line["unit"]))
        for line in lines
    }
    assert {(text[0], text[2], text[3]) for text in texts} == wanted
    per_row = len(["size", "parameters", "accuracy.top1", "latency.p50", "latency.p99"])
    assert len(texts) == 24 * per_row


def test_every_control_has_a_name_and_every_table_a_head(page, drawn):
    page.open(drawn)
    assert page.run("[...document.querySelectorAll('select')].every(s => s.labels.length)")
    assert page.run("[...document.querySelectorAll('.mark')].every(m => m.ariaLabel)")
    assert page.run("[...document.querySelectorAll('table')].every(t => t.tHead)")
    assert page.run("[...document.querySelectorAll('.scroll')].every(s => s.tabIndex === 0)")
