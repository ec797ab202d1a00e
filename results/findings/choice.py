"""Which trial or network of a study a user means, and what is said when there is none."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from optuna.trial import FrozenTrial

from prunetune.results.findings.findings import Findings, outcome_text
from prunetune.results.findings.study_network import StudyNetwork
from prunetune.spaces.errors import ConfigError


def find_trial(found: Findings, name: int | str, *, or_baseline: bool = False) -> FrozenTrial:
    """A trial by its number.

    Args:
        found: The study.
        name: The number, also as text.
        or_baseline: Whether a baseline would have been taken as well, for the message.

    Raises:
        ConfigError: There is none.
    """
    trial = found.trial(int(name)) if str(name).isdecimal() and len(str(name)) < 19 else None
    if trial is None:
        there = f"there are {spans(item.number for item in found.trials)}" if found.trials else "there is none yet"
        other = f", and no control ({', '.join(found.baselines)})" if or_baseline and found.baselines else ""
        raise ConfigError(f"{name}: is no trial of this study ({there}){other}")
    return trial


def find_network(found: Findings, name: int | str) -> StudyNetwork:
    """A network whose file was kept, by its name: `7`, `7.1`, `dense`, or `7@96` at a further deployment.

    Raises:
        ConfigError: There is none.
    """
    network = found.network(str(name))
    if network is None or network.checkpoint is None:
        raise no_network(found, name)
    return network


def no_network(found: Findings, name: int | str) -> ConfigError:
    """What is said of a name for which no network was kept.

    Raises:
        ConfigError: It is the name of no trial and no baseline.
    """
    why = ""
    own = str(name).rpartition("@")[0] or name
    if str(name) not in found.baselines and str(own) not in found.baselines:
        number, _, after = str(own).partition(".")
        is_round = number.isdecimal() and after.isdecimal()
        trial = find_trial(found, number if is_round else own, or_baseline=True)
        ended = outcome_text(trial, found.records[trial.number]) or trial.state.name
        why = f" ({ended})" if not found.networks_of(trial.number) else ""
    return ConfigError(f"{name}: no network was kept of it{why}; {_kept(found)}")


def spans(numbers: Iterable[int]) -> str:
    """Numbers in few words: `0 to 8, 10`."""
    runs = [
        [number for _, number in run]
        for _, run in groupby(enumerate(sorted(numbers)), key=lambda item: item[1] - item[0])
    ]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def _kept(found: Findings) -> str:
    """The networks that there are, as a sentence."""
    kept = [network for network in (*found.baselines.values(), *found.networks.values()) if network.checkpoint]
    own = [network.name for network in kept if not network.is_deployed_further]
    names = [
        *(name for name in own if name in found.baselines),
        spans(int(name) for name in own if name.isdecimal()),
        *(name for name in own if not name.isdecimal() and name not in found.baselines),
    ]
    told = ", ".join(filter(None, names))
    further = next((f", and at further deployments, such as {item.name}" for item in kept if item.name not in own), "")
    return f"networks were kept of {told}{further}" if told else "no network was kept yet"
