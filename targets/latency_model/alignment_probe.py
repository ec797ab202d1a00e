"""Finds a device's alignment: times single convolutions over channel counts and reads the steps off."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from prunetune.spaces.alignment import Alignment
from prunetune.spaces.errors import TargetError
from prunetune.targets.latency_model.alignment_curve import (
    LOWEST,
    WIDTHS,
    AlignmentCurve,
    LatencyCurve,
    find_alignment_curve,
)
from prunetune.targets.latency_model.convolution import Convolution
from prunetune.targets.protocol import Target

Role: TypeAlias = Literal["outputs", "inputs", "first", "depthwise"]
"""Which channels are varied: those that a convolution writes; those that it reads; those that one on the image
writes; those of a depthwise one."""

ROLES: tuple[Role, ...] = ("outputs", "inputs", "first", "depthwise")

_FIXED = 64
"""Channels on the side of a convolution that is not varied: whole blocks of any size."""


@dataclass(frozen=True)
class AlignmentProbe:
    """What a probe measured, and what follows."""

    curves: Mapping[Role, tuple[LatencyCurve, ...]]
    fingerprint: Mapping[str, str]
    """Hardware, runtime and settings."""
    imgsz: int
    """Side of the detector's input that the convolutions are taken from, in px."""
    alignment_curves: Mapping[Role, AlignmentCurve]

    @property
    def alignment(self) -> Alignment:
        """What to prune with.

        A channel is written by one layer and read by the next, so `default` suits both: it is the least common
        multiple of what outputs and inputs want. Where the first layer or depthwise ones tell nothing, they follow it.
        """
        wanted = {role: curve.multiple for role, curve in self.alignment_curves.items()}
        default = math.lcm(wanted["outputs"] or 1, wanted["inputs"] or 1)
        return Alignment(default, wanted["first"] or default, wanted["depthwise"] or default)

    @property
    def uncertain(self) -> tuple[Role, ...]:
        """Whose steps the measurement leaves in doubt."""
        return tuple(role for role in ROLES if not self.alignment_curves[role].certain)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the median of each point in ms."""
        return {
            "alignment": self.alignment.as_json(),
            "uncertain": list(self.uncertain),
            "imgsz": self.imgsz,
            "target": dict(self.fingerprint),
            "roles": {
                role: {
                    "multiple": self.alignment_curves[role].multiple,
                    "costs": [cost.as_dict() for cost in self.alignment_curves[role].costs],
                    "curves": [curve.as_dict() for curve in self.curves[role]],
                }
                for role in ROLES
            },
        }


def probe_alignment(target: Target, imgsz: int) -> AlignmentProbe:
    """Measures convolutions of a detector's shapes over `WIDTHS`, those of each shape interleaved.

    Shapes are measured one after the other: a curve is compared with itself only, and all of them at once would be
    264 processes where each network has its own.

    Args:
        target: The device.
        imgsz: Side of the detector's input, in px; from 32. A small one leaves a fast device nothing to do.

    Raises:
        TargetError: The latency does not follow the channels, the target keeps no times of single rounds, or it
            cannot run the convolutions.
    """
    times: dict[tuple[Role, str], dict[int, tuple[float, ...]]] = {}
    for (role, name), convolutions in _shapes(imgsz).items():
        with tempfile.TemporaryDirectory(prefix="prunetune-") as folder:
            networks = {
                width: convolution.network(f"{role}, {name}, {width} channels", target.form, Path(folder))
                for width, convolution in convolutions.items()
            }
            measured = target.measure(list(networks.values()), reference=networks[LOWEST].name)
        times[role, name] = {width: measured[network.name].samples_ms for width, network in networks.items()}
    if not all(all(rounds.values()) for rounds in times.values()):
        raise TargetError(f"target {target.name!r}: gives no times of single rounds, which a probe needs")
    curves = {
        role: tuple(LatencyCurve(name, rounds) for (of, name), rounds in times.items() if of == role) for role in ROLES
    }
    alignment_curves = {role: find_alignment_curve(curves[role]) for role in ROLES}
    if alignment_curves["outputs"].multiple is None:
        raise TargetError(
            f"target {target.name!r}: at imgsz {imgsz}, latency does not follow the number of channels (from "
            f"{WIDTHS[0]} to {WIDTHS[-1]} it grows by {curves['outputs'][0].growth:.0%}); give a larger imgsz"
        )
    return AlignmentProbe(curves, target.fingerprint(), imgsz, alignment_curves)


def _shapes(imgsz: int) -> dict[tuple[Role, str], dict[int, Convolution]]:
    """The convolutions by role and name, and by the width that is varied."""
    shapes: dict[tuple[Role, str], dict[int, Convolution]] = {}
    for kernel, side in ((3, imgsz // 8), (3, imgsz // 16), (1, imgsz // 8)):
        name = f"{kernel}x{kernel} at {side} px"
        shapes["outputs", name] = {width: Convolution(_FIXED, width, kernel, side) for width in WIDTHS}
        shapes["inputs", name] = {width: Convolution(width, _FIXED, kernel, side) for width in WIDTHS}
    # At half of the image's side: steps do not depend on it, and a quarter of the time does.
    name = f"6x6 at {imgsz // 2} px"
    shapes["first", name] = {width: Convolution(3, width, 6, imgsz // 2, stride=2) for width in WIDTHS}
    name = f"3x3 at {imgsz // 8} px"
    shapes["depthwise", name] = {width: Convolution(width, width, 3, imgsz // 8, depthwise=True) for width in WIDTHS}
    return shapes
