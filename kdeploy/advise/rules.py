"""The rules of advice, as one table: which recipe, when, what to expect of it, and why.

An expectation is a range: of the speed-up at batch 1, of the size, and of the accuracy that is
lost. Where a variant was measured here its number is the middle of the range; where it was not, the
range is that of our own benchmarks or of a paper, and the sentence says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from kdeploy.advise.facts import ModelFacts
from kdeploy.advise.measured import Measured

Source: TypeAlias = Literal["measured here", "our benchmark", "paper"]
Range: TypeAlias = tuple[float, float]
PAYS = 1.05
"""An INT8 file that is not faster than this is made for its size alone."""
NOISE = 0.1
"""Of a latency that was measured for a second."""
RECOVER: Mapping[str, Any] = {"epochs": 2, "losses": [{"kd": {"temperature": 1.0}}]}
"""The fine-tuning of benchmarks/suites/pruning_quality.py."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that a rule may look at."""

    facts: ModelFacts | None
    """None of a model that is a file."""
    measured: Measured
    students: Mapping[str, Mapping[str, Any]]
    """The sections `student:` of smaller models, by how much smaller."""
    validation_items: int

    @property
    def int8_pays(self) -> bool:
        return (self.measured.speed_up("int8") or 0.0) > PAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """A reason with its evidence."""

    text: str
    source: Source
    where: str = ""
    """The page of a benchmark, or the number of a paper."""

    def __str__(self) -> str:
        return f"{self.text} [{', '.join(filter(None, (self.source, self.where)))}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Ranges: times as fast and as small as the model, and accuracy lost, as a fraction."""

    speed_up: Range
    smaller: Range
    lost: Range
    is_mean_only: bool = False
    """Whether only the mean latency falls, and the p99 does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A row of the table."""

    name: str
    title: str
    applies: Callable[[Situation], bool]
    expected: Callable[[Situation], Expected]
    recipe: Callable[[Situation], dict[str, Any]]
    """The sections that the recipe has beside data, teacher, export, bench and gates."""
    why: Callable[[Situation], list[Sentence]] = field(default=lambda _: [])


def around(value: float | None, otherwise: Range) -> Range:
    """Return a measured value with its noise, else a range from elsewhere."""
    return otherwise if value is None else (value * (1 - NOISE), value * (1 + NOISE))


def times(one: Range, other: Range) -> Range:
    """Return the range of a product."""
    return one[0] * other[0], one[1] * other[1]


def _int8_speed(here: Situation) -> Range:
    return around(here.measured.speed_up("int8"), (0.8, 3.1))


def _int8_lost(here: Situation) -> Range:
    found = here.measured.lost("int8")
    return (-0.001, 0.005) if found is None else (found[0] - found[1], found[0] + 2 * found[1])


def _size(here: Situation, name: str, otherwise: Range) -> Range:
    known = here.measured.variants
    if name not in known:
        return otherwise
    ratio = known["float"].size / known[name].size
    return ratio * 0.97, ratio * 1.03


def _int8_why(here: Situation) -> list[Sentence]:
    speed, lost = here.measured.speed_up("int8"), here.measured.lost("int8")
    found = []
    if speed is not None:
        verb = f"{speed:.2f}x as fast as" if speed > PAYS else f"no faster ({speed:.2f}x) than"
        found.append(Sentence(text=f"INT8 is {verb} float", source="measured here"))
    if lost is not None:
        count = len(here.measured.variants["int8"].right)
        text = f"INT8 loses {100 * lost[0]:+.1f} pp (± {200 * lost[1]:.1f}) on {count} items"
        found.append(Sentence(text=text, source="measured here"))
    if here.facts is not None and here.facts.narrowest < 16:
        found.append(
            Sentence(
                text=f"the narrowest layer has {here.facts.narrowest} channels, and below 16 "
                "integer kernels run partly empty",
                source="our benchmark",
                where="benchmarks/README.md",
            )
        )
    return found


def _then_int8(here: Situation, steps: list[dict[str, Any]]) -> dict[str, Any]:
    return {"compress": [*steps, {"int8_ptq": {"profile": "cpu"}}] if here.int8_pays else steps}


def _with_int8(here: Situation, speed: Range, smaller: Range, lost: Range) -> Expected:
    if not here.int8_pays:
        return Expected(speed_up=speed, smaller=smaller, lost=lost)
    more = _int8_lost(here)
    return Expected(
        speed_up=times(speed, (0.8 * _int8_speed(here)[0], _int8_speed(here)[1])),
        smaller=times(smaller, (3.0, 4.0)),
        lost=(lost[0] + min(0.0, more[0]), lost[1] + max(0.0, more[1])),
    )


def _prune_why(keep: str) -> Callable[[Situation], list[Sentence]]:
    def why(here: Situation) -> list[Sentence]:
        half = here.measured.speed_up("half_width")
        found = [
            Sentence(
                text=f"a network of 1.08M parameters kept {keep} of Fashion-MNIST's accuracy",
                source="our benchmark",
                where="benchmarks/results/amd-epyc/pruning_quality.md",
            )
        ]
        if half is not None:
            text = f"at half of its width it is {half:.2f}x as fast"
            found.insert(0, Sentence(text=text, source="measured here"))
        return found + (_int8_why(here)[:1] if here.int8_pays else [])

    return why


