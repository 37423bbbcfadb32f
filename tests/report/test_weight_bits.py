"""What few bits cost each layer: sorted, marked, on the page once."""

from __future__ import annotations

from kdeploy.report.run import comparison, render
from kdeploy.report.weight_bits import weight_bits

ROWS = [
    {"layer": "layers.0.up", "bits": 4, "output_error": "0.00142", "why": ""},
    {
        **{"layer": "layers.0.down", "bits": 8, "output_error": "", "why": "`max_drop`"},
        "error_at_4_bits": "0.0301",
    },
    {"layer": "layers.1.up", "bits": 4, "output_error": "0.0025", "why": ""},
    {"layer": "embed_tokens", "bits": 8, "output_error": "", "why": ""},
    {"layer": "lm_head<b>", "bits": 32, "output_error": "", "why": "`ignore`"},
]
TRIALS = [{"8-bit_layers": 0, "accuracy": 0.41, "drop": 0.02}]


def told(demo, write_lineage, **report):
    step = {"id": "id-int8", "label": "int8", "stage": "compress", "technique": "int4_weights"}
    step |= {"parameters": {"bits": 4}, "facts": {"report": {"int4_weights": ROWS, **report}}}
    before = {"id": "id-teacher", "label": "teacher", "stage": "train", "technique": "fit"}
    manifest = demo / "artifacts/id-int8"
    for file in manifest.iterdir():
        file.unlink()
    manifest.rmdir()
    write_lineage(demo, [before, step])
    return comparison([demo])


def test_the_most_sensitive_layer_comes_first_and_what_nobody_measured_last(demo, write_lineage):
    (step,) = weight_bits(told(demo, write_lineage))
    assert [layer.name for layer in step.layers] == [
        *("layers.0.down", "layers.1.up", "layers.0.up", "lm_head<b>", "embed_tokens"),
    ]
    assert step.largest == 0.0301
    assert step.summary == "5 layers: 2 at 4 bits, 2 at 8 bits, 1 float"


def test_layers_of_more_bits_are_marked_with_their_reason(demo, write_lineage):
    (step,) = weight_bits(told(demo, write_lineage))
    kept = {layer.name: (layer.text, layer.note) for layer in step.layers if layer.is_kept}
    assert kept == {
        "layers.0.down": ("3.01 %", "8 bits: `max_drop`; cost at 4 bits"),
        "lm_head<b>": ("not measured", "float: `ignore`"),
        "embed_tokens": ("not measured", "8 bits"),
    }


def test_the_page_has_the_bars_and_the_trials_once(demo, write_lineage):
    page = render(told(demo, write_lineage, weight_bits=TRIALS), "html")
    assert "What few bits cost each layer" in page
    assert page.count("layers.0.down") == 1
    assert "lm_<wbr>head&lt;b&gt;" in page
    assert "Tried on the validation part" in page
    assert page.count(">8-bit layers<") == 1


def test_without_trials_there_is_no_heading_of_them(demo, write_lineage):
    (step,) = weight_bits(told(demo, write_lineage))
    assert step.trials is None
    assert "Tried on the validation" not in render(told(demo, write_lineage), "html")


def test_the_markdown_has_both_tables_in_the_lineage(demo, write_lineage):
    text = render(told(demo, write_lineage, weight_bits=TRIALS), "markdown")
    assert "**int4 weights**" in text
    assert "**weight bits**" in text
    assert "| 0.0301 |" in text


def test_a_run_without_few_bits_has_no_such_section(demo):
    assert weight_bits(comparison([demo])) == []
    assert "few bits" not in render(comparison([demo]), "html")


def test_what_is_no_number_is_not_measured(demo, write_lineage):
    (step,) = weight_bits(
        told(demo, write_lineage, int4_weights=[{"layer": "a", "output_error": "x"}])
    )
    assert (step.layers[0].error, step.layers[0].bits) == (None, 4)
