"""What is measured, how, and for how long: each option once, checked when the plan is made.

The keys of `bench:` in a recipe, the flags of `kdeploy bench`, and what `bench()` takes are the
fields of `BenchPlan`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, ValidationInfo, model_validator

from kdeploy.data.load import DataReference
from kdeploy.errors import RecipeError, UnknownName
from kdeploy.runtimes.run import named
from kdeploy.units import parse_bound, parse_extents

Scenario: TypeAlias = Literal["single_stream", "offline", "server", "generate"]
GENERATE: Scenario = "generate"
Effort: TypeAlias = Literal["quick", "standard", "sustained"]
EFFORT_SECONDS: dict[Effort, float] = {"quick": 1.0, "standard": 10.0, "sustained": 600.0}
"""To look; to quote (MLPerf's testing default); to see what heat does (MLPerf's submissions)."""
ROUNDS = 8
LONGEST_WARM_UP_SECONDS = 60.0
Positive: TypeAlias = Annotated[int, Field(gt=0)]
Part: TypeAlias = Literal["test", "validation"]
TEST: tuple[Part, ...] = ("test",)


class BenchPlan(BaseModel):
    """What is measured, as a recipe or a command line says it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runtimes: list[str] = Field(
        default=["onnxruntime_cpu"], min_length=1, description="where to run"
    )
    batch_sizes: list[Positive] = Field(default=[1], min_length=1, description="items in one call")
    threads: list[Positive | None] = Field(
        default=[None], min_length=1, description="of the runtime; null: all cores allowed"
    )
    scenarios: list[Scenario] = Field(
        default=["single_stream"],
        min_length=1,
        description="`single_stream`: one request after the other; `offline`: the largest batch "
        "that fits; `server`: requests at random times, the highest rate within `latency_limit`; "
        "`generate`: language models continue prompts, token by token",
    )
    prompt_tokens: list[Positive] = Field(
        default=[32, 512], min_length=1, description="of prompts of scenario `generate`"
    )
    new_tokens: int = Field(
        default=64, gt=1, description="that scenario `generate` writes behind each prompt"
    )
    sizes: list[int | str] = Field(
        default=[],
        description="bring inputs to these heights and widths, or lengths, where a file leaves "
        'them open: [128, "160x96"]',
    )
    accuracy: bool = Field(
        default=True, description="measure accuracy on each file in each runtime"
    )
    effort: Effort = Field(
        default="quick", description="measure a configuration for 1 s, 10 s or 600 s at least"
    )
    minimum_seconds: float | None = Field(default=None, gt=0, description="in place of `effort`, s")
    minimum_count: int = Field(default=100, gt=0, description="and at least so many calls")
    latency_limit: str | None = Field(
        default=None, description="what the p99 of scenario `server` stays within, e.g. `15ms`"
    )
    memory_limit: str | None = Field(
        default=None,
        description="what scenario `offline` may hold, e.g. `512MB`; null: what is free",
    )
    timeout_seconds: float = Field(default=600.0, gt=0, description="give up after, s")

    @property
    def seconds(self) -> float:
        """Return how long a configuration is measured at least."""
        return self.minimum_seconds or EFFORT_SECONDS[self.effort]

    @property
    def latency_limit_seconds(self) -> float | None:
        """Return what the p99 of scenario `server` must stay within."""
        limit = self.latency_limit
        return None if limit is None else parse_bound(limit, "s", where="bench.latency_limit")

    @property
    def memory_limit_bytes(self) -> int | None:
        """Return what a batch of scenario `offline` must fit in; None: most of what is free."""
        limit = self.memory_limit
        return None if limit is None else int(parse_bound(limit, "B", where="bench.memory_limit"))

    @property
    def item_sizes(self) -> list[tuple[int, ...]]:
        """Return the sizes to measure at; () are the data as they are."""
        return [parse_extents(str(size), where="bench.sizes") for size in self.sizes] or [()]

    @property
    def prompt_sizes(self) -> list[tuple[int, ...]]:
        """Return the lengths of prompts as sizes of items."""
        return [(count,) for count in self.prompt_tokens]

    @model_validator(mode="before")
    @classmethod
    def _with_parameters(cls, given: Any) -> Any:
        """Take `scenarios: [{generate: {prompt_tokens: [32]}}]` apart."""
        if not isinstance(given, dict) or not isinstance(given.get("scenarios"), list):
            return given
        scenarios, own = [], {}
        for item in given["scenarios"]:
            if (
                isinstance(item, dict)
                and list(item) == ["generate"]
                and isinstance(item["generate"], dict)
            ):
                own.update(item["generate"])
            scenarios.append("generate" if isinstance(item, dict) and own else item)
        unknown = set(own) - {"prompt_tokens", "new_tokens"}
        if unknown:
            raise UnknownName.among(
                "key", sorted(unknown)[0], ["prompt_tokens", "new_tokens"], where="`generate`"
            )
        return {**given, "scenarios": scenarios, **own}

    @model_validator(mode="after")
    def _can_be_measured(self, info: ValidationInfo) -> Self:
        """Its runtimes exist, and its limits are limits of something."""
        where = str((info.context or {}).get("where", "bench"))
        for index, name in enumerate(self.runtimes):
            named(name, where=f"{where}.runtimes[{index}]")
        self._check_limit("latency_limit", self.latency_limit_seconds, "server", where)
        self._check_limit("memory_limit", self.memory_limit_bytes, "offline", where)
        if "server" in self.scenarios and self.latency_limit is None:
            raise RecipeError(
                f"{where}: the scenario `server` looks for the highest rate within a latency limit,"
                " and there is none",
                hint="add `latency_limit: 15ms` (`--latency-limit 15ms`)",
            )
        assert self.item_sizes, "sizes are read here, so that a wrong one is told at once"
        return self

    def _check_limit(self, key: str, limit: float | None, scenario: Scenario, where: str) -> None:
        if limit is not None and scenario not in self.scenarios:
            raise RecipeError(
                f"{where}: `{key}` is for the scenario `{scenario}`, which is not measured",
                hint=f"add `{scenario}` to `scenarios` (`--scenario {scenario}`), or leave it out",
            )


