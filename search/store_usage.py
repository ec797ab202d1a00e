"""Which studies use a stage store, and so what nobody needs any more."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import optuna
from optuna.trial import TrialState

from prunetune.pruning.claims import Claims, Sign
from prunetune.pruning.inventory import DRAFT, UNFINISHED, Item, needed_by, read_items, read_uses
from prunetune.pruning.store import CLAIMS, REGISTRATION, STAGES, STUDIES, StageStore
from prunetune.results.address import public_address
from prunetune.results.record import TrialRecord
from prunetune.search.spec import StudySpec
from prunetune.search.study import find_study
from prunetune.spaces import ConfigError
from prunetune.spaces.files import write_text

STORE = ".store"
"""The folder of stages inside `runs`: all studies there share them."""

_DATA = "data.yaml"
_SHARED_KINDS = ("original-", "early-", "control-")


@dataclass(frozen=True)
class StudyUse:
    """A study that uses a store.

    Attributes:
        name: Its name, and that of its folder below `runs`.
        state: `here`: its folder is there. `elsewhere`: its folder is gone, but its record is in another storage.
            `gone`: nothing is left of it. `unknown`: its folder is there, and what it uses cannot be told.
        storage: The address of its storage, without user and password, if that is not in its folder.
        digests: The stages and trunks that it has used.
        problem: Why it cannot be told what it uses.
    """

    name: str
    state: Literal["here", "elsewhere", "gone", "unknown"]
    storage: str
    digests: frozenset[str]
    problem: str = ""


@dataclass(frozen=True)
class Contents:
    """All that is in a store, and who uses it.

    Attributes:
        runs: The folder of studies.
        items: What is stored.
        studies: Who uses it.
        claims: The living claims.
        now: The time, by the file system's clock.
    """

    runs: Path
    items: tuple[Item, ...]
    studies: tuple[StudyUse, ...]
    claims: tuple[Sign, ...]
    now: float

    @property
    def root(self) -> Path:
        """The store's folder."""
        return self.runs / STORE

    def needed(self, without: Collection[str] = ()) -> dict[Path, set[str]]:
        """The path of each item to the studies that need it, but for some of them, and to the processes that train."""
        uses = {
            study.name: study.digests for study in self.studies if study.state != "gone" and study.name not in without
        }
        for sign in self.claims:
            told = (sign.holder.stage, sign.holder.parent) if sign.holder else ()
            uses[f"process {sign.holder}"] = frozenset({sign.trunk, *told})
        return needed_by(self.items, uses)


@dataclass(frozen=True)
class Garbage:
    """What can be freed.

    Attributes:
        items: What nobody needs.
        studies: The studies that need not be remembered.
        doubts: Why items are kept though no study is known to need them.
    """

    items: tuple[Item, ...]
    studies: tuple[str, ...]
    doubts: tuple[str, ...]


def register(store: StageStore, study: optuna.Study, spec: StudySpec) -> None:
    """Lets a store know that a study uses it. What a study used before the store took notes is noted now."""
    file = store.root / STUDIES / spec.name / REGISTRATION
    if not file.exists():
        trials = study.get_trials(deepcopy=False)
        for digest in _digests(trials):
            store.use(digest)
        if trials:
            for digest in _shared_stages(store.root):
                store.use(digest)
    registration = {"storage": public_address(spec.storage) if spec.storage else None}
    if _read_registration(file) != registration:
        write_text(file, json.dumps(registration))  # last: a death before it repeats all of this


def read_contents(runs: Path) -> Contents:
    """Reads what is in the store of a folder of studies. Creates nothing.

    Raises:
        StoreError: There is no store.
    """
    root = runs / STORE
    claims = Claims(root / CLAIMS)
    now = claims.now()
    items = read_items(root, now)  # before the studies: a stage is noted as used, and then published
    studies = read_studies(runs)
    return Contents(runs, tuple(items), tuple(studies), tuple(claims.living()), now)


def read_studies(runs: Path) -> list[StudyUse]:
    """The studies that are registered in the store below `runs`, and those that have a folder there."""
    registered = read_uses(runs / STORE)
    found = [_registered(runs, name, digests) for name, digests in registered.items()]
    for folder in sorted(runs.iterdir()):
        is_study = os.path.isfile(folder / "study.db") or os.path.isfile(folder / _DATA)
        if is_study and not folder.name.startswith(".") and folder.name not in registered:
            found.append(_unregistered(runs, folder))
    return found


