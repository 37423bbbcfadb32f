"""What suites for GPUs do around their measuring: arguments, dry runs, where results go."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.shared.dry_run import on_the_processor
from benchmarks.shared.gpu_turns import CALLS, ROUNDS
from benchmarks.shared.running import parser_of, results_folder
from kdeploy.machine import Machine
from kdeploy.system.nvidia_driver import without_gpu


def gpu_parser_of(doc: str) -> argparse.ArgumentParser:
    """Return a parser with what every suite for GPUs takes."""
    parser = parser_of(doc)
    parser.add_argument("--out", type=Path, help="folder for the result")
    parser.add_argument("--dry-run", action="store_true", help="with exact kernels, no times")
    return parser


@contextmanager
def gpu_or_dry_run(arguments: argparse.Namespace) -> Iterator[None]:
    """Let what is inside compute on the GPU, or dry; without a GPU say so and end the program."""
    if arguments.dry_run:
        with on_the_processor():
            yield
        print("dry run: exact references on the processor; no time above means anything")
        return
    if reason := without_gpu():
        print(f"skipped: {reason}")
        sys.exit(0)
    yield


def folder_of(arguments: argparse.Namespace, machine: Machine) -> Path:
    """Return where the results go: among those of this machine's GPU, if nothing else is said."""
    folder: Path = arguments.out or results_folder(machine.gpu or machine.cpu)
    return folder


def said(suite: str, machine: Machine) -> str:
    """Return the sentences of a table that say on what and how it was measured."""
    return (
        f"`python benchmarks/suites/{suite}.py`; torch {machine.versions.get('torch')}, driver "
        f"{machine.driver}. Medians of {ROUNDS * CALLS} calls in turns, 5th to 95th percentile "
        "behind."
    )
