"""What can be searched: parameters, recipes, spaces and presets. Imports no torch.

The room also holds what every other room stands on: channel alignment, the tree of errors, the publishing of files.
"""

from prunetune.spaces.alignment import Alignment, LayerKind
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
from prunetune.spaces.parameters import (
    ChoiceParameter,
    FixedParameter,
    FloatParameter,
    IntParameter,
    Parameter,
    SuggestingTrial,
)
from prunetune.spaces.presets import PRESETS
from prunetune.spaces.recipe import LatencyShare, Recipe, Region, SparsityUnit, Threshold
from prunetune.spaces.space import RegionThresholds, SearchSpace
from prunetune.spaces.splice import Splice

__all__ = [
    "PRESETS",
    "Alignment",
    "ChoiceParameter",
    "ConfigError",
    "DatasetError",
    "FixedParameter",
    "FloatParameter",
    "IntParameter",
    "LatencyShare",
    "LayerKind",
    "MeasurementError",
    "MissingExtraError",
    "ModelError",
    "Parameter",
    "PrunetuneError",
    "Recipe",
    "Region",
    "RegionThresholds",
    "SearchSpace",
    "SparsityUnit",
    "SpecChangedError",
    "Splice",
    "StoreError",
    "SuggestingTrial",
    "TargetError",
    "Threshold",
]
