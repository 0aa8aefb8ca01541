"""A search space: which experiment fields a sweep varies, and how it searches."""

import itertools
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator

from tunesmith.config import overrides
from tunesmith.config.experiment import Experiment
from tunesmith.config.strict import Document, Section
from tunesmith.errors import ConfigError

Scalar = str | int | float | bool | None

MOST_COMBINATIONS = 2000  # of extreme values in one section that are tried before a sweep begins


class FloatRange(Section):
    """A real number between two bounds."""

    kind: Literal["float"]
    """The type of the field."""
    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    log: bool = False
    """Search on a logarithmic scale."""

    @model_validator(mode="after")
    def _not_empty(self) -> "FloatRange":
        return _checked(self)

    def ends(self) -> list[Any]:
        """The extreme values."""
        return [self.low, self.high]

    def holds(self, value: Any) -> bool:
        """Whether a value lies in the range."""
        return isinstance(value, int | float) and self.low <= value <= self.high


class IntRange(Section):
    """A whole number between two bounds."""

    kind: Literal["int"]
    """The type of the field."""
    low: int
    """Smallest value."""
    high: int
    """Largest value."""
    log: bool = False
    """Search on a logarithmic scale."""

    @model_validator(mode="after")
    def _not_empty(self) -> "IntRange":
        return _checked(self)

    def ends(self) -> list[Any]:
        """The extreme values."""
        return [self.low, self.high]

    def holds(self, value: Any) -> bool:
        """Whether a value lies in the range."""
        return isinstance(value, int) and self.low <= value <= self.high


class Choices(Section):
    """One of a list of values."""

    kind: Literal["categorical"]
    """The type of the field."""
    choices: Annotated[list[Scalar], Field(min_length=1)]
    """The values."""

    def ends(self) -> list[Any]:
        """Every value."""
        return list(self.choices)

    def holds(self, value: Any) -> bool:
        """Whether a value is one of the choices."""
        return value in self.choices


R = TypeVar("R", FloatRange, IntRange)


def _checked(bounds: R) -> R:
    if not (math.isfinite(bounds.low) and math.isfinite(bounds.high)):
        raise ValueError("low and high must be finite")
    if bounds.low >= bounds.high:
        raise ValueError(f"the range is empty: low {bounds.low:g} is not below high {bounds.high:g}")
    if bounds.log and bounds.low <= 0:
        raise ValueError(f"a logarithmic range needs low above 0, not {bounds.low:g}")
    return bounds


Range = Annotated[FloatRange | IntRange | Choices, Field(discriminator="kind")]


class Objective(Section):
    """What the search optimises, and prunes by."""

    metric: Literal["tune/loss"] = "tune/loss"
    """The loss on the tune rows, for SFT the mean per supervised token. What the loss is made of, as DPO's `beta`, is
    the experiment's own whatever a trial trains by, so that trials are compared by one measure."""
    direction: Literal["minimize"] = "minimize"
    """Lower is better."""


Cost = Literal["train/tokens", "adapter/parameters", "latency"]
"""What a trial costs beside its loss: tokens of its whole training, trained weights of its adapter, and seconds that a
token of a reply takes, which are measured while the trial is scored."""


class Limits(Section):
    """Trials beyond these are infeasible: they end at once, and the sampler learns to avoid them."""

    seconds: Annotated[float, Field(gt=0)] | None = None
    """Longest training, told from a trial's pace when it is first judged."""
    memory_mb: Annotated[float, Field(gt=0)] | None = None
    """Most memory in MiB by the estimate that `plan` shows, known before anything is trained."""


class Coarse(Section):
    """A first coarse grid; fields it leaves out keep the experiment's values."""

    sampler: Literal["grid"] = "grid"
    """Every combination, in order."""
    params: dict[str, Annotated[list[Scalar], Field(min_length=1)]]
    """Values by field."""


class Sampler(Section):
    """What proposes trials after the grid."""

    kind: Literal["tpe", "gp", "cmaes", "random"] = "tpe"
    """`tpe`: tree-structured Parzen estimator (Bergstra et al., 2011); `gp`: Gaussian process; `cmaes`: CMA-ES
    (Hansen and Ostermeier, 2001), which draws categorical fields at random."""


