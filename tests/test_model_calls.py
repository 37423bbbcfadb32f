"""Models of several inputs are called by `call`, which names them; nowhere by hand."""

from __future__ import annotations

import re
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "kdeploy"
BY_HAND = re.compile(
    r"(?:\b\w*(?:model|student|teacher|network|module)|\))"
    r"\((?:x|example|batch\.x|self\.example|images?|inputs?)\)"
)
ONE_INPUT = {
    "kernels/cuda_calls.py": "runtimes of a GPU take one tensor and say so",
    "export/exporters/litert_from_torch.py": "a wrapper of one tensor of NHWC",
    "torch_module/transformers_outputs.py": "pictures alone; texts have names there",
}


def test_no_model_is_called_by_hand():
    found = [
        f"{path.relative_to(SOURCE)}:{number}: {line.strip()}"
        for path in sorted(SOURCE.rglob("*.py"))
        if str(path.relative_to(SOURCE)) not in ONE_INPUT
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if BY_HAND.search(line) and "call(" not in line and "def " not in line
    ]
    assert not found, "use `call` of kdeploy/torch_module/named_inputs.py:\n" + "\n".join(found)


def test_the_rule_finds_what_it_is_for():
    assert BY_HAND.search("self.student.eval()(x)")
    assert BY_HAND.search("logits = self.model(x)")
    assert not BY_HAND.search("call(self.model, x)")