def _student_why(name: str) -> Callable[[Situation], list[Sentence]]:
    def why(here: Situation) -> list[Sentence]:
        speed, variants = here.measured.speed_up(name), here.measured.variants
        found = [
            Sentence(
                text="a small architecture trained anew is often as good as a pruned one",
                source="paper",
                where="arXiv:1810.05270",
            )
        ]
        if speed is not None:
            share = variants[name].parameters / max(1, variants["float"].parameters)
            text = f"a student of {share:.0%} of the parameters is {speed:.2f}x as fast, untrained"
            found.insert(0, Sentence(text=text, source="measured here"))
        return found + (_int8_why(here)[:1] if here.int8_pays else [])

    return why


def _student(name: str, lost: Range) -> dict[str, Any]:
    """Return the fields of a rule for a student."""
    otherwise = {"half": (1.5, 4.0), "quarter": (3.0, 16.0)}[name]
    return {
        "name": f"student_{name}",
        "title": f"a student of {name} the width, distilled",
        "applies": lambda here: name in here.students,
        "expected": lambda here: _with_int8(
            here,
            around(here.measured.speed_up(name), otherwise),
            _size(here, name, otherwise),
            lost,
        ),
        "recipe": lambda here: {
            "student": dict(here.students[name]),
            "distill": {},
            **_then_int8(here, []),
        },
        "why": _student_why(name),
    }


def _power(here: Situation, exponent: float, otherwise: Range) -> Range:
    half = here.measured.speed_up("half_width")
    return around(None if half is None else max(1.0, half) ** exponent, otherwise)


def _cascade_speed(here: Situation) -> Range:
    """Return 1 / (c1 / c2 + 1 - p) for shares p of early answers from 0.4 to 0.75."""
    speed = here.measured.speed_up(_cascade_student(here)) or 4.0
    low, high = (1 / (1 / speed + 1 - share) for share in (0.4, 0.75))
    return low, high


def _cascade_student(here: Situation) -> str:
    return "quarter" if "quarter" in here.students else "half"


def _is_torch(here: Situation) -> bool:
    return here.facts is not None and "half_width" in here.measured.variants


RULES: tuple[Rule, ...] = (
    Rule(
        name="int8",
        title="INT8 by calibration, no training",
        applies=lambda here: "int8" in here.measured.variants,
        expected=lambda here: Expected(
            speed_up=_int8_speed(here),
            smaller=_size(here, "int8", (3.0, 4.0)),
            lost=_int8_lost(here),
        ),
        recipe=lambda here: {"compress": [{"int8_ptq": {"profile": "cpu"}}]},
        why=lambda here: [
            *_int8_why(here),
            Sentence(
                text="at equal size quantization lost less than pruning in most of 9 networks",
                source="paper",
                where="arXiv:2307.02973",
            ),
        ],
    ),
    Rule(
        name="prune_half",
        title="half the MACs pruned, fine-tuned",
        applies=_is_torch,
        expected=lambda here: _with_int8(
            here, _power(here, 0.5, (1.5, 1.9)), (1.5, 2.1), (-0.002, 0.01)
        ),
        recipe=lambda here: _then_int8(
            here, [{"prune_channels": {"target": {"macs": 0.5}, "recover": dict(RECOVER)}}]
        ),
        why=_prune_why("all but 0.1 pp at half the MACs"),
    ),
    Rule(
        name="prune_quarter",
        title="three quarters of the MACs pruned, fine-tuned",
        applies=_is_torch,
        expected=lambda here: _with_int8(
            here, _power(here, 1.0, (2.4, 3.5)), (2.8, 4.2), (0.0, 0.02)
        ),
        recipe=lambda here: _then_int8(
            here, [{"prune_channels": {"target": {"macs": 0.25}, "recover": dict(RECOVER)}}]
        ),
        why=_prune_why("all but 0.1 pp at 30 % of the MACs, and all but 0.7 pp at 15 %,"),
    ),
    Rule(**_student("half", (0.0, 0.02))),
    Rule(**_student("quarter", (0.005, 0.035))),
    Rule(
        name="cascade",
        title="a cascade: a small student first, the model itself where it is unsure",
        applies=lambda here: bool(here.students) and here.validation_items >= 575,
        expected=lambda here: Expected(
            speed_up=_cascade_speed(here),
            smaller=(0.7, 1.0),
            lost=(-0.002, 0.005),
            is_mean_only=True,
        ),
        recipe=lambda here: {
            "student": dict(here.students[_cascade_student(here)]),
            "distill": {},
            "dynamic": {"cascade": ["student", "teacher"], "risk": "0.5pp", "confidence": 0.9},
        },
        why=lambda here: [
            Sentence(
                text="most items of Fashion-MNIST leave a cascade early at a risk of 0.3 pp; its "
                "p99 is that of the full path",
                source="our benchmark",
                where="benchmarks/results/intel-r-xeon-r-processor/cascade.md",
            ),
            Sentence(
                text="cascades of plain networks match those found by search",
                source="paper",
                where="arXiv:2012.01988",
            ),
        ],
    ),
)
