"""`prunetune pictures`: what the controls and a chosen network find on the same images."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from prunetune.pruning.accuracy.detections import Box, detect, labelled
from prunetune.pruning.data.dataset import inspect_dataset
from prunetune.pruning.training.loaders import DataLoaders
from prunetune.pruning.training.values import TrainingSetup
from prunetune.results.figures.pictures import Picture, draw, evenly, most_different
from prunetune.results.findings.findings import Findings
from prunetune.results.study_results import StudyResults
from prunetune.search.options.options import named
from prunetune.search.study.open_study import DATA, spec_here
from prunetune.search.study.store_limit import STORE
from prunetune.search.study.study_spec import StudySpec, control_name
from prunetune.spaces import ConfigError
from prunetune.spaces.files import publish

QUALITY = 90
"""Of the JPEG files."""


def make_pictures(
    study: Findings, folder: Path, name: str | None, out: Path, count: int, confidence: float, console: Console
) -> list[Path]:
    """Draws what the controls and a network find, side by side.

    The images are those of the test split; of the validation split where there is none. Some are taken at equal
    distances (`sample-...`), the others are those on which the network differs most from the controls
    (`different-...`).

    Args:
        study: The study.
        folder: Its folder.
        name: The network's, such as `7` or `7.1`; the most accurate of the front if None.
        out: The folder to write to.
        count: How many images of each kind.
        confidence: From which confidence on a detection is drawn.
        console: Where progress is shown.

    Returns:
        The files.

    Raises:
        ConfigError: There is no such network.
        ModelError: A network's file is missing or damaged.
        StoreError: The folder cannot be written.
    """
    if name is None:
        if study.best is None:
            raise ConfigError("--trial: the front is empty; give the name of a network that was kept")
        name = study.best.name
    results, spec = StudyResults(study, folder), spec_here(study, folder)
    controls = [name for name in map(control_name, spec.controls) if name in study.baselines]
    candidates = [results.candidate(name) for name in controls if study.baselines[name].checkpoint]
    with named("--trial"):
        candidates.append(results.candidate(name))
    networks = {candidate.network.title: candidate for candidate in candidates}
    chosen = candidates[-1].network.title
    for candidate in candidates:
        candidate.load()  # a damaged one is told before anything is drawn
    loaders = _loaders(spec, folder)
    if _are_others(study, folder):
        console.print("note: these images or labels are others than the study's figures are of", soft_wrap=True)
    images = labelled(loaders, "test" if loaders.has_test else "val")
    files = [file for file, _ in images]
    found: dict[str, list[tuple[Box, ...]]] = {}
    for title, candidate in networks.items():
        with console.status(f"{title} on {len(files)} images"):
            imgsz = candidate.network.deployment.imgsz
            found[title] = detect(candidate.checkpoint, files, imgsz, confidence, spec.device)
    pictures = [
        Picture(file, boxes, {title: found[title][index] for title in networks})
        for index, (file, boxes) in enumerate(images)
    ]
    names = [loaders.data["names"][index] for index in sorted(loaders.data["names"])]
    shown = {"sample": evenly(pictures, count), "different": most_different(pictures, chosen, count)}
    written = []
    for kind, some in shown.items():
        for number, picture in enumerate(some, start=1):
            path = out / f"{kind}-{number:02d}-{picture.file.stem}.jpg"
            with publish(path) as draft:
                draw(picture, names).save(draft, "JPEG", quality=QUALITY)
            written.append(path)
    return written


def _are_others(study: Findings, folder: Path) -> bool:
    store = folder.parent / STORE
    found = inspect_dataset(folder / DATA, store / "datasets.json" if store.is_dir() else None)
    return found.fingerprint != study.study.data_fingerprint


def _loaders(spec: StudySpec, folder: Path) -> DataLoaders:
    data = folder / DATA  # the study's own, with absolute paths
    setup = TrainingSetup(str(data), "", spec.imgsz, batch=1, device=spec.device, workers=0, cache="")
    try:
        return DataLoaders(setup)
    except FileNotFoundError as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"data: {data}: its images cannot be found ({reason}); restore them, or correct the file"
        ) from error
