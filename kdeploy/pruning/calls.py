"""Record what a model calls while it runs: each torch function, its inputs, and in which module.

Autograd's graph forgets constants and the Python code around an operation; this does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kdeploy.torch_module.hooks import hooked


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Call:
    """One call of a torch function; it keeps its tensors, so that their identities stay."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any
    module: str
    """The innermost module in whose forward it happened."""

    @property
    def name(self) -> str:
        return str(getattr(self.function, "__name__", self.function))

    @property
    def tensors(self) -> list[Tensor]:
        """Return the tensors among the arguments, also those in lists."""
        return list(tensors_in([*self.args, *self.kwargs.values()]))

    @property
    def results(self) -> list[Tensor]:
        return list(tensors_in(self.result))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a value, looking into lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


@contextmanager
def recording(model: nn.Module) -> Iterator[list[Call]]:
    """Yield a list that fills with the calls that the model makes while the block runs."""
    recorder = _Recorder()
    handles = []
    for name, module in model.named_modules():
        enter = module.register_forward_pre_hook(lambda *_, name=name: recorder.path.append(name))
        leave = module.register_forward_hook(lambda *_: recorder.leave(), always_call=True)
        handles += [enter, leave]
    with hooked(handles), recorder:
        yield recorder.calls


class _Recorder(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.path: list[str] = [""]

    def leave(self) -> None:
        self.path.pop()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(True for _ in tensors_in(result)):
            call = Call(
                function=func, args=args, kwargs=kwargs or {}, result=result, module=self.path[-1]
            )
            self.calls.append(call)
        return result
