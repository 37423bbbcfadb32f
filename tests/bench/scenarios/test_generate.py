from __future__ import annotations

import time

import numpy as np
import pytest

from kdeploy.bench.model_under_test import Configuration, ModelUnderTest, Outcome
from kdeploy.bench.plan import BenchPlan
from kdeploy.bench.records import measurements
from kdeploy.bench.scenarios.generate import Generation, prompt_of
from kdeploy.errors import KdeployError, ModelError, UnknownName
from kdeploy.machine import fingerprint
from kdeploy.registry import check
from kdeploy.runtimes.fake import Fake


class Text:
    """Takes a stated time for each token of a prompt, and for each that is written."""

    def __init__(self, longest: int) -> None:
        self.longest, self.ids = longest, []

    def append(self, ids):
        time.sleep(0.0005 * len(ids))
        self.ids += ids.tolist()

    def next(self):
        time.sleep(0.002)
        self.ids.append(len(self.ids))
        assert len(self.ids) <= self.longest, "more tokens than room was asked for"
        return self.ids[-1]

    def logits(self):
        raise AssertionError("nobody asks for scores while times are taken")


class Writer:
    """A runtime that writes such texts, and counts them."""

    def __init__(self) -> None:
        self.texts = []

    def stream(self, longest):
        self.texts.append(Text(longest))
        return self.texts[-1]


def test_each_text_begins_with_an_empty_cache_and_ends_after_so_many_tokens():
    writer = Writer()
    generation = Generation(writer, 5)
    for _ in range(2):
        assert generation(np.arange(10)) == [10, 11, 12, 13, 14]
    assert [len(text.ids) for text in writer.texts] == [15, 15]


def test_the_parts_agree_with_an_independent_loop():
    generation = Generation(Writer(), 20)
    generation(np.arange(40))
    seconds = generation.seconds
    assert {name: len(found) for name, found in seconds.items()} == {
        "prefill": 1,
        "first_token": 1,
        "inter_token": 19,
    }
    # A sleep lasts at least as long as asked for; a busy machine makes some of them longer.
    assert 0.02 <= seconds["prefill"][0] <= seconds["first_token"][0] - 0.002
    assert 0.002 <= np.median(seconds["inter_token"]) < 0.004
    generation.clear()
    assert not any(generation.seconds.values())


def test_a_runtime_without_a_cache_is_refused():
    with pytest.raises(ModelError, match="writes no text"):
        Generation(Fake(), 4)


@pytest.mark.parametrize(
    "given", [np.zeros((2, 3), np.int64), np.zeros((1, 3), np.float32), np.zeros(3, np.int64)]
)
def test_what_is_no_single_text_is_refused(given):
    with pytest.raises(ModelError, match="one text of token ids"):
        prompt_of(given)
    assert prompt_of({"ids": np.arange(3, dtype=np.int32)[None]}).tolist() == [0, 1, 2]


def _outcome():
    later = tuple(np.full(8, 0.01 + 0.001 * n) for n in range(8))
    model = ModelUnderTest(
        artifact="a", label="small", path=fingerprint.__code__.co_filename, format="genai"
    )
    return Outcome(
        model=model,
        configuration=Configuration(
            runtime="fake", batch_size=1, threads=1, scenario="generate", size=(32,)
        ),
        input_shape=(32,),
        rounds=tuple(np.full(1, 0.5) for _ in range(8)),
        elapsed_seconds=(0.5,) * 8,
        parts={
            "first_token": tuple(np.full(1, 0.2) for _ in range(8)),
            "prefill": tuple(np.full(1, 0.16) for _ in range(8)),
            "inter_token": later,
        },
    )


def test_records_say_rates_of_the_median_time(tmp_path, monkeypatch):
    monkeypatch.setattr("kdeploy.bench.records.parameters_of", lambda path, form: 5)
    monkeypatch.setattr("kdeploy.bench.records._size", lambda model: 7)
    records = {
        r.metric: r for r in measurements(_outcome(), fingerprint(), reference_predictions=None)
    }
    assert records["generate.first_token"].value == pytest.approx(0.2)
    assert records["generate.prefill_rate"].value == pytest.approx(200)
    assert records["generate.inter_token.p50"].value == pytest.approx(0.0135)
    assert records["generate.decode_rate"].value == pytest.approx(1 / 0.0135)
    assert records["generate.decode_rate"].unit == "tokens/s"
    rate = records["generate.decode_rate"]
    assert rate.low < rate.value < rate.high
    assert records["generate.inter_token.p99"].value == pytest.approx(0.017)
    assert {r.input_shape for r in records.values() if r.metric.startswith("generate.")} == {"32"}


def _plan(given):
    return check(BenchPlan, given, where="bench")


def test_a_recipe_says_prompts_and_tokens():
    plan = _plan({"scenarios": [{"generate": {"prompt_tokens": [8, 20], "new_tokens": 4}}]})
    assert plan.scenarios == ["generate"]
    assert plan.prompt_sizes == [(8,), (20,)]
    assert plan.new_tokens == 4
    assert _plan({"scenarios": ["generate"]}).prompt_tokens == [32, 512]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"generate": {"prompt_token": [8]}}, "prompt_tokens"),
        ({"generate": {"new_tokens": 1}}, "greater than 1"),
        ({"generate": {"prompt_tokens": [0]}}, "greater than 0"),
        ({"server": {}}, "scenarios"),
    ],
)
def test_wrong_parameters_of_the_scenario_are_refused(given, message):
    with pytest.raises(KdeployError, match=message):
        _plan({"scenarios": [given]})
    assert issubclass(UnknownName, KdeployError)
