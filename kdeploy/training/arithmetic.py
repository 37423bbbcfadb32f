"""How a training computes: threads, precision, memory layout, and which layers do it otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """What is chosen for speed, and where it is not; layers are named as `Layers` names them."""

    threads: int
    precision: Literal["fp32", "bf16"]
    channels_last: bool
    float32_layers: tuple[str, ...] = ()
    """They compute in float32 under the autocast of the others."""
    contiguous_layers: tuple[str, ...] = ()
    """They take images and weights in the plain layout."""
    because: tuple[str, ...] = ()
    """A line for each setting that is not the fastest."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that say something, as JSON has them."""
        fields = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {k: v for k, v in fields.items() if v != []}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Arithmetic:
        """Return the value that `to_dict` wrote."""
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()
        }
        return cls(**values)

    @property
    def is_plain(self) -> bool:
        """Whether nothing but threads is left that was chosen for speed."""
        return self.precision == "fp32" and not self.channels_last

    def plain(self) -> Arithmetic:
        """Return what every machine computes with."""
        return replace(
            self,
            precision="fp32",
            channels_last=False,
            float32_layers=(),
            contiguous_layers=(),
        )


class Layers:
    """The modules of a training by the name that people see: the student's own, then the rest."""

    def __init__(self, objective: nn.Module, asked: Sequence[nn.Module] = ()) -> None:
        student = getattr(objective, "student", None)
        roots = [("", student)] if isinstance(student, nn.Module) else []
        roots += [(f"teacher[{place}]", model) for place, model in enumerate(asked)]
        roots += [("objective", objective)]
        self._names: dict[int, str] = {}
        self._modules: dict[str, nn.Module] = {}
        for root, model in roots:
            for name, module in model.named_modules():
                full = ".".join(filter(None, (root, name)))
                # The student is found first: a module that the objective holds too keeps the
                # student's name.
                if id(module) not in self._names:
                    self._names[id(module)] = full
                    self._modules[full] = module

    def name_of(self, module: nn.Module) -> str | None:
        """Return the name; the student's is empty, None is none of them."""
        return self._names.get(id(module))

    def is_whole(self, name: str | None) -> bool:
        """Whether the name is of a whole model: what holds for it holds for the training."""
        return name is None or name in ("", "objective") or name not in self._modules

    def __getitem__(self, name: str) -> nn.Module:
        return self._modules[name]


@contextmanager
def applied(arithmetic: Arithmetic, layers: Layers, device: str) -> Iterator[None]:
    """Let the named layers compute in their own way inside the `with`."""
    with ExitStack() as stack:
        for name in arithmetic.float32_layers:
            for handle in _in_float32(layers[name], device):
                stack.callback(handle.remove)
        for name in arithmetic.contiguous_layers:
            module = layers[name]
            module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            stack.callback(_contiguous_inputs(module).remove)
        yield


def _in_float32(module: nn.Module, device: str) -> Iterator[RemovableHandle]:
    """Switch autocast off around the module's forward, which gets its inputs in float32."""
    entered: list[torch.autocast] = []

    def before(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        del module
        cast = torch.autocast(device, enabled=False)
        # No `with`: it is left in another hook, after the module's forward.
        cast.__enter__()  # type: ignore[no-untyped-call]
        entered.append(cast)
        return _mapped(_as_float32, args, kwargs)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        del module, args, output
        entered.pop().__exit__(None, None, None)

    yield module.register_forward_pre_hook(before, with_kwargs=True)
    # Also after an error: nothing else may compute without autocast then.
    yield module.register_forward_hook(after, always_call=True)


def _contiguous_inputs(module: nn.Module) -> RemovableHandle:
    def before(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        del module
        return _mapped(_as_contiguous, args, kwargs)

    return module.register_forward_pre_hook(before, with_kwargs=True)


def _mapped(
    change: Callable[[Any], Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    args, kwargs = pytree.tree_map(change, (args, kwargs))
    return args, kwargs


def _as_float32(value: Any) -> Any:
    is_low = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if is_low else value


def _as_contiguous(value: Any) -> Any:
    return value.contiguous() if isinstance(value, Tensor) else value
