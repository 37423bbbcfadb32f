"""Before any work a model is asked real items of every part."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from kdeploy.data.contract import Split
from kdeploy.errors import ModelError
from kdeploy.pipeline.real_items import check_real_items


class Normed(nn.Module):
    def forward(self, x):
        return x / x.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_an_item_without_an_answer_is_named(part, tiny_data):
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 4, bias=False), Normed()).eval()
    preprocessing = replace(tiny_data.preprocessing, mean=(0.0,))
    data = replace(tiny_data, preprocessing=preprocessing)
    check_real_items(model, data, "teacher")
    known = getattr(data, part)
    x = np.array(known.x)
    x[7] = 0
    with pytest.raises(ModelError, match=f"teacher answers NaN or infinity to {part} item 7"):
        check_real_items(model, replace(data, **{part: Split(x=x, y=known.y)}), "teacher")
