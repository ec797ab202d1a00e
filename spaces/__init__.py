"""What can be searched: parameters, recipes, spaces and presets. Imports no torch.

The room also holds what every other room stands on: channel alignment, the tree of errors, the publishing of files.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from prunetune.spaces.accuracy import Accuracy, Choice
from prunetune.spaces.alignment import Alignment, LayerKind
from prunetune.spaces.cost import Cost, StageUse
from prunetune.spaces.deployment import Deployment, ImageSize, parse_size, size_text
from prunetune.spaces.errors import (
    ConfigError,
    DatasetError,
    MeasurementError,
    MissingExtraError,
    ModelError,
    PrunetuneError,
    SpecChangedError,
    StoreError,
    TargetError,
)
from prunetune.spaces.named_networks import Splice
from prunetune.spaces.outcome import Outcome
from prunetune.spaces.presets import PRESETS
from prunetune.spaces.recipe import LatencyShare, Recipe, Region, SparsityUnit, Threshold

if TYPE_CHECKING:
    from prunetune.spaces.parameters import (
        ChoiceParameter,
        FixedParameter,
        FloatParameter,
        IntParameter,
        Parameter,
        SuggestingTrial,
    )
    from prunetune.spaces.space import RegionThresholds, SearchSpace

__all__ = [
    "PRESETS",
    "Accuracy",
    "Alignment",
    "Choice",
    "ChoiceParameter",
    "ConfigError",
    "Cost",
    "DatasetError",
    "Deployment",
    "FixedParameter",
    "FloatParameter",
    "ImageSize",
    "IntParameter",
    "LatencyShare",
    "LayerKind",
    "MeasurementError",
    "MissingExtraError",
    "ModelError",
    "Outcome",
    "Parameter",
    "PrunetuneError",
    "Recipe",
    "Region",
    "RegionThresholds",
    "SearchSpace",
    "SparsityUnit",
    "SpecChangedError",
    "Splice",
    "StageUse",
    "StoreError",
    "SuggestingTrial",
    "TargetError",
    "Threshold",
    "parse_size",
    "size_text",
]

_LATER = {
    **dict.fromkeys(("RegionThresholds", "SearchSpace"), "space"),
    **dict.fromkeys(
        ("ChoiceParameter", "FixedParameter", "FloatParameter", "IntParameter", "Parameter", "SuggestingTrial"),
        "parameters",
    ),
}


def __getattr__(name: str) -> Any:
    # pydantic is for those who describe a space, and not for those who only read what was found in one.
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"prunetune.spaces.{_LATER[name]}"), name)
