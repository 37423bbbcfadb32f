"""The catalogue: every technique with its parameters, as one markdown page."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from itertools import groupby

from kdeploy.registry import FOLDERS, Parameter, Technique

HEAD = """\
# Catalogue

All techniques, read from their files: `make docs` writes this page anew, `make check` fails when
it is stale, and `kdeploy list` prints the same in a terminal. Names and parameters are those of
recipes and of the command line."""

TITLES = {
    "loss": "Losses: `distill.losses` of a recipe",
    "scheme": "Schemes: `distill.scheme` of a recipe",
    "compressor": "Compressors: `compress` of a recipe, `kdeploy compress NAME`",
    "exporter": "Exporters: `export` of a recipe, `kdeploy export NAME`",
    "runtime": "Runtimes: `bench.runtimes` of a recipe, `kdeploy bench --runtime NAME`",
    "metric": "Metrics: what `bench` computes from predictions",
    "dataset": "Datasets: `data` of a recipe, `--data NAME`",
    "task": "Tasks: what targets and outputs mean",
    "dynamic": "Dynamic models: `dynamic` of a recipe, `kdeploy dynamic NAME`",
    "bundle": "Bundles: what `kdeploy package` ships, by the kind of file",
    "emitter": "Emitters: `package.emit` of a recipe, `kdeploy package --emit NAME`",
    "report_format": "Report formats: `kdeploy report --format NAME`",
    "wrapper": "Wrappers: how a stored model gets its quantizers back",
}
SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "multiple_of": "a multiple of"}
FORMS = {"AuxiliaryModel": "`{build, args, weights}`"}
# Facts for the machinery only: they tell a reader nothing.
HIDDEN = {"paper", "ensures", "student_layers", "further_items", "reads_labels"}


def catalogue(techniques: Iterable[Technique]) -> str:
    """Return the page: a section a kind in the registry's order, an entry a technique."""
    order = list(FOLDERS)
    ranked = sorted(techniques, key=lambda t: (order.index(t.kind), t.name))
    sections = [HEAD]
    for kind, group in groupby(ranked, key=lambda t: t.kind):
        sections += [f"## {TITLES[kind]}", *(_entry(t) for t in group)]
    return "\n\n".join(sections)


def _entry(technique: Technique) -> str:
    parts = [f"### {technique.name}", technique.doc.strip()]
    facts = _facts(technique)
    if facts:
        parts.append(" · ".join(facts))
    if technique.parameters:
        parts.append(_table(technique.parameters))
    return "\n\n".join(parts)


def _facts(technique: Technique) -> list[str]:
    shown = {k: v for k, v in technique.facts.items() if k not in HIDDEN and v not in (None, "")}
    facts = [f"{k}: `{_value(v)}`" for k, v in sorted(shown.items())]
    paper = technique.facts.get("paper")
    return [f"Source: {_link(paper)}", *facts] if paper else facts


def _link(paper: str) -> str:
    if paper.lower().startswith("arxiv:"):
        return f"[{paper}](https://arxiv.org/abs/{paper[len('arxiv:') :]})"
    return f"<{paper}>" if paper.startswith("http") else paper


def _value(value: object) -> str:
    if isinstance(value, set | frozenset | tuple | list):
        return ", ".join(sorted(map(str, value)))
    return str(value)


def _table(parameters: Sequence[Parameter]) -> str:
    rows = ["| parameter | type | default | meaning |", "|---|---|---|---|"]
    for p in parameters:
        default = "required" if p.is_required else f"`{p.default!r}`"
        kind = _type(ast.parse(p.annotation, mode="eval").body)
        rows.append(f"| `{p.name}` | {_cell(kind)} | {_cell(default)} | {_cell(p.doc)} |")
    return "\n".join(rows)


def _type(node: ast.expr) -> str:
    """Return an annotation as people read it: `Annotated[int, Field(gt=0)]` is "int > 0"."""
    if isinstance(node, ast.Name):
        return FORMS.get(node.id, node.id)
    if isinstance(node, ast.BinOp):
        return f"{_type(node.left)} or {_type(node.right)}"
    if not isinstance(node, ast.Subscript):
        return ast.unparse(node)
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    name = ast.unparse(node.value)
    if name == "Literal":
        return " or ".join(f"`{ast.literal_eval(choice)}`" for choice in inner)
    if name == "tuple" and ast.unparse(inner[-1]) == "...":
        return f"list of {_type(inner[0])}"
    if name == "Annotated":
        calls = [field for field in inner[1:] if isinstance(field, ast.Call)]
        bounds = [_bound(keyword) for call in calls for keyword in call.keywords]
        return " ".join([_type(inner[0]), ", ".join(b for b in bounds if b)]).strip()
    return ast.unparse(node)


def _bound(keyword: ast.keyword) -> str:
    sign = SIGNS.get(str(keyword.arg))
    return f"{sign} {ast.unparse(keyword.value)}" if sign else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
