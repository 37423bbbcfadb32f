"""What of a distillation knows classes only: schemes and parameters that other tasks refuse."""

from __future__ import annotations

from kdeploy import registry
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.loss_specs import check_fit, listed
from kdeploy.errors import RecipeError
from kdeploy.tasks.contract import has_class_rows, is_of_classes


def check_task(config: DistillConfig, task: str) -> None:
    """Refuse losses, a scheme and parameters that do not fit the task.

    Args:
        config: Of the distillation.
        task: Its name.

    Raises:
        RecipeError: with what does fit.
    """
    check_fit((name for entry in config.losses for name in entry), task)
    fits = registry.find("scheme", config.scheme_name).facts.get("tasks", ())
    if fits and task not in fits:
        every = registry.techniques("scheme").items()
        able = [n for n, t in every if task in t.facts.get("tasks", (task,))]
        raise RecipeError(
            f"the scheme `{config.scheme_name}` is for {listed(fits)}, and the task is `{task}`",
            hint=f"for that task there are {listed(able)}",
        )
    wrong = None if config.wrong_weight == 1 else config.wrong_weight
    asked = {
        "cache_top_k": has_class_rows(task) or config.cache_top_k is None,
        "cache_samples": has_class_rows(task) or config.cache_samples is None,
        "wrong_weight": is_of_classes(task) or wrong is None,
    }
    for name, fits_task in asked.items():
        if not fits_task:
            raise RecipeError(
                f"distill.{name}: answers of task `{task}` are no logits of classes, one row each",
                hint=f"leave `{name}` out",
            )
    members = config.scheme_parameters.get("ensemble_of_generations")
    if members and not has_class_rows(task):
        raise RecipeError(
            f"distill.scheme.{config.scheme_name}.ensemble_of_generations: it is a mean of "
            f"probabilities of classes, and the task is `{task}`",
            hint="leave `ensemble_of_generations` out",
        )
