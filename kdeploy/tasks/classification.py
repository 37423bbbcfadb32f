"""Classification: one class an item, or one for every token."""

from __future__ import annotations

from kdeploy.data.class_targets import read_classes
from kdeploy.data.contract import Parts
from kdeploy.tasks import usual
from kdeploy.tasks.contract import task


@task(metric="accuracy.top1")
class Classification:
    """Logits (N, classes), or (N, tokens, classes); targets are class indices."""

    name: str

    def read_targets(self, parts: Parts, *, where: str) -> Parts:
        return read_classes(parts, where=where)

    to_dict = usual.parameters_alone
    check_answer = usual.check_class_logits
    label_loss = usual.class_loss
    distillable = usual.the_output
    logit_targets = usual.targets_as_they_are
    rows = usual.as_distillable
    right = usual.right_classes
    predictions = usual.counted_classes
    expected = usual.counted_targets
    log_likelihoods = usual.token_likelihoods
    metrics = usual.class_metrics
    item_scores = usual.right_or_not
    agreement = usual.class_agreement
    unreadable = usual.rows_without_class
    score = usual.top1
