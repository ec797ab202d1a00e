"""ultralytics' own reading of images and their labels, without its writing.

ultralytics saves a JPEG anew that has bytes after its end, pickles what it read into a `.cache` file beside the labels,
and believes such a file when it finds one. A data set is the user's: here each image is shown to ultralytics through a
link in a folder of its own, where whatever it saves is thrown away, and what it read stays in memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import cv2
from PIL import Image

from prunetune.pruning.yolo.compat import prepare_ultralytics

prepare_ultralytics()
from ultralytics.data import YOLODataset  # noqa: E402
from ultralytics.data.augment import LetterBox  # noqa: E402
from ultralytics.data.utils import get_split_fraction, verify_image_label  # noqa: E402
from ultralytics.utils.patches import imread  # noqa: E402

THREADS = min(8, os.cpu_count() or 1)

Arguments: TypeAlias = tuple[Any, ...]
"""Those of ultralytics' `verify_image_label`: an image's name first, then its label file's."""

Result: TypeAlias = "list[Any] | tuple[Any, ...]"
"""What it gives: the image's name first, None for one that ultralytics leaves out; rows second, a message last."""

_PREFACE = "ignoring corrupt image/label: "


def read_images(arguments: Iterable[Arguments]) -> Iterator[Result]:
    """What ultralytics makes of images and labels, in their order; no file is changed."""
    Image.init()  # loads Pillow's plugins once; threads would race for it
    with tempfile.TemporaryDirectory(prefix="prunetune-") as folder, ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(lambda one: _read(one, Path(folder)), arguments)


def reason(result: Result) -> str:
    """Why ultralytics leaves an image out."""
    text = str(result[-1]).partition(_PREFACE)[2].strip()
    if "pi_heif" in text:  # ultralytics imports a reader for yet another format when none knows a file
        return "no known image format"
    return text.splitlines()[0].removesuffix(". Supported formats are:") if text else "it cannot be read"


def is_decodable(image: Path, channels: int) -> bool:
    """Whether ultralytics gets pixels from an image, which it finds out while it trains."""
    flags = {1: cv2.IMREAD_GRAYSCALE, 3: cv2.IMREAD_COLOR}.get(channels, cv2.IMREAD_UNCHANGED)
    return imread(str(image), flags) is not None


def _read(arguments: Arguments, folder: Path) -> Result:
    image, *others = arguments
    link = folder / f"{uuid4().hex}{Path(image).suffix}"
    try:
        link.symlink_to(Path(image).absolute())
    except (OSError, ValueError) as error:  # a name that no file can have
        return [None] * 5 + [0, 0, 0, 1, f"{_PREFACE}{error}"]
    *result, message = verify_image_label((str(link), *others))
    link.unlink()
    if result[0] is not None:
        result[0] = image
    return [*result, message.replace(str(link), str(image))]


class StudyImages(YOLODataset):
    """ultralytics' data set of a split, which leaves the user's folder as it is.

    Args:
        options: ultralytics' arguments of the training.
        source: Folders or lists of images.
        batch: Images per step.
        data: ultralytics' description of the data set. Images in its `left_out` are not used.
        mode: `train` augments, `val` does not.
        stride: The detector's, to whose multiples the images of a batch are padded; None pads them to squares.
        rectangle: Height and width in px that all images get, without augmentation and stride: as ultralytics validates
            a file with such an input, their longer side becomes that of the rectangle first.
    """

    im_files: list[str]

    def __init__(
        self,
        options: Any,
        source: Any,
        batch: int,
        data: dict[str, Any],
        mode: str,
        stride: int | None,
        rectangle: tuple[int, int] | None = None,
    ) -> None:
        augments = mode == "train"
        self._rectangle = rectangle
        super().__init__(  # as ultralytics' `build_yolo_dataset` does
            img_path=source,
            imgsz=options.imgsz,
            batch_size=batch,
            augment=augments,
            hyp=options,
            rect=options.rect or stride is not None,
            cache=options.cache or None,
            single_cls=options.single_cls or False,
            stride=stride or 32,
            pad=0.0 if augments else 0.5,
            prefix=f"{mode}: ",
            task=options.task,
            classes=options.classes,
            data=data,
            fraction=get_split_fraction(options.fraction, "train" if augments else options.split),
        )

    def build_transforms(self, hyp: Any = None) -> Any:
        """See `YOLODataset`."""
        transforms = super().build_transforms(hyp)
        if self._rectangle is not None:
            transforms.transforms[0] = LetterBox(self._rectangle, scaleup=False)  # in the place of that to a square
        return transforms

    def get_labels(self) -> list[dict[str, Any]]:
        """See `YOLODataset`."""
        left_out = {os.fsencode(name) for name in self.data.get("left_out") or ()}
        self.im_files = [file for file in self.im_files if os.fsencode(Path(file).absolute()) not in left_out]
        self.get_label_files()
        _, arguments = self.verify_args()
        labels = [self.result_to_label(result)[0] for result in read_images(arguments)]
        labels = [label for label in labels if label is not None]
        if not labels:
            raise FileNotFoundError(f"{self.img_path}: none of its images can be used any more")
        self.im_files = [label["im_file"] for label in labels]
        self.verify_labels(labels, Path(str(self.img_path)))
        return labels
