"""kdeploy: from an accurate teacher to a small, fast, verified file on a device.

    import kdeploy

    student = kdeploy.distill(net, teacher=big, data=kdeploy.Data(train=loader), epochs=5)
    file = kdeploy.export(kdeploy.compress(student, "int8_ptq"), "onnx", out="model.onnx")
    kdeploy.bench([big, file], baseline=big).report("report.html")

Nothing heavy is imported before it is used. `distill`, `compress`, `export`, `bench`, `report` and
`package` are functions, and at the same time the packages of these names.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from inspect import Signature, signature
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdeploy.api.bench import bench as bench
    from kdeploy.api.compress import compress as compress
    from kdeploy.api.data import Data as Data
    from kdeploy.api.distill import distill as distill
    from kdeploy.api.export import export as export
    from kdeploy.api.models import load as load
    from kdeploy.api.objective import Objective as Objective
    from kdeploy.api.package import package as package
    from kdeploy.api.package import verify as verify
    from kdeploy.api.report import report as report
    from kdeploy.api.run import run as run
    from kdeploy.errors import KdeployError as KdeployError

__version__ = "0.1.0"

__all__ = [
    "Data",
    "KdeployError",
    "Objective",
    "__version__",
    "bench",
    "compress",
    "distill",
    "export",
    "load",
    "package",
    "report",
    "run",
    "verify",
]

_PACKAGES = ("bench", "compress", "distill", "export", "package", "report")
_PLACES: Mapping[str, str] = {
    **{name: f"kdeploy.api.{name}" for name in (*_PACKAGES, "run")},
    "Data": "kdeploy.api.data",
    "KdeployError": "kdeploy.errors",
    "Objective": "kdeploy.api.objective",
    "load": "kdeploy.api.models",
    "verify": "kdeploy.api.package",
}


class _Verb(ModuleType):
    """A package that is also the function of its name."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return _named(self.__name__.rpartition(".")[2])(*arguments, **options)

    @property
    def __signature__(self) -> Signature:
        return signature(_named(self.__name__.rpartition(".")[2]))


def _named(name: str) -> Any:
    return getattr(importlib.import_module(_PLACES[name]), name)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module `kdeploy` has no attribute `{name}`")
    return _named(name)


def __dir__() -> list[str]:
    return __all__


for _name in _PACKAGES:  # a line of text each: they import nothing
    importlib.import_module(f"kdeploy.{_name}").__class__ = _Verb
