"""A page a device holds what that device measured, and nothing of the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdeploy.gate import parse_gates
from kdeploy.report.device_pages import device_pages, of_machine, with_pages
from kdeploy.report.run import comparison, render


@pytest.fixture
def two(records_of, write_run):
    """Two devices, of which the second is slower and breaks the gate."""
    folders = [
        write_run(
            [
                *records_of("teacher", machine=machine, p50=10 * p50),
                *records_of("student", machine=machine, p50=p50),
            ],
            name=name,
            machine={"id": machine, "cpu": f"Chip of {name}"},
        )
        for name, machine, p50 in (("lab", "aaaa", 1e-4), ("board", "bbbb", 2e-3))
    ]
    return comparison(folders, gates=parse_gates(["latency.p50: <= 1ms"]))


def test_each_device_has_a_file_beside_the_page_of_all(two):
    pages = device_pages(two, Path("out") / "all.html")
    assert pages == {
        "aaaa": Path("out") / "all-chip-of-lab.html",
        "bbbb": Path("out") / "all-chip-of-board.html",
    }


def test_devices_of_one_name_have_files_of_their_own(records_of, write_run):
    folders = [
        write_run(records_of("net", machine=m), name=m, machine={"id": m, "cpu": cpu})
        for m, cpu in (("aaaa", "Chip A"), ("bbbb", "Chip-A"))
    ]
    assert len(set(device_pages(comparison(folders), Path("all.md")).values())) == 2


def test_one_device_needs_no_page_of_its_own(records_of, write_run):
    assert device_pages(comparison([write_run(records_of("net"))]), Path("all.html")) == {}


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_a_page_names_its_device_alone_and_judges_it_alone(two, form):
    lab, board = (of_machine(two, machine) for machine in ("aaaa", "bbbb"))
    assert (lab.passed, board.passed, two.passed) == (True, False, False)
    for own, other, page in (("lab", "board", lab), ("board", "lab", board)):
        text = render(page, form)
        assert f"Chip of {own}" in text
        assert f"Chip of {other}" not in text
    assert {record.machine for record in lab.records} == {"aaaa"}
    assert lab.headline in lab.rows
    assert board.headline in board.rows


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_the_page_of_all_leads_to_the_others(two, form):
    pages = device_pages(two, Path("all.html"))
    text = render(with_pages(two, pages), form)
    assert all(page.name in text for page in pages.values())
    assert "all-chip" not in render(two, form)


def test_each_format_draws_it(two):
    for form in ("csv", "json"):
        assert "student" in render(of_machine(two, "bbbb"), form)
