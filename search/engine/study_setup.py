"""What comes before a study's trials: its model, data and targets are checked, its references measured, once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from platform import python_version

import optuna

from prunetune.pruning.data.dataset import Dataset
from prunetune.pruning.pipeline import Pipeline, Source
from prunetune.pruning.stages.cost_meter import CostMeter
from prunetune.pruning.stages.stage_runner import StageRunner
from prunetune.pruning.stages.store import StageStore
from prunetune.pruning.structure.channels import ChannelConfig
from prunetune.pruning.structure.layers import layer_regions
from prunetune.pruning.training.values import StageListener, TrainingSetup
from prunetune.results.record import StudyRecord
from prunetune.search.engine.study_check import checked_model, inspected_data
from prunetune.search.interruption import safe_point
from prunetune.search.latency.meter import LatencyMeter, measure_references
from prunetune.search.latency.network_files import NetworkExporter
from prunetune.search.latency.shares import BudgetShares
from prunetune.search.latency.shipping import Shipping
from prunetune.search.latency.study_target import StudyTarget
from prunetune.search.study.deploy import precision_problems
from prunetune.search.study.open_study import DATA, study_lock
from prunetune.search.study.store_limit import STORE
from prunetune.search.study.study_spec import StudySpec
from prunetune.search.trial.context import TrialContext
from prunetune.search.trial.figures import studied_figures
from prunetune.search.trial.trial_files import StudyFiles
from prunetune.spaces import ConfigError, ImageSize
from prunetune.spaces.alignment import Alignment
from prunetune.spaces.files import file_sha256, write_text
from prunetune.spaces.named_networks import REFERENCES
from prunetune.targets import FIGURES, MEMORY, Budget, shared

VERSIONS = ("prunetune", "torch", "ultralytics", "torch-pruning", "optuna", "onnx")
"""Packages on which a study's figures depend. Those of its targets are in their fingerprints."""


@dataclass(frozen=True)
class StudySetup:
    """A description whose model, data and targets are there and fit each other."""

    spec: StudySpec
    dataset: Dataset
    source: Source
    """The detector that the study starts from."""
    model_sha256: str | None
    """Of a model that is a checkpoint."""
    stages: StageRunner
    targets: tuple[StudyTarget, ...]
    sizes: tuple[ImageSize, ...]
    """The input sizes that the study deploys at, the largest first."""
    shipping: Shipping
    """Networks as they ship: as the first target wants them."""
    networks: NetworkExporter
    """With the reference networks."""


@dataclass(frozen=True)
class PreparedStudy:
    """A study whose trials can begin."""

    context: TrialContext
    moved: tuple[StudyTarget, ...]
    """The targets whose device is another one than it was. They have new references; the study's kept networks are to
    be measured on them again, and `sign_devices` to be called after that."""


def check_study(spec: StudySpec, listener: StageListener | None = None) -> StudySetup:
    """Checks a description against what it names.

    Args:
        spec: The study's.
        listener: Hears of every training and its epochs.

    Raises:
        ConfigError, DatasetError, ModelError, TargetError: Anything the user must mend before a trial can run.
    """
    original = checked_model(spec)
    limits = [Budget.parse(text, key) for key, text in spec.budget.items() if key in FIGURES]
    measured = {
        *spec.controls,
        *(name for limit in limits if limit.key == MEMORY for name in limit.references_needed()),
    }
    targets = tuple(
        StudyTarget.create(target, spec.limit_of(target.name), measured, target.name in spec.judged)
        for target in spec.targets
    )
    if problems := list(precision_problems(spec.deploy.precision or (), [target.target for target in targets])):
        raise ConfigError(problems)
    dataset, source = inspected_data(spec, original)
    meter = CostMeter()
    stages = _stage_runner(spec, dataset, StageStore(Path(spec.runs) / STORE), meter, listener)
    shipping = Shipping(spec.targets[0], stages, dataset.names, spec.imgsz)
    needed = {name for target in targets for name in target.reference_names}
    needed |= {name for limit in limits for name in limit.references_needed()}
    return StudySetup(
        spec=spec,
        dataset=dataset,
        source=source,
        model_sha256=file_sha256(Path(spec.model)) if source.is_checkpoint else None,
        stages=stages,
        targets=targets,
        sizes=spec.sizes(original.stride),
        shipping=shipping,
        networks=NetworkExporter(
            folder=spec.folder,
            references={name: source.reference(name) for name in REFERENCES if name in needed},
            deployment=shipping.deployment,
            cost_meter=meter,
        ),
    )


def training_setup(spec: StudySpec, data: str, dataset: Dataset) -> TrainingSetup:
    """What all trainings of a study share.

    Args:
        spec: The study's.
        data: The yaml that trainings read.
        dataset: What is in it.
    """
    return TrainingSetup(
        data=data,
        data_fingerprint=dataset.fingerprint,
        imgsz=spec.imgsz,
        batch=spec.batch,
        device=spec.device,
        workers=spec.workers,
        cache=spec.cache,
        seed=spec.seed,
        hyperparameters=spec.train,
    )


@contextmanager
def occupied(device: str) -> Iterator[None]:
    """Keeps measurements from where networks run now. Training on a GPU loads images on the CPU."""
    with ExitStack() as held:
        held.enter_context(shared("cpu"))
        if device.isdigit():
            held.enter_context(shared(f"cuda:{device}"))
        yield


