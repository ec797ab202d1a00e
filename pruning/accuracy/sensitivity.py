"""What single groups of layers are worth, as values: how accurate a network is that lost channels in one of them alone.

Reading and writing them needs no torch. `prunetune.pruning.accuracy.sensitivity_analysis` finds them.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prunetune.spaces.alignment import Alignment
from prunetune.spaces.deployment import ImageSize, parse_size, plain_size
from prunetune.spaces.errors import ConfigError
from prunetune.spaces.files import write_text

FILE = "sensitivity.json"
"""What it is called in a study's folder."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Removal:
    """A group that lost channels alone, the least important ones."""

    share: float
    """What was to go, from 0 to 1. Whole blocks stay, so it may be less."""
    kept: int
    """Channels that are left."""
    map50_95: float
    """Of the network with recalibrated BatchNorm, on the validation split."""


@dataclass(frozen=True)
class GroupSensitivity:
    """Layers that lose channels together."""

    layers: tuple[str, ...]
    """The first one names the group."""
    region: str
    """`backbone`, `neck` or `head`: where its first layer is."""
    channels: int
    """That it has. Layers that additions tie share theirs."""
    removals: tuple[Removal, ...]
    """By rising share; none for a share of which no channel could go."""

    @property
    def name(self) -> str:
        """Its first layer."""
        return self.layers[0]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GroupSensitivity:
        """What stands in `Sensitivity.as_dict`."""
        removals = tuple(
            Removal(float(told["share"]), int(told["kept"]), float(told["map50_95"])) for told in values["removals"]
        )
        return cls(tuple(map(str, values["layers"])), str(values["region"]), int(values["channels"]), removals)


@dataclass(frozen=True)
class Sensitivity:
    """What the groups of a network are worth."""

    model: str
    """The network: a file, or what a study calls it."""
    importance: str
    """What channels were judged by."""
    alignment: Alignment
    """Channels were kept in multiples of it, where that left some to go."""
    imgsz: ImageSize
    """Input in px."""
    given: float
    """map50_95 of the network as it is, on the validation split."""
    map50_95: float
    """The same with recalibrated BatchNorm: what removals compare with."""
    groups: tuple[GroupSensitivity, ...]
    """From input to output."""

    def lost(self, removal: Removal) -> float:
        """What a removal costs in map50_95."""
        return self.map50_95 - removal.map50_95

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {"alignment": self.alignment.as_json(), "imgsz": plain_size(self.imgsz)}
        return {**vars(self), **plain, "groups": [asdict(group) for group in self.groups]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Sensitivity:
        """The values that `as_dict` wrote."""
        return cls(
            model=str(values["model"]),
            importance=str(values["importance"]),
            alignment=Alignment.parse(values["alignment"]),
            imgsz=parse_size(values["imgsz"]),
            given=float(values["given"]),
            map50_95=float(values["map50_95"]),
            groups=tuple(map(GroupSensitivity.from_dict, values["groups"])),
        )

    def as_csv(self) -> str:
        """A row for each removal."""
        out = io.StringIO()
        table = csv.writer(out, lineterminator="\n")
        table.writerow(["group", "layers", "region", "channels", "share", "kept", "map50_95", "lost"])
        for group in self.groups:
            own = [group.name, " ".join(group.layers), group.region, group.channels]
            for removal in group.removals:
                accuracies = [round(value, 5) for value in (removal.map50_95, self.lost(removal))]
                table.writerow([*own, removal.share, removal.kept, *accuracies])
        return out.getvalue()


def write_sensitivity(found: Sensitivity, folder: Path) -> Path:
    """Writes it into a study's folder, as one step; returns the file.

    Raises:
        StoreError: The folder cannot be written.
    """
    file = folder / FILE
    write_text(file, json.dumps(found.as_dict(), indent=1, allow_nan=False) + "\n")
    return file


def read_sensitivity(folder: Path) -> Sensitivity | None:
    """What lies in a study's folder; None where there is nothing, or the file is damaged, which the log says."""
    file = folder / FILE
    try:
        return Sensitivity.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        _log.warning("%s: not read (%s: %s)", file, type(error).__name__, error)
        return None