class Plan(BenchPlan):
    """A plan with what only its run knows: the data, and how often the files take turns."""

    data: InstanceOf[DataReference] | None = None
    """Whose items are fed and judged; None: seeded noise, no accuracy."""
    parts: tuple[Part, ...] = TEST
    """On which parts of the data answers are judged."""
    rounds: int = ROUNDS
    """Turns that each model takes; the intervals are drawn over them."""
    energy: bool = True
    """Whether to run on for what energy takes, where a counter can be read."""

    @property
    def window_seconds(self) -> float:
        """Length of a round, and of a window of the warm-up, of which three must agree."""
        return self.seconds / self.rounds

    @property
    def warm_up_limit_seconds(self) -> float:
        return min(max(2.0, 5 * self.seconds), LONGEST_WARM_UP_SECONDS)

    def of_one_cell(self) -> dict[str, Any]:
        """Return what a configuration's numbers depend on, beside itself and the data."""
        return {
            "accuracy": self.accuracy,
            "minimum_seconds": self.seconds,
            "minimum_count": self.minimum_count,
            "timeout_seconds": self.timeout_seconds,
            "rounds": self.rounds,
            "latency_limit_seconds": self.latency_limit_seconds,
            "memory_limit_bytes": self.memory_limit_bytes,
            "energy": self.energy,
            # Left out where it is what it always was: what was kept before counts.
            **({} if self.parts == TEST else {"parts": list(self.parts)}),
            **({"new_tokens": self.new_tokens} if "generate" in self.scenarios else {}),
        }


def plan_for(plan: BenchPlan, data: DataReference | None, parts: tuple[Part, ...] = TEST) -> Plan:
    """Return the plan for these data, judged on these parts; it was checked when it was made."""
    return Plan.model_construct(**dict(plan), data=data, parts=parts)
