"""Where a study's networks run: at which input sizes, in which precisions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, field_validator

from prunetune.spaces import Deployment, ImageSize, parse_size, size_text
from prunetune.spaces.deployment import plain_size
from prunetune.targets import Target
from prunetune.targets.spec import Precision

SHARES = (1.0, 0.85, 0.7, 0.55, 0.4)
"""Of the study's input size, where a description does not say at which sizes it deploys."""

FEWEST_STRIDES = 2
"""A smaller input has a single cell left at the coarsest level of a detector."""


Size = Annotated[Any, BeforeValidator(parse_size), PlainSerializer(plain_size)]


class DeploySettings(BaseModel):
    """At which input sizes and in which precisions networks are evaluated and measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    imgsz: tuple[Size, ...] | None = None
    """Sizes in px, `640` or `[384, 640]`; recipes are drawn from them too. By default the study's and 0.85, 0.7, 0.55
    and 0.4 of it, in multiples of the detector's stride, from two strides on."""
    precision: tuple[Precision, ...] | None = None
    """Number formats that networks are looked at in; by default what each target is set to."""

    @field_validator("imgsz", "precision")
    @classmethod
    def _each_once(cls, given: Any) -> Any:
        if given is not None and not given:
            raise ValueError("is empty; give one at least, or leave it out")
        if given is not None and len(set(given)) < len(given):
            raise ValueError("has a value twice")
        return given

    @field_validator("imgsz")
    @classmethod
    def _largest_first(cls, given: Any) -> Any:
        return given and tuple(sorted(given, key=lambda size: Deployment(size).pixels, reverse=True))

    def sizes(self, imgsz: int, stride: int) -> tuple[ImageSize, ...]:
        """The input sizes of a study, the largest first.

        Args:
            imgsz: The study's, in px.
            stride: Its detector's.
        """
        if self.imgsz is not None:
            return self.imgsz
        steps = dict.fromkeys(round(share * imgsz / stride) for share in SHARES)
        return (imgsz, *(step * stride for step in steps if FEWEST_STRIDES <= step < imgsz / stride))


def size_problems(key: str, sizes: Iterable[ImageSize], imgsz: int, stride: int) -> Iterator[str]:
    """What is wrong with input sizes for a study's own size and its detector's stride.

    Args:
        key: Where the sizes stand in the description.
        sizes: The sizes.
        imgsz: The study's, in px.
        stride: The detector's.
    """
    least = FEWEST_STRIDES * stride
    for size in sizes:
        sides = Deployment(size).height_width
        if max(sides) > imgsz:
            yield f"{key}: {size_text(size)} is larger than imgsz: {imgsz}; give a larger imgsz, or leave it out"
        elif wrong := [side for side in sides if side % stride or side < min(least, imgsz)]:
            needed = f"takes multiples of {stride}, the model's stride, from {least} on"
            yield f"{key}: {size_text(size)}: {needed}, not {wrong[0]}"


def precision_problems(precisions: Sequence[str], targets: Sequence[Target]) -> Iterator[str]:
    """What is wrong with the precisions that a study deploys in: each of its targets has to run them."""
    for precision in precisions:
        for target in targets:
            if precision not in target.precisions:
                yield (
                    f"deploy.precision: {precision}: target {target.name!r} runs {' and '.join(target.precisions)}; "
                    "leave it out"
                )


def further(own: Deployment, sizes: Sequence[ImageSize], precisions: Sequence[str]) -> list[Deployment]:
    """The deployments at which a network is looked at without training it for them: no side larger than its own, and
    each precision; the largest first, its own left out.

    Args:
        own: What the network was trained for.
        sizes: The study's, the largest first.
        precisions: The study's.
    """
    height, width = own.height_width
    fitting = [own.imgsz, *(size for size in sizes if size != own.imgsz and _fits(size, height, width))]
    every = [replace(own, imgsz=size, precision=precision) for size in fitting for precision in precisions]
    return [deployment for deployment in every if deployment != own]


def _fits(size: ImageSize, height: int, width: int) -> bool:
    sides = Deployment(size).height_width
    return sides[0] <= height and sides[1] <= width
