"""A fingerprint as people read it."""

from __future__ import annotations

from kdeploy.report.machine_facts import machine_facts, machine_name, short_names


def test_shows_known_facts_with_units_and_leaves_out_the_rest():
    facts = {"id": "x", "cpu": "A", "ram_bytes": 2**30, "gpu": None, "is_virtual": False}
    facts |= {"versions": {"numpy": "2.0"}, "instruction_sets": ["avx2", "amx"], "load": 0.256}
    assert machine_facts(facts) == [
        ["processor", "A"],
        ["memory", "1 GiB"],
        ["virtual machine", "no"],
        ["libraries", "numpy 2.0"],
        ["instruction sets", "avx2, amx"],
        ["load (1 min)", "0.26"],
    ]


def test_names_processor_accelerator_and_id():
    assert machine_name("1f", {"cpu": "A", "gpu": "B"}) == "A + B (1f)"
    assert machine_name("1f", {}) == "1f"
    assert machine_name("", {}) == "unnamed machine"


def test_an_emulated_processor_is_named_so_wherever_a_machine_is_named():
    facts = {"cpu": "ARMv8", "emulated_on": "x86"}
    assert machine_name("1f", facts) == "ARMv8, emulated (1f)"
    assert short_names({"1f": facts}) == {"1f": "ARMv8, emulated"}
    assert ["emulated on", "x86"] in machine_facts(facts)


def test_reads_the_fingerprint_of_this_machine():
    from kdeploy.machine import fingerprint

    names = [name for name, _ in machine_facts(fingerprint().to_dict())]
    assert {"processor", "cores allowed", "memory", "libraries"} <= set(names)
