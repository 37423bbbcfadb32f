from __future__ import annotations

import ast
import io
import zipfile

from kdeploy.bench.ssh.payload_zip import MAIN, RUNTIMES, boot, runner

# Of a later Python than devices may have; `dataclass` is seen to in `device/__init__.py`.
LATER = {"Self", "TypeAlias", "UTC", "StrEnum", "ParamSpec", "Never", "tomllib", "ExceptionGroup"}


def _sources():
    with zipfile.ZipFile(io.BytesIO(runner())) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def _runs(tree):
    """Yield the nodes that are executed, not those for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        is_guard = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not is_guard:
            yield node
            yield from _runs(node)


def test_all_that_is_imported_travels():
    sources = _sources()
    names = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in sources
    }
    imported = {
        f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in names else node.module
        for text in sources.values()
        for node in _runs(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kdeploy")
        for alias in node.names
    }
    assert imported <= names


def test_an_older_python_understands_it():
    later = {f"kdeploy/{name}" for name in RUNTIMES}  # imported on a later Python alone
    for name, text in {**_sources(), "boot.py": boot().decode()}.items():
        if name in later:
            continue
        nodes = list(_runs(ast.parse(text, feature_version=(3, 9))))
        imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
        assert not {alias.name for node in imports for alias in node.names} & LATER, name
        strict = [n for n in nodes if isinstance(n, ast.keyword) and n.arg == "strict"]
        assert not strict, f"{name}: zip knows no `strict` before 3.10"
        annotated = any(isinstance(n, ast.AnnAssign | ast.FunctionDef) for n in nodes)
        assert not annotated or "annotations" in {a.name for i in imports for a in i.names}, name


def test_the_same_sources_are_the_same_bytes():
    first = runner()
    runner.cache_clear()
    assert runner() == first
    assert MAIN in _sources().values()
