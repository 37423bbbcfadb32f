"""Which names of TensorRT kdeploy uses, read from its source, so that no list can go stale.

`trt.X` is the module's, `trt.X.Y` the class's. Any other name counts for the class that a variable,
parameter or attribute is annotated with (`tensorrt.X`), or that it was just made of (`trt.X(...)`).
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

SPEAKS = re.compile(r"^    import tensorrt$|\btrt\.", re.MULTILINE)
ROOT = Path(__file__).parents[3] / "kdeploy"


def sources():
    """Return the files that speak of TensorRT's module."""
    return [p for p in sorted(ROOT.rglob("*.py")) if SPEAKS.search(p.read_text())]


def used_names(path):
    """Return (class, name) pairs; the class is "" for names of the module."""
    collector = Collector(attributes_of_self(path))
    collector.visit(ast.parse(path.read_text()))
    return collector.found


def attributes_of_self(path):
    """Return the classes of `self.x: tensorrt.X` and of `x: tensorrt.X` in a class's body."""
    tree = ast.parse(path.read_text())
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute):
            known[node.target.attr] = annotated(node.annotation)
        if isinstance(node, ast.ClassDef):
            for inside in node.body:
                if isinstance(inside, ast.AnnAssign) and isinstance(inside.target, ast.Name):
                    known[inside.target.id] = annotated(inside.annotation)
    return {f"self.{name}": kind for name, kind in known.items() if kind}


def annotated(annotation):
    """Return X where an annotation has `tensorrt.X` in it, also in a list or with None."""
    found = [
        node.attr
        for node in ast.walk(annotation)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "tensorrt"
    ]
    return found[0] if found else None


class Collector(ast.NodeVisitor):
    """Walks a file with the classes of the names that are known at each place."""

    def __init__(self, known):
        self.known = dict(known)
        self.found = set()

    def visit_FunctionDef(self, node):
        outer = dict(self.known)
        for argument in [*node.args.args, *node.args.kwonlyargs]:
            if argument.annotation is not None:
                self.know(argument, annotated(argument.annotation), name=argument.arg)
        self.generic_visit(node)
        self.known = outer

    def visit_AnnAssign(self, node):
        self.know(node.target, annotated(node.annotation))
        self.generic_visit(node)

    def visit_Assign(self, node):
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = zip(target.elts, node.value.elts, strict=True)
            for left, right in pairs:
                self.know(left, self.class_of(right))
        self.generic_visit(node)

    def visit_For(self, node):
        self.know(node.target, self.class_of(node.iter))
        self.generic_visit(node)

    def visit_ListComp(self, node):
        self.comprehension(node)

    def visit_SetComp(self, node):
        self.comprehension(node)

    def visit_DictComp(self, node):
        self.comprehension(node)

    def visit_GeneratorExp(self, node):
        self.comprehension(node)

    def comprehension(self, node):
        outer = dict(self.known)
        for generator in node.generators:
            self.know(generator.target, self.class_of(generator.iter))
        self.generic_visit(node)
        self.known = outer

    def visit_Attribute(self, node):
        base = ast.unparse(node.value)
        if base == "trt":
            self.found.add(("", node.attr))
        elif base.startswith("trt."):
            self.found.add((base.removeprefix("trt."), node.attr))
        elif base in self.known:
            self.found.add((self.known[base], node.attr))
        self.generic_visit(node)

    def know(self, target, kind, *, name=None):
        name = name or ast.unparse(target)
        if not name.startswith("self."):  # an attribute keeps the class that it is declared with
            self.known.pop(name, None)
        if kind:
            self.known[name] = kind

    def class_of(self, value):
        """Return the class of an expression: a known name, or a call of one of the module's."""
        if isinstance(value, ast.Call):
            called = ast.unparse(value.func)
            return called.removeprefix("trt.") if called.startswith("trt.") else None
        return self.known.get(ast.unparse(value))