def find_garbage(contents: Contents, forget: Collection[str] = ()) -> Garbage:
    """What can be freed of a store.

    Args:
        contents: What is in it.
        forget: Studies that do not count though their storage may still have them.

    Raises:
        ConfigError: A study that is to be forgotten is not known, or its folder is there.
    """
    known = {study.name: study for study in contents.studies}
    for name in forget:
        if name not in known:
            raise ConfigError(f"--forget {name}: the store knows no such study; it knows {', '.join(known) or 'none'}")
        if known[name].state in ("here", "unknown"):
            raise ConfigError(f"--forget {name}: its folder {contents.runs / name} is there; remove that instead")
    gone = [study.name for study in contents.studies if study.state == "gone" or study.name in forget]
    doubts = [
        f"{study.name}: its folder is gone, but it may go on in {study.storage}; its stages are kept. "
        f"If it is gone there too: --forget {study.name}"
        for study in contents.studies
        if study.state == "elsewhere" and study.name not in forget
    ]
    unknown = [study for study in contents.studies if study.state == "unknown"]
    doubts += [
        f"{contents.runs / study.name}: {study.problem}, so that nothing is freed which it may use. "
        "Run the study once more, or remove its folder"
        for study in unknown
    ]
    needed = contents.needed(gone)
    items = [item for item in contents.items if not needed[item.path] and (item.kind == DRAFT or not unknown)]
    return Garbage(tuple(items), tuple(gone), tuple(doubts))


def free(contents: Contents, garbage: Garbage) -> list[Item]:
    """Removes what nobody needs, and returns what was removed: a stage that came into use meanwhile stays."""
    store = StageStore(contents.root)
    removed = [item for item in garbage.items if _remove(store, item, _wanted(contents, garbage, item))]
    for name in garbage.studies:
        if not os.path.lexists(contents.runs / name):
            shutil.rmtree(contents.root / STUDIES / name, ignore_errors=True)
    store.claims.remove_dead()
    return removed


def _remove(store: StageStore, item: Item, is_wanted: Callable[[], bool]) -> bool:
    if item.is_stage:
        return store.discard(item.name, unless=is_wanted)
    if is_wanted():
        return False
    if item.kind == UNFINISHED:
        item.path.unlink(missing_ok=True)
    else:
        shutil.rmtree(item.path, ignore_errors=True) if item.path.is_dir() else item.path.unlink(missing_ok=True)
    return not item.path.exists()


def _wanted(contents: Contents, garbage: Garbage, item: Item) -> Callable[[], bool]:
    """Whether a study or a process has begun to use an item since the contents were read."""

    def ask() -> bool:
        claimed = {(sign.trunk, sign.holder.parent if sign.holder else "") for sign in claims.living()}
        if any(item.trunk == trunk or item.name == parent for trunk, parent in claimed):
            return True
        using = [name for name, digests in read_uses(contents.root).items() if digests & {item.name, item.trunk}]
        return any(name not in garbage.studies or os.path.lexists(contents.runs / name) for name in using)

    claims = Claims(contents.root / CLAIMS)
    return ask


def _registered(runs: Path, name: str, digests: frozenset[str]) -> StudyUse:
    storage = (_read_registration(runs / STORE / STUDIES / name / REGISTRATION) or {}).get("storage") or ""
    if problem := _unsure(runs / name):
        return StudyUse(name, "unknown", storage, digests, problem)
    if (runs / name).is_dir():
        return StudyUse(name, "here", storage, digests)
    file = storage.removeprefix("sqlite:///")
    is_gone = not storage or (file != storage and not file.startswith("file:") and not os.path.isfile(file))
    return StudyUse(name, "gone" if is_gone else "elsewhere", storage, digests)


def _unsure(folder: Path) -> str:
    """Why it cannot be told whether a study's folder is there: a disk that is not mounted takes no study with it."""
    try:
        mode = os.lstat(folder).st_mode
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"its folder cannot be looked at ({error})"
    if stat.S_ISLNK(mode) and not folder.is_dir():
        return f"it links to {os.readlink(folder)}, which is not there now"
    return "" if folder.is_dir() else "it is no folder"


def _unregistered(runs: Path, folder: Path) -> StudyUse:
    """A study that was last run before the store took notes, or whose folder was renamed: its trials tell."""
    try:
        if not os.path.isfile(folder / "study.db"):
            return StudyUse(folder.name, "unknown", "", frozenset(), "it has no study.db to read its stages from")
        trials = find_study(str(folder))[0].get_trials(deepcopy=False)
    except Exception as error:  # whatever the reason, what it uses is not known
        return StudyUse(folder.name, "unknown", "", frozenset(), f"it cannot be read ({error})")
    if any(trial.state == TrialState.RUNNING for trial in trials):
        return StudyUse(
            folder.name, "unknown", "", frozenset(), "it has trials that run, and say their stages at the end"
        )
    return StudyUse(folder.name, "here", "", frozenset({*_digests(trials), *_shared_stages(runs / STORE)}))


def _digests(trials: Sequence[optuna.trial.FrozenTrial]) -> set[str]:
    """The stages that finished trials name."""
    records = list(map(TrialRecord.from_trial, trials))
    used = {stage.digest for record in records for stage in record.cost.stages}
    networks = [network for record in records for network in record.networks]
    return used | {digest for network in networks for digest in (network.surgery, network.stage) if digest}


def _shared_stages(root: Path) -> list[str]:
    """The stages that no trial names: dense networks and controls."""
    return [path.name for path in (root / STAGES).iterdir() if path.name.startswith(_SHARED_KINDS)]


def _read_registration(file: Path) -> dict[str, str | None] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
