"""Kinds of bundle by the format of the file that they ship, and the runner of each."""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path
from typing import cast

from kdeploy import registry
from kdeploy.errors import ModelError
from kdeploy.package.contract import BundleKind
from kdeploy.registry import Technique

RUNNERS = Path(__file__).parent / "runner"
RUNNER = RUNNERS / "python"
DECODING = registry.ROOT / "tasks" / "decoding"
SHARED = (
    "run.py",
    "texts.py",
    "rules.py",
    "schema.py",
    "reading.py",
    "limits.py",
    "given.py",
    "golden.py",
    "parts.py",
)
FOLDER = "runner/python"
NATIVE = (".cpp", ".hpp", ".txt")
SESSION = '''\
"""How the model of this bundle is opened: the one part of the runner that knows its library."""

from __future__ import annotations

from typing import Any

LIBRARIES = ({libraries},)


{source}'''


def formats() -> frozenset[str]:
    """Return the formats of which there is a kind of bundle."""
    known = registry.techniques("bundle").values()
    return frozenset(form for technique in known for form in technique.facts["formats"])


def technique_of(form: str) -> Technique:
    """Return the kind that ships files of a format.

    Raises:
        ModelError: there is none.
    """
    for technique in registry.techniques("bundle").values():
        if form in technique.facts["formats"]:
            return technique
    raise ModelError(
        f"no kind of bundle ships a file of format `{form[:100]}`",
        hint=f"bundles ship {', '.join(f'`{name}`' for name in sorted(formats()))}",
    )


def kind_of(form: str) -> BundleKind:
    """Return the class of the kind that ships files of a format; raises as `technique_of`."""
    return cast("BundleKind", technique_of(form).load())


def runner_files(form: str, task: str = "") -> dict[str, bytes]:
    """Return the runner of a bundle, its files by their place in it.

    Args:
        form: Of the file that is shipped.
        task: Whose outputs are decoded on the device; "" for classes.
    """
    shared = {f"{FOLDER}/{name}": (RUNNER / name).read_bytes() for name in SHARED}
    decoding = DECODING / f"{task}.py"
    if task and task.isidentifier() and decoding.is_file():
        shared[f"{FOLDER}/decode.py"] = decoding.read_bytes()
    technique = technique_of(form)
    return {
        **shared,
        f"{FOLDER}/session.py": _session(technique).encode(),
        **native_files(technique.facts.get("native", "")),
    }


def native_files(name: str) -> dict[str, bytes]:
    """Return the sources of a runner that needs no Python, by their place; of "" there are none."""
    sources = sorted((RUNNERS / name).glob("*")) if name else []
    return {f"runner/{name}/{p.name}": p.read_bytes() for p in sources if p.suffix in NATIVE}


def write_runner(folder: Path, form: str, task: str = "") -> Path:
    """Write the runner of a bundle, see `runner_files`; return what is executed."""
    for name, content in runner_files(form, task).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder / FOLDER / "run.py"


def _session(technique: Technique) -> str:
    source = textwrap.dedent(inspect.getsource(technique.load().open_model))
    libraries = ", ".join(f'"{name}"' for name in technique.facts["libraries"])
    return SESSION.format(libraries=libraries, source=source.removeprefix("@staticmethod\n"))
