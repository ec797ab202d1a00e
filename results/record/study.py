"""What a study knows beside its trials. Only here is it said by which keys a study's attributes are stored.

What is missing is empty; what is damaged is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.study import Study

from prunetune.pruning.data.data_facts import DataFacts
from prunetune.results.record.confirmation import Confirmation
from prunetune.results.record.figure import StudiedFigure
from prunetune.results.record.network_result import NetworkResult, parse_latencies
from prunetune.results.record.target import StudiedTarget
from prunetune.spaces.accuracy import Accuracy
from prunetune.spaces.deployment import ImageSize, parse_size
from prunetune.spaces.errors import StoreError
from prunetune.spaces.fields import integer, items, mapping, number, text, widths
from prunetune.targets.latency import NormalizedLatency

UNREADABLE = ("0.1.",)
"""Beginnings of the versions whose studies are laid out otherwise."""


@dataclass(frozen=True)
class Baseline:
    """A network that a study compares with, and how it was trained."""

    network: NetworkResult
    epochs: int | None = None
    """Epochs of its training; of a checkpoint that was given, those of training on."""
    map50_95_given: float | None = None
    """Of a checkpoint as it was given; None for a network that was trained from the beginning."""
    map50_95_trained_on: float | None = None
    """Of the same after its epochs of training on. If they cost accuracy, the network is the one that was given."""

    @property
    def points_lost(self) -> float | None:
        """How many points of map50_95 training on has cost a checkpoint that was given; None where it cost none."""
        given, now = self.map50_95_given, self.map50_95_trained_on
        return None if given is None or now is None or now >= given else 100 * (given - now)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "network": self.network.as_dict()}

    @classmethod
    def parse(cls, stored: Any) -> Baseline | None:
        """The baseline that `as_dict` wrote; None where its network is missing or damaged."""
        told = mapping(stored)
        if (network := NetworkResult.parse(told.get("network"))) is None:
            return None
        given, trained_on = number(told.get("map50_95_given")), number(told.get("map50_95_trained_on"))
        return cls(network, integer(told.get("epochs")), given, trained_on)


@dataclass(frozen=True)
class StudyRecord:
    """A study's attributes."""

    spec: Mapping[str, Any] = field(default_factory=dict)
    """The description that it was started with, as plain values; empty for a study that prunetune did not make."""
    version: str = ""
    """Of prunetune, when it was started."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the packages on which its figures depend."""
    targets: tuple[StudiedTarget, ...] = ()
    """In the order of the description; empty before the references are measured."""
    figures: tuple[StudiedFigure, ...] = ()
    """What it minimises or limits beside latency."""
    data: DataFacts = field(default_factory=DataFacts)
    data_fingerprint: str = ""
    model_sha256: str | None = None
    """Of the checkpoint that it prunes."""
    channels_dense: Mapping[str, int] = field(default_factory=dict)
    channels_half: Mapping[str, int] = field(default_factory=dict)
    params_dense: int | None = None
    regions: Mapping[str, str] = field(default_factory=dict)
    """`backbone`, `neck` or `head` of each layer."""
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    """By name: `dense`, `half-width`, ...; `dense@96` is the same network at 96 px, `dense-96` was trained on there."""
    sizes: tuple[ImageSize, ...] = ()
    """The input sizes that the study deploys at, the largest first."""
    confirmed: Mapping[str, Mapping[str, NormalizedLatency]] = field(default_factory=dict)
    """The last interleaved measurements, by the network's name and target."""
    test: Mapping[str, Accuracy] = field(default_factory=dict)
    """On the test split, by the network's name."""
    exports: Mapping[str, str] = field(default_factory=dict)
    """ONNX files relative to the study's folder, by the network's name."""
    confirmation: Confirmation | None = None
    """What the last `prunetune confirm` found."""
    finished: int | None = None
    """How many trials had ended when its results were last written; None when they must be written anew."""

    @classmethod
    def of(cls, study: Study) -> StudyRecord:
        """Reads a study.

        Raises:
            StoreError: Another version made it, whose studies are laid out otherwise.
        """
        return cls.parse(study.study_name, study.user_attrs)

    @classmethod
    def parse(cls, name: str, attrs: Mapping[str, Any]) -> StudyRecord:
        """Reads the attributes of a study of this name. Raises as `of` does."""
        version = text(attrs.get("version")) or ""
        if version.startswith(UNREADABLE):
            raise StoreError(
                f"{name}: prunetune {version} made this study, and studies of 0.1 are not read any more: read it with "
                f"prunetune=={version}, or start another one with name={name}-2"
            )
        targets = map(StudiedTarget.parse, items(attrs.get("targets")))
        figures = map(StudiedFigure.parse, items(attrs.get("figures")))
        baselines = {str(key): Baseline.parse(value) for key, value in mapping(attrs.get("baselines")).items()}
        tested = {str(key): Accuracy.parse(value) for key, value in mapping(attrs.get("test")).items()}
        confirmed = {str(key): parse_latencies(value) for key, value in mapping(attrs.get("confirmed")).items()}
        return cls(
            spec=mapping(attrs.get("spec")),
            version=version,
            versions=_texts(attrs.get("versions")),
            targets=tuple(target for target in targets if target is not None),
            figures=tuple(figure for figure in figures if figure is not None),
            data=DataFacts.parse(attrs.get("data")),
            data_fingerprint=text(attrs.get("data_fingerprint")) or "",
            model_sha256=text(attrs.get("model_sha256")),
            channels_dense=widths(attrs.get("channels_dense")),
            channels_half=widths(attrs.get("channels_half")),
            params_dense=integer(attrs.get("params_dense")),
            regions=_texts(attrs.get("regions")),
            baselines={key: value for key, value in baselines.items() if value is not None},
            sizes=_sizes(attrs.get("sizes")),
            confirmed={key: value for key, value in confirmed.items() if value},
            test={key: value for key, value in tested.items() if value is not None},
            exports=_texts(attrs.get("exports")),
            confirmation=Confirmation.parse(attrs.get("confirmation")),
            finished=integer(attrs.get("finished")),
        )

    def kept(self, channels: Mapping[str, int]) -> Mapping[str, int]:
        """What a network keeps of the dense network's channels, by layer: 0 where a layer is missing.

        Of residual blocks the last of a container are missing, whichever went: those behind one take its name.

        Args:
            channels: The network's. Where they have layers that the dense network does not, or none at all, they say
                nothing of what was removed, and stay as they are.
        """
        is_part = bool(channels) and channels.keys() <= self.channels_dense.keys()
        return {layer: channels.get(layer, 0) for layer in self.channels_dense} if is_part else channels

    @staticmethod
    def store(study: Study, **changes: Any) -> None:
        """Stores fields with a study.

        Args:
            study: The study.
            changes: Values by the names of fields.
        """
        for name, value in changes.items():
            if name not in StudyRecord.__dataclass_fields__:
                raise TypeError(f"{name}: is no field of a study's record")
            study.set_user_attr(name, _plain(value))


def _texts(stored: Any) -> dict[str, str]:
    found = {str(name): text(value) for name, value in mapping(stored).items()}
    return {name: value for name, value in found.items() if value is not None}


def _sizes(stored: Any) -> tuple[ImageSize, ...]:
    try:
        return tuple(map(parse_size, items(stored)))
    except ValueError:
        return ()


def _plain(value: Any) -> Any:
    if hasattr(value, "as_dict"):
        return value.as_dict()
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
