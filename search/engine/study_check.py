"""Checks a description against its model and data, before anything is trained or measured."""

from __future__ import annotations

import os
from pathlib import Path

from prunetune.pruning.data.data_source import data_problem
from prunetune.pruning.data.dataset import Dataset, inspect_dataset
from prunetune.pruning.pipeline import Source, is_checkpoint
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.pruning.training.device import device_problem
from prunetune.pruning.training.hyperparameters import hyperparameter_problems
from prunetune.pruning.yolo.detector import Detector
from prunetune.search.study.store_limit import STORE
from prunetune.search.study.study_spec import StudySpec
from prunetune.spaces import ConfigError, Deployment, ModelError
from prunetune.spaces.named_networks import REFERENCES


def checked_model(spec: StudySpec) -> Detector:
    """The detector of a description whose device, model, training arguments and controls are right, and its data there.

    Raises:
        ConfigError: With all that is wrong.
    """
    problems: list[str] = []
    if problem := device_problem(spec.device):
        problems.append(f"device: {problem}")
    original = _loaded_model(spec, problems)
    sizes = (spec.imgsz,) if original is None else spec.sizes(original.stride)
    smallest = min(max(Deployment(size).height_width) for size in sizes)  # a rectangle is trained on its longer side
    problems += [f"train.{problem}" for problem in hyperparameter_problems(spec.train, smallest)]
    for control in spec.controls:
        if control not in REFERENCES:
            _check_control(spec, control, problems)
    if problem := data_problem(spec.data):
        problems.append(problem)
    if problems or original is None:
        raise ConfigError(problems)
    return original


def inspected_data(spec: StudySpec, original: Detector) -> tuple[Dataset, Source]:
    """A description's data set, looked through, and the detector that it starts from as the data set wants it.

    Raises:
        DatasetError: Something is wrong with the data.
        ConfigError: A given checkpoint has other classes or channels.
    """
    dataset = inspect_dataset(spec.data, cache=Path(spec.runs) / STORE / "datasets.json")
    source = Source(spec.model, dataset.names, spec.dense_epochs, dataset.channels)
    if source.is_checkpoint and (problem := source.mismatch(original)):
        raise ConfigError(f"model: {spec.model}: {problem}")
    return dataset, source


def _loaded(spec: StudySpec, key: str, model: str, problems: list[str]) -> Detector | None:
    """A detector that a description names; None, and the problem told, where it cannot be had."""
    if is_checkpoint(model) and os.path.isfile(model) and not spec.trust:
        distrusted = Detector.distrusted(Path(model))
        if distrusted is not None:
            trust = "If you trust who made it, give trust: true, or trust=true on the command line"
            problems.append(f"{key}: {model}: {distrusted}. {trust}")
            return None
    try:
        detector = Detector.load(model)
        detector.require_boxes()
    except ModelError as error:
        problems.append(f"{key}: {error}")
        return None
    return detector


def _check_control(spec: StudySpec, file: str, problems: list[str]) -> None:
    detector = _loaded(spec, "controls", file, problems)
    if detector is None:
        return
    for size in (spec.imgsz, *(spec.deploy.imgsz or ())):
        if problem := detector.imgsz_problem(size):
            problems.append(f"controls: {problem}")


def _loaded_model(spec: StudySpec, problems: list[str]) -> Detector | None:
    model = spec.model
    if Path(model).suffix.lower() not in (".yaml", ".yml", ".pt"):
        problems.append(f"model: takes a .yaml or a .pt, not {model!r}")
        return None
    detector = _loaded(spec, "model", model, problems)
    if detector is None:
        return None
    if problem := detector.imgsz_problem(spec.imgsz):
        problems.append(f"imgsz: {problem}")
    problems += spec.size_problems(detector.stride)
    try:
        channel_groups(detector.model)  # now, not after its dense training
    except ModelError as error:
        problems.append(f"model: {model}: {error}")
    return detector
