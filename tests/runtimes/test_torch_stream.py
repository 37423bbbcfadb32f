from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.errors import ModelError
from kdeploy.runtimes.generation import greedy, step_by_step
from kdeploy.runtimes.torch_stream import torch_stream
from tests.tiny.language import llama_config


@pytest.fixture(scope="module")
def decoder():
    transformers = pytest.importorskip("transformers", reason="pip install 'kdeploy[language]'")
    torch.manual_seed(0)
    return nn.Sequential(transformers.LlamaForCausalLM(llama_config())).eval()


def test_a_text_fed_token_by_token_has_the_scores_of_the_whole(decoder):
    ids = np.arange(12) * 7 % 250
    with torch.no_grad():
        whole = decoder[0](torch.from_numpy(ids)[None], use_cache=False).logits[0].numpy()
    single = step_by_step(lambda: torch_stream(decoder), ids)
    np.testing.assert_allclose(single, whole, atol=1e-4 * whole.std())


def test_greedy_tokens_are_those_without_a_cache(decoder):
    prompt = list(range(5))
    found = greedy(torch_stream(decoder), prompt, 6)
    ids = list(prompt)
    for _ in range(6):
        with torch.no_grad():
            ids.append(int(decoder[0](torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    assert found == ids[5:]


def test_a_model_without_a_cache_is_refused():
    with pytest.raises(ModelError, match="no cache"):
        torch_stream(nn.Linear(2, 2))
