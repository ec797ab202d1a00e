"""Makes ultralytics quiet, offline and importable. Call `prepare_ultralytics` before importing it.

Five things need care:

- ultralytics keeps a settings file in the user's home, looks for updates and can send usage events. A study is
  no place for that: the settings go to a folder of prunetune's own unless `YOLO_CONFIG_DIR` says otherwise, and
  nothing is sent unless the user set `YOLO_OFFLINE` himself. ONNX Runtime, by which exports are checked, reports its
  sessions unless `ORT_DISABLE_TELEMETRY` is set.
- The torchvision wheel from PyPI is built against CUDA. Beside a CPU build of torch it cannot load, and
  `import torchvision` raises RuntimeError, although ultralytics only needs its non-maximum suppression and
  carries an equal one of its own (`TorchNMS`). A stand-in module then takes torchvision's place.
- Exports of under 0.1 MB are failures to ultralytics. A strongly pruned network is as small.
- Non-maximum suppression stops after some seconds by the clock, and a batch's other images then have no detections: on
  a busy machine accuracies would differ from run to run.
- On a CPU ultralytics leaves one core idle, whatever `OMP_NUM_THREADS` and the process's cores say. Of two cores that
  is half the speed.
"""

from __future__ import annotations

import importlib.machinery
import json
import os
import sys
import tempfile
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

_TORCHVISION_NAMES = ("torchvision", "torchvision.ops", "torchvision.transforms")

MOST_THREADS = 8
"""Where the user does not say more: ultralytics' limit, which it sets for every machine."""


@cache
def prepare_ultralytics() -> None:
    """Sets ultralytics' environment and repairs torchvision in this process. Cheap after the first call."""
    threads = _threads()
    os.environ.setdefault("YOLO_OFFLINE", "True")
    os.environ.setdefault("YOLO_VERBOSE", "False")
    os.environ.setdefault("YOLO_AUTOINSTALL", "False")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if not os.environ.get("YOLO_CONFIG_DIR"):
        os.environ["YOLO_CONFIG_DIR"] = str(_settings_folder())
    if not torchvision_works():
        _stand_in_for_torchvision()
    _without_trackers()
    _with_small_exports()
    _without_time_limit()
    _with_threads(threads)


@contextmanager
def readable(file: Path) -> Iterator[Path]:
    """A path by which ultralytics finds an existing file of weights within the block.

    It takes apostrophes out of a path, blanks off its ends, and makes `yolov5nu.pt` of `yolov5n.pt`.
    """
    from ultralytics.utils.checks import check_yolov5u_filename

    path = str(file)
    if path == check_yolov5u_filename(path.strip().replace("'", ""), verbose=False):
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="prunetune-") as folder:
        link = Path(folder) / f"weights{file.suffix.strip()}"
        link.symlink_to(file.absolute())
        yield link


@cache
def torchvision_works() -> bool:
    """Whether the installed torchvision can be imported beside the installed torch."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError, OSError):
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        return False
    return True


def datasets_folder() -> Path:
    """Where ultralytics keeps data sets that are known by a name: where the user told it, else `datasets` here."""
    given = os.environ.get("YOLO_CONFIG_DIR")
    try:
        if given and Path(given) != _settings_folder():
            folder = Path(given).expanduser()
        elif sys.platform == "darwin":
            folder = Path.home() / "Library" / "Application Support"
        else:
            folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        settings = json.loads((folder / "Ultralytics" / "settings.json").read_text(encoding="utf-8"))
        return Path(settings["datasets_dir"])
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):  # a RuntimeError: there is no home
        return Path.cwd() / "datasets"


def _settings_folder() -> Path:
    """A folder for ultralytics' settings that can be written: a user may have no home, or one that is read-only."""
    with suppress(OSError, RuntimeError):
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prunetune"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    folder = Path(tempfile.gettempdir()) / f"prunetune-{os.getuid()}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.lstat().st_uid == os.getuid():
            return folder
    return Path(tempfile.mkdtemp(prefix="prunetune-"))


def _without_trackers() -> None:
    """Switches ultralytics' experiment trackers off in this process, not in the user's settings file.

    With Ray or MLflow installed it would import them for every training and report stages as runs of their own.
    """
    from ultralytics.utils import SETTINGS

    trackers = ("clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb", "sync")
    dict.update(SETTINGS, dict.fromkeys(trackers, False))


def _with_small_exports() -> None:
    """Lets ultralytics export networks of under 0.1 MB, which it takes for failures; prunetune makes such networks."""
    from ultralytics.engine import exporter

    size_of = exporter.file_size
    exporter.file_size = lambda path: max(size_of(path), 0.101)


def _without_time_limit() -> None:
    """Lets non-maximum suppression come to its end, however long it takes."""
    from ultralytics.utils import nms

    nms.time = types.SimpleNamespace(time=lambda: 0.0)


def _threads() -> int:
    """How many threads a training on a CPU has. Before ultralytics is imported: that sets `OMP_NUM_THREADS`."""
    import torch

    threads = torch.get_num_threads()
    return threads if "OMP_NUM_THREADS" in os.environ else min(threads, MOST_THREADS)


def _with_threads(threads: int) -> None:
    from ultralytics.utils import torch_utils

    torch_utils.NUM_THREADS = threads


def _stand_in_for_torchvision() -> None:
    modules = {name: types.ModuleType(name) for name in _TORCHVISION_NAMES}
    for name, module in modules.items():
        module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None, is_package=True)
        module.__path__ = []
    root = modules["torchvision"]
    root.__version__ = "0.0.0+prunetune"  # type: ignore[attr-defined]
    root.ops, root.transforms = modules["torchvision.ops"], modules["torchvision.transforms"]  # type: ignore[attr-defined]
    sys.modules.update(modules)

    from ultralytics.utils.nms import TorchNMS

    root.ops.nms = TorchNMS.nms
