"""Bundles that somebody changed, read by the C++ runner with sanitizers that find wrong memory."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from kdeploy.errors import ArtifactCorrupt
from tests.fuzz import mutate_bundles
from tests.fuzz.mutate_bundles import Bundle
from tests.package.runner.cpp import built

missing = built.missing
program = lru_cache(built.program)


def mutants(seed: int, count: int) -> Iterator[tuple[str, Bundle]]:
    """Yield unpacked bundles by what was done to them."""
    program()  # before a child is forked for every mutant, with a folder of its own
    chance = random.Random(seed)
    ways = (
        mutate_bundles._bytes,
        mutate_bundles._files,
        mutate_bundles._signed,
        mutate_bundles._signed,
        mutate_bundles._golden,
        mutate_bundles._model,
    )
    for number in range(count):
        way = chance.choice(ways)
        about, found = way(chance)
        # Whether a runner is kdeploy's own, and a file of the opset that the manifest says, is for
        # `kdeploy verify` to say, not for a runner.
        is_known = not (about.startswith("runner/") and about.endswith("signed"))
        is_known &= about != "manifest.json model.opset"
        as_folder = Bundle(
            content=found.content,
            pipes=found.pipes,
            must_be_refused=found.must_be_refused and is_known,
        )
        yield f"{way.__name__[1:]} {seed}.{number}: {about}", as_folder


def read(bundle: Bundle) -> None:
    """Ask the runner for its self-test."""
    path = bundle.write(Path.cwd())
    command = [program(), "--self-test", path, "--json", "--seconds", "0", "--threads", "1"]
    done = subprocess.run(
        command, capture_output=True, check=False, env={**os.environ, **built.ENVIRONMENT}
    )
    told = done.stderr.decode(errors="replace")
    if "Sanitizer" in told or "runtime error:" in told or done.returncode not in (0, 1):
        raise RuntimeError(f"code {done.returncode}: {told[-3000:]}")
    checks = json.loads(done.stdout)["checks"]
    if done.returncode:
        reason = next(c["reason"] for c in checks if not c["passed"])
        raise ArtifactCorrupt(f"it does not pass: {reason}", hint="as it should be")


read.has_own_limits = True  # type: ignore[attr-defined]  # a mark on a function
