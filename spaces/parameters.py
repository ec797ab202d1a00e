"""The parameters of a search space: a range of numbers, a list of choices, or one fixed value."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Protocol, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

Value: TypeAlias = float | int | str | bool
"""What a parameter can take."""


class SuggestingTrial(Protocol):
    """What a space needs of a trial. An `optuna.Trial` has it."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = ..., log: bool = ...) -> float:
        """A number between the bounds."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = ..., log: bool = ...) -> int:
        """An integer between the bounds, both included."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of the choices."""


class _Parameter(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _Range(_Parameter):
    """What float and integer ranges share."""

    low: float = Field(strict=True)
    """Smallest value, included."""
    high: float = Field(strict=True)
    """Largest value, included."""
    log: bool = False
    """Whether equal ratios, not equal steps, count alike."""
    grid: int | None = Field(default=None, ge=2, le=1000, strict=True)
    """Search only this many evenly spaced values. A small grid lets trials share their sparse training."""

    @model_validator(mode="after")
    def _check_bounds(self) -> _Range:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high})")
        if self.log and self.low <= 0:
            raise ValueError(f"a log scale needs low > 0, not {self.low}")
        if self.grid and self.low == self.high:
            raise ValueError(f"a grid needs low < high, not both {self.low}")
        return self

    def _grid_points(self) -> tuple[float, ...]:
        if self.grid is None:
            return ()
        steps = [index / (self.grid - 1) for index in range(self.grid)]
        if self.log:
            ratio = self.high / self.low
            inner = [self.low * ratio**step for step in steps[1:-1]]
        else:
            inner = [self.low + (self.high - self.low) * step for step in steps[1:-1]]
        return (self.low, *(_round(point) for point in inner), self.high)


def _round(value: float, digits: int = 6) -> float:
    """To significant digits: a grid value is a name as well as a number."""
    return float(f"{value:.{digits}g}")


class FloatParameter(_Range):
    """A real number between `low` and `high`."""

    @property
    def largest(self) -> float:
        """The largest value it can take."""
        return self.high

    @property
    def values(self) -> tuple[float, ...] | None:
        """All values of a grid in rising order, None for a continuous range."""
        return self._grid_points() if self.grid else None

    def suggest(self, trial: SuggestingTrial, name: str) -> float:
        """Asks the trial for a value."""
        if self.values is not None:
            # Choices keep the study's parameter and the recipe's value the same. Optuna has no steps on a log scale,
            # and drops the last one where the range is no multiple of the step in binary.
            return float(trial.suggest_categorical(name, self.values))
        return float(trial.suggest_float(name, self.low, self.high, log=self.log))


class IntParameter(_Range):
    """An integer between `low` and `high`."""

    low: int = Field(strict=True)
    high: int = Field(strict=True)

    @property
    def largest(self) -> int:
        """The largest value it can take."""
        return self.high

    @property
    def values(self) -> tuple[int, ...] | None:
        """All values of a grid in rising order, None without a grid."""
        return tuple(sorted({round(point) for point in self._grid_points()})) if self.grid else None

    def suggest(self, trial: SuggestingTrial, name: str) -> int:
        """Asks the trial for a value."""
        if self.values is not None:
            return int(trial.suggest_categorical(name, self.values))
        return int(trial.suggest_int(name, self.low, self.high, log=self.log))


class ChoiceParameter(_Parameter):
    """One of a list of values."""

    choices: tuple[Value, ...] = Field(min_length=1)
    """The values; each once."""

    @model_validator(mode="after")
    def _check_choices(self) -> ChoiceParameter:
        if len(set(self.choices)) < len(self.choices):
            raise ValueError(f"choices has a value twice: {list(self.choices)}")
        return self

    @property
    def largest(self) -> Value:
        """The largest value it can take; the first one where values are not numbers."""
        numbers = [choice for choice in self.choices if isinstance(choice, (int, float))]
        return max(numbers) if len(numbers) == len(self.choices) else self.choices[0]

    @property
    def values(self) -> tuple[Value, ...]:
        """The choices."""
        return self.choices

    def suggest(self, trial: SuggestingTrial, name: str) -> Value:
        """Asks the trial for a value."""
        choice: Value = trial.suggest_categorical(name, self.choices)
        return choice


class FixedParameter(_Parameter):
    """One value, not searched."""

    value: Value
    """The value; it may stand alone."""

    @property
    def largest(self) -> Value:
        """The value."""
        return self.value

    @property
    def values(self) -> tuple[Value, ...]:
        """The value alone."""
        return (self.value,)

    def suggest(self, trial: SuggestingTrial, name: str) -> Value:
        """The value; the trial is not asked."""
        return self.value


def _kind(value: Any) -> Literal["float", "int", "choice", "fixed"] | None:
    """Tells which parameter a value from YAML describes."""
    if isinstance(value, FixedParameter) or (isinstance(value, dict) and set(value) == {"value"}):
        return "fixed"
    if isinstance(value, ChoiceParameter) or (isinstance(value, dict) and "choices" in value):
        return "choice"
    if isinstance(value, (IntParameter, FloatParameter)):
        return "int" if isinstance(value, IntParameter) else "float"
    if isinstance(value, dict):
        bounds = [value.get("low"), value.get("high")]
        whole = all(isinstance(bound, int) and not isinstance(bound, bool) for bound in bounds)
        return "int" if whole else "float"
    return None


Parameter = Annotated[
    Annotated[FloatParameter, Tag("float")]
    | Annotated[IntParameter, Tag("int")]
    | Annotated[ChoiceParameter, Tag("choice")]
    | Annotated[FixedParameter, Tag("fixed")],
    Discriminator(_kind),
]
"""Any parameter. In YAML: `{low, high, log, grid}`, `{choices: [...]}`, or the fixed value itself."""


def parse_shorthand(value: Any) -> Any:
    """Writes a bare value as a fixed parameter; leaves everything else to validation."""
    if isinstance(value, (int, float, str)) and not (isinstance(value, float) and math.isnan(value)):
        return {"value": value}
    return value
