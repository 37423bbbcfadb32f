"""What a task is: what targets and outputs mean. Nothing else in kdeploy does.

`@task(metric=)` marks a class, one a file, whose keyword-only parameters are the recipe's. An
instance belongs to one dataset: `read_targets` may keep what it finds in the training targets, and
`to_dict` tells it to bundles and devices. Modules of tasks import numpy only, so that a device can
load them; what needs torch is imported where it is used.

An answer is what a model returns: one array or tensor, or several, as an ordered mapping from names
to them. Predictions are what is judged, kept and compared: one array whose first axis is what
counts (items, tokens), small enough to be kept for a whole part. `expected` brings targets into
that form.

Facts of the decorator: `metric` is the main one, the first that is shown; `scores` says what the
item scores are shares of, where that is not items; `like` names the task whose losses on outputs
fit as well; `loss` is what a recovery uses, and a distillation too, unless the recipe says
otherwise; `taught` are losses with weights, beside labels of weight 1, that a distillation uses
instead where there are more than two classes; `moves=True` says that targets have places in the
item (boxes, masks, points, a label for each step), so that augmentations move them along or are
refused; `without=(...)` names further augmentations after which targets would be wrong. One that
has neither fact tells nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from kdeploy import registry
from kdeploy.data.contract import NOT_COUNTED, Dataset, Parts, TaskReference
from kdeploy.errors import ModelError
from kdeploy.metrics.contract import CLASSES
from kdeploy.registration import register

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["NOT_COUNTED", "Answer", "Predictions", "Task", "metrics_for", "one_output", "task"]

Array: TypeAlias = NDArray[Any]
Answer: TypeAlias = "Array | Mapping[str, Array]"
"""What a file returned, see above."""
TensorAnswer: TypeAlias = "Tensor | Mapping[str, Tensor]"
"""What a torch model returned."""
Predictions: TypeAlias = NDArray[Any]
Made = TypeVar("Made", bound=type)
UNSAID: Mapping[str, Any] = {
    **{"scores": "", "like": "", "loss": "kd"},
    **{"taught": {}, "moves": False, "without": ()},
}
"""Facts as they are where the decorator does not say them."""


def task(
    *,
    metric: str,
    scores: str = "",
    like: str = "",
    loss: str = "kd",
    taught: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
    moves: bool = False,
    without: tuple[str, ...] = (),
) -> Callable[[Made], Made]:
    """Return the decorator of a task; its facts are told at the head of this file."""
    given = {
        **{"metric": metric, "scores": scores, "like": like, "loss": loss},
        **{"taught": taught, "moves": moves, "without": without},
    }
    facts = {key: value for key, value in given.items() if value != UNSAID.get(key)}

    def mark(made: Made) -> Made:
        made.name = made.__module__.rpartition(".")[2]  # type: ignore[attr-defined]
        return register("task", **facts)(made)

    return mark


class Task(Protocol):
    """What every task can do."""

    name: str

    def read_targets(self, parts: Parts, *, where: str) -> Parts:
        """Return the parts with targets as they are stored; notes gain what was converted.

        Raises:
            DataError: a target cannot be; it names the part, the item and what was found.
        """
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return name, parameters and what was found in the training targets, as JSON has them."""
        ...

    def check_answer(self, answer: Any, data: Dataset, *, who: str) -> None:
        """Refuse an answer to items of the data that cannot be meant so; only shapes are looked at.

        Raises:
            ModelError: it names what `who` returned and what was expected.
        """
        ...

    def label_loss(
        self, answer: TensorAnswer, targets: Tensor, *, label_smoothing: float = 0.0
    ) -> Tensor:
        """Return the loss with the true targets, a scalar in float32."""
        ...

    def distillable(self, answer: TensorAnswer) -> Tensor:
        """Return the output that losses of this very task compare."""
        ...

    def logit_targets(self, targets: Tensor) -> Tensor:
        """Return the targets beside what is distillable."""
        ...

    def rows(self, answer: TensorAnswer, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same for losses of the task that this one is `like`.

        Of classes: logits with the classes last, and class indices, `NOT_COUNTED` for none.
        """
        ...

    def right(self, answer: TensorAnswer, targets: Tensor) -> Tensor | None:
        """Return how many are right, where the score is their share; None where it is not.

        A short cut of validation: the score is `score(metrics(...))` either way.
        """
        ...

    def predictions(self, answer: Answer, targets: Array | None) -> Predictions:
        """Return what is judged of the answer to a batch; targets say what counts, None: all."""
        ...

    def expected(self, targets: Array) -> Predictions:
        """Return the targets in the form of predictions."""
        ...

    def log_likelihoods(self, answer: Answer, targets: Array) -> NDArray[np.float64] | None:
        """Return ln of the probability that each token's class got, (N,); None: no such thing."""
        ...

    def metrics(
        self,
        predictions: Predictions,
        expected: Predictions,
        log_likelihoods: NDArray[np.float64] | None = None,
    ) -> dict[str, float]:
        """Return every metric, the main one first; none where `unreadable` has a reason."""
        ...

    def agreement(self, predictions: Predictions, taught: Predictions) -> dict[str, float]:
        """Return how far predictions are those of another model, for which nobody needs labels."""
        ...

    def item_scores(self, predictions: Predictions, expected: Predictions) -> Array:
        """Return how good each item that can be judged is, or each token that counts, (N,).

        Bool where it is right or not, else float64, higher is better: two models are compared by
        the mean, item by item. A task of the user's own may leave it out.
        """
        ...

    def unreadable(self, predictions: Predictions, *, what: str = "items") -> str | None:
        """Return which answers are no numbers, in words; None where all are."""
        ...

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return one number to train by, higher is better, 1 is perfect."""
        ...


def task_of(data: Dataset) -> Task:
    """Return what the targets and outputs of the data mean."""
    return cast("Task", data.task) if data.task is not None else classification()


def has_item_scores(data: Dataset) -> bool:
    """Return whether models can be compared item by item on the validation part."""
    # One of the user's own may have been written before tasks had them.
    has = hasattr(task_of(data), "item_scores")
    return has and bool(len(data.validation)) and data.validation.is_labelled


def stored_task(data: Dataset) -> dict[str, Any]:
    """Return the task as manifests have it, empty for the classes that were before all others."""
    known = task_of(data)
    return {} if known.name == TaskReference().name else known.to_dict()


@cache
def classification() -> Task:
    """Return the task of data that name none."""
    return cast("Task", registry.find("task", TaskReference().name).load()())


def judged_as(task: Task) -> str:
    """Return the registered task whose metrics a task has: its own, or that of its base class."""
    return str(getattr(type(task), "name", task.name))


def compares_tokens(task: Task) -> bool:
    """Return whether a model's whole answer for each token is compared with the teacher's.

    Such a task has `counted_logits(answer, targets)`, the logits (N, vocabulary) of the tokens that
    count, of all where there are no targets.
    """
    return hasattr(task, "counted_logits")


def is_own(name: str) -> bool:
    """Return whether a task's name is `path.py:Task`: one of the user's own."""
    return ".py:" in name


def facts_of(name: str) -> Mapping[str, Any]:
    """Return the facts of a task's decorator; of one of the user's own, those it would have."""
    known = registry.techniques("task").get(name)
    return {**UNSAID, **(known.facts if known else {})}


def kin(name: str) -> tuple[str, ...]:
    """Return a task's name and that of the task whose losses fit it too."""
    like = str(facts_of(name).get("like", ""))
    return (name, *kin(like)) if like else (name,)


def is_classification(name: str) -> bool:
    """Return whether this is the task of data that name none."""
    return name == TaskReference().name


def is_of_classes(name: str) -> bool:
    """Return whether outputs are logits of classes, which a softmax makes probabilities."""
    return "classification" in kin(name)


def has_class_rows(name: str) -> bool:
    """Return whether outputs are rows of logits, classes last, and targets the rows' classes."""
    return name in CLASSES


def metrics_for(
    name: str, *, needs: str = "predictions", family: str = ""
) -> dict[str, Callable[..., float]]:
    """Return the metrics of a task by name, the main one first.

    Args:
        name: The task's.
        needs: What they are computed from: "predictions", "log_likelihoods" or "divergences".
        family: Only those whose name begins with it and a dot; "": all but agreements.
    """
    main = facts_of(name).get("metric", "")
    found = {
        str(t.facts["name"]): t
        for t in registry.techniques("metric").values()
        if name in t.facts.get("tasks", CLASSES) and t.facts.get("needs", "predictions") == needs
    }
    named = sorted(found, key=lambda n: (n != main, not n.endswith(".top1"), n))
    return {
        n: found[n].load()
        for n in named
        if (n.startswith(f"{family}.") if family else not n.startswith("agreement."))
    }


def one_output(answer: Any, *, who: str = "the model", names: tuple[str, ...] = ("logits",)) -> Any:
    """Return the one output that a task is about: the only one, or the one of a known name.

    Raises:
        ModelError: there are several, and none of them is called so.
    """
    if not isinstance(answer, Mapping):
        return answer
    if len(answer) == 1:
        return next(iter(answer.values()))
    for name in names:
        if name in answer:
            return answer[name]
    listed = ", ".join(f"`{name}`" for name in answer) or "nothing"
    raise ModelError(
        f"{who} returns several outputs ({listed}), and the task is about one",
        hint=f"return that one alone, or call it `{names[0]}`",
    )


def not_finite(predictions: NDArray[Any], *, what: str = "items") -> str | None:
    """Return which rows hold NaN or infinity, in words; None where none does."""
    rows = np.isfinite(predictions).reshape(len(predictions), -1).all(axis=1)
    bad = np.flatnonzero(~rows)
    if not len(bad):
        return None
    return (
        f"the answers to {len(bad)} of {len(predictions)} {what} are NaN or infinite"
        f" (the first, counted from 0: {bad[0]})"
    )


def described(task: Any, found: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the facts of a task: its name, its parameters, and what it found."""
    parameters = {n: v for n, v in vars(task).items() if not n.startswith("_") and n != "name"}
    return {"name": task.name, "parameters": parameters, "found": dict(found or {})}
