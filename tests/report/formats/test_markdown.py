"""The markdown: all sections, and nothing in a label becomes markup."""

from __future__ import annotations

import re

from kdeploy.measurement import Measurement
from kdeploy.report.run import comparison, render


def test_says_everything(demo):
    text = render(comparison([demo]), "markdown")
    for part in (
        "# demo",
        "10.0x faster",
        "| passed | `latency.p50: 5x` | 10.00x |",
        "| **FAILED** | `energy: <= 1mJ` | not measured |",
        "skipped: killed by signal 9",
        "| compress: int8_ptq | observer=mse, recover={epochs: 5} | 20 (-80.0 %) |",
        "94.00 % (-1.00 pp)",
        "| memory | 16 GiB |",
        f"kdeploy run {demo}/recipe.yaml --out {demo}",
    ):
        assert part in text


def test_every_line_of_a_table_has_the_columns_of_its_header(records_of, write_run):
    records = [*records_of("teacher"), *records_of("a|b `c` *d* _e_ [f](g)\nh")]
    text = render(comparison([write_run(records)]), "markdown")
    table = [line for line in text.splitlines() if line.startswith("|")]
    bars = [len(re.findall(r"(?<!\\)\|", line)) for line in table]
    heads = [i + 1 for i, line in enumerate(table) if line.startswith("| ---")]
    for first, after in zip(heads, [*heads[1:], None], strict=True):
        assert len(set(bars[first - 2 : after and after - 2])) == 1


def test_nothing_in_a_label_or_reason_becomes_markup(write_run):
    record = Measurement(
        artifact="a",
        label="<script>alert(1)</script>",
        metric="latency.p50",
        value=None,
        runtime="onnxruntime_cpu",
        batch_size=1,
        skipped="<img src=x onerror=alert(2)> [x](javascript:alert(3))",
    )
    text = render(comparison([write_run([record])]), "markdown")
    assert "<script" not in text
    assert "<img" not in text
    assert "](" not in text