class Halving(Section):
    """Asynchronous successive halving (Li et al., 2018): hopeless trials stop early."""

    reduction: Annotated[int, Field(ge=2)] = 3
    """One in this many trials passes each rung."""
    first_rung: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of its training after which a trial is first judged."""
    rungs: Annotated[int, Field(ge=1)] = 1
    """How often a trial is judged before its end, at most: again each time its share has grown by `reduction`. Where
    one in three goes on, a second time saves little and ends trials that would have won: few are left to finish, and
    those that train long or fast lead in the middle."""


class Confirm(Section):
    """The best trials are trained again from fresh seeds before one is called the winner."""

    top: Annotated[int, Field(ge=1)] = 2
    """How many trials are confirmed."""
    seeds: Annotated[int, Field(ge=1)] = 2
    """How many fresh seeds each."""


class SearchSpace(Document):
    """The space and the strategy of a sweep."""

    objective: Objective = Objective()
    """What is optimised."""
    costs: Annotated[list[Cost], Field(default_factory=list)]
    """What else is to be small. The search then spreads its trials over the best compromises, and the report shows
    which are not beaten in everything by another (the Pareto front); the winner is still the best confirmed one."""
    limits: Limits = Limits()
    """What a trial may take at most."""
    coarse: Coarse | None = None
    """A grid to start with."""
    sampler: Sampler = Sampler()
    """What follows the grid."""
    halving: Halving | None = Halving()
    """Early stopping; none when null."""
    confirm: Confirm = Confirm()
    """The check of the winner."""
    params: Annotated[dict[str, Range], Field(min_length=1)]
    """Ranges by dotted experiment field."""

    @model_validator(mode="after")
    def _sampler_weighs_costs(self) -> "SearchSpace":
        if self.costs and self.sampler.kind == "cmaes":
            raise ValueError("sampler cmaes knows one objective; with costs use tpe, gp or random")
        return self

    def check_against(self, experiment: Experiment) -> None:
        """Raise `ConfigError` unless every value that could be drawn makes a valid experiment."""
        self._check_one_base(experiment)
        for name, bounds in self.params.items():
            where = self.where("params", name)
            for value in bounds.ends():
                _try(experiment, {name: value}, where=where)
            own = overrides.get(experiment, name)
            if not bounds.holds(own):
                remedy = f"widen the range or change {experiment.path}"
                raise ConfigError(f"{where}: the experiment's own value {own!r} lies outside; {remedy}")
        for section in sorted({name.partition(".")[0] for name in self.params}):
            self._check_together(experiment, section)
        for name, values in (self.coarse.params if self.coarse else {}).items():
            where = self.where("coarse", "params", name)
            if name not in self.params:
                raise ConfigError(f"{where}: not among params; add its range there")
            for value in values:
                if not self.params[name].holds(value):
                    raise ConfigError(f"{where}: {value!r} lies outside its range in params")

    def _check_one_base(self, experiment: Experiment) -> None:
        """A sweep trains adapters on one base that stays loaded."""
        if experiment.adapter.kind == "full":
            raise ConfigError(
                f"{experiment.path}: adapter.kind: a sweep registers an adapter and full trains a whole model; "
                "use `tunesmith sft` for full, or lora with a higher rank"
            )
        for name in self.params:
            if name == "adapter.kind" or name.startswith("model."):
                raise ConfigError(
                    f"{self.where('params', name)}: all trials of a sweep share one loaded base; "
                    "sweep each value on its own"
                )

    def _check_together(self, experiment: Experiment, section: str) -> None:
        """Refuse fields of one section whose values exclude each other."""
        ends = {name: bounds.ends() for name, bounds in self.params.items() if name.startswith(f"{section}.")}
        for values in itertools.islice(itertools.product(*ends.values()), MOST_COMBINATIONS):
            _try(experiment, dict(zip(ends, values, strict=True)), where=self.where("params"))


def _try(experiment: Experiment, values: Mapping[str, Any], *, where: str) -> None:
    try:
        overrides.apply(experiment, values)
    except ConfigError as error:
        problem = str(error).removeprefix(f"{experiment.path}: ")
        for name in values:
            problem = problem.removeprefix(f"{name}: ")
        raise ConfigError(f"{where}: {problem}") from None