def require_same_data(study: optuna.Study, setup: StudySetup) -> None:
    """Refuses data that are others than when the study began.

    Raises:
        ConfigError: They are.
    """
    record = StudyRecord.of(study)
    if record.targets and record.data_fingerprint != setup.dataset.fingerprint:
        new = setup.dataset.newly_left_out(setup.spec.folder / DATA)
        raise ConfigError(
            f"data: {setup.spec.data} has changed since the study began; {new + '; ' if new else ''}"
            "restore it, or start another study with name=..."
        )


def prepare_study(study: optuna.Study, setup: StudySetup) -> PreparedStudy:
    """Fixes, once for the study, the reference latencies that every latency is a multiple of.

    Raises:
        ConfigError: The data changed, or a device did and the description does not allow it.
    """
    spec = setup.spec
    with study_lock(spec.folder):
        require_same_data(study, setup)
        write_text(spec.folder / DATA, setup.dataset.as_yaml())
        record = StudyRecord.of(study)
        if record.data != setup.dataset.facts:
            StudyRecord.store(study, data=setup.dataset.facts)
        if record.targets and record.model_sha256 != setup.model_sha256:
            raise ConfigError(
                f"model: {spec.model} is another file than when the study began; "
                "restore it, or start another study with name=..."
            )
        if not record.targets:
            _store_originals(study, setup)
        stored = {target.name: target for target in record.targets}
        moved = _moved(setup, {name: target.fingerprint for name, target in stored.items()})
        targets = []
        for target in setup.targets:
            if target.table is not None:
                target.require_family(setup.networks.reference("dense", target))
            if target.name in stored and target.name not in moved:
                known = stored[target.name]
                targets.append(replace(target, references_ms=known.references, references_memory_mb=known.memory_mb))
            else:
                targets.append(measure_references(target, setup.networks))
        if moved or not stored:  # all that later readers compare with is there now
            StudyRecord.store(study, figures=studied_figures(spec, setup.networks.references, targets))
            foreign = {name: stored[name].fingerprint for name in moved}
            _store_targets(study, targets, foreign)
    context = _context(setup, tuple(targets), StudyRecord.of(study))
    return PreparedStudy(context, tuple(target for target in targets if target.name in moved))


def sign_devices(study: optuna.Study, context: TrialContext) -> None:
    """Stores which devices the study's latencies belong to: those of this process."""
    _store_targets(study, context.meter.targets, {})


def _context(setup: StudySetup, targets: tuple[StudyTarget, ...], record: StudyRecord) -> TrialContext:
    spec, meter = setup.spec, LatencyMeter(targets, setup.networks, predicts=not setup.spec.counts_memory)
    assert record.params_dense is not None  # stored before the references
    return TrialContext(
        spec=spec,
        dataset=setup.dataset,
        pipeline=Pipeline(
            setup.source,
            setup.stages,
            alignment=Alignment.common(target.alignment for target in spec.targets),
            longest_sparse_epochs=spec.space.longest_sparse_epochs,
            choose=spec.choose,
            latencies=BudgetShares(meter),
            rewinds=spec.space.may("start", "rewind"),
        ),
        meter=meter,
        shipping=setup.shipping,
        files=StudyFiles(spec.folder),
        dense_channels=ChannelConfig.from_dict(record.channels_dense),
        dense_params=record.params_dense,
        sizes=record.sizes,
        figures=record.figures,
    )


def _stage_runner(
    spec: StudySpec, dataset: Dataset, store: StageStore, meter: CostMeter, listener: StageListener | None
) -> StageRunner:
    choices = spec.space.sparse_epochs.values or ()
    return StageRunner(
        training_setup(spec, str((spec.folder / DATA).resolve()), dataset),
        store,
        meter=meter,
        checkpoints=frozenset(int(choice) for choice in choices),
        listener=listener,
        occupy=partial(occupied, spec.device),
        safe_point=safe_point,
    )


def _moved(setup: StudySetup, stored: Mapping[str, Mapping[str, str]]) -> set[str]:
    """The names of the targets whose device is another one than it was."""
    moved = [target for target in setup.targets if stored.get(target.name, target.fingerprint) != target.fingerprint]
    if moved and not setup.spec.allow_new_device:
        raise ConfigError([_difference(stored[target.name], target) for target in moved])
    return {target.name for target in moved}


def _store_originals(study: optuna.Study, setup: StudySetup) -> None:
    references = setup.networks.references
    half = {"channels_half": setup.networks.channels["half-width"]} if "half-width" in references else {}
    StudyRecord.store(
        study,
        channels_dense=setup.networks.channels["dense"],
        **half,
        params_dense=references["dense"].params,
        regions=layer_regions(references["dense"].model),
        data_fingerprint=setup.dataset.fingerprint,
        model_sha256=setup.model_sha256,
        sizes=setup.sizes,
        versions={name: version(name) for name in VERSIONS} | {"python": python_version()},
    )


def _store_targets(
    study: optuna.Study, targets: list[StudyTarget] | tuple[StudyTarget, ...], foreign: Mapping[str, Mapping[str, str]]
) -> None:
    """Stores the targets, with the fingerprints that are foreign to this process where they are given."""
    StudyRecord.store(
        study, targets=[target.as_studied(foreign.get(target.name, target.fingerprint)) for target in targets]
    )


def _difference(before: Mapping[str, str], target: StudyTarget) -> str:
    """Says how a target's device differs from the one that the study was measured on."""
    now = target.fingerprint
    lines = [
        f"\n  {key}: {before.get(key, 'not known')} -> {now.get(key, 'not known')}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    return (
        f"targets: {target.name} is not what the study was measured on (then -> now):{''.join(lines)}\n"
        "Latencies of the two do not compare. Go on where it began, or give allow_new_device=true: the "
        "references and all kept networks are then measured again here"
    )
