"""Language modelling: which token comes next, for every token of a text."""

from __future__ import annotations

from kdeploy.data.class_targets import read_classes
from kdeploy.data.contract import Parts
from kdeploy.errors import DataError
from kdeploy.tasks import usual
from kdeploy.tasks.contract import task


@task(metric="perplexity", like="classification", moves=True)
class LanguageModeling:
    """Logits (N, tokens, vocabulary); targets are the next ids, -100 where none is learned."""

    name: str

    def read_targets(self, parts: Parts, *, where: str) -> Parts:
        read = read_classes(parts, where=where)
        for name, split in read.named():
            if split.y.ndim != 2:
                raise DataError(
                    f"{name} part of {where}: labels of shape {tuple(split.y.shape)}; language "
                    "modelling needs the next id of every token, (N, tokens)",
                    hint="`y = np.roll(x, -1, axis=1); y[:, -1] = -100`; classes of whole texts "
                    "are `task: classification`",
                )
        return read

    to_dict = usual.parameters_alone
    check_answer = usual.check_class_logits
    label_loss = usual.class_loss
    distillable = usual.the_output
    logit_targets = usual.targets_as_they_are
    rows = usual.as_distillable
    right = usual.right_classes
    predictions = usual.counted_classes
    counted_logits = usual.counted_logits
    expected = usual.counted_targets
    log_likelihoods = usual.token_likelihoods
    metrics = usual.class_metrics
    item_scores = usual.right_or_not
    agreement = usual.class_agreement
    unreadable = usual.rows_without_class
    score = usual.top1
