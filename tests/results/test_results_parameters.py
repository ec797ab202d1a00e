"""Importances, parallel coordinates and slices of the space's parameters."""

from __future__ import annotations

import math
import random
import warnings
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from prunetune.results.figures.parameter_figures import SLICED, importances_figure, parallel_figure, slice_figure
from prunetune.results.findings.parameter_importances import FEWEST, Parameters
from prunetune.results.record import StudyRecord, TrialRecord
from prunetune.spaces import Outcome

Builder = Any

SPACE = {
    "sparsity": FloatDistribution(1e-4, 1e-2, log=True),
    "latency": FloatDistribution(0.5, 1.0),
    "rounds": IntDistribution(1, 3),
    "recovery_epochs": CategoricalDistribution([50, 100]),
    "start": CategoricalDistribution(["<dense>", "rewound"]),
    "balance": FloatDistribution(1.0, 1.0),
}


def study_of(builder: Builder, trials: int, outcome: Outcome = Outcome.OK) -> optuna.Study:
    """Accuracy follows the sparsity, latency the share that is asked for; the rest is chance."""
    chance = random.Random(0)
    study = optuna.create_study(directions=["maximize", "minimize"])
    StudyRecord.store(study, targets=[builder.target()])
    made = []
    for _ in range(trials):
        params: dict[str, Any] = {
            "sparsity": 10 ** chance.uniform(-4, -2), "latency": chance.uniform(0.5, 1.0),
            "rounds": chance.randint(1, 3), "recovery_epochs": chance.choice([50, 100]),
            "start": chance.choice(["<dense>", "rewound"]), "balance": 1.0,
        }  # fmt: skip
        values = [0.9 + 0.1 * math.log10(params["sparsity"]), params["latency"]]
        network = builder.network(*values, recovered=outcome is Outcome.OK)
        attrs = TrialRecord(outcome=outcome, networks=(network,)).to_attrs()
        made.append(create_trial(values=values, params=params, distributions=SPACE, user_attrs=attrs))
    study.add_trials(made)
    return study


def test_what_decides_is_important(builder: Builder) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parameters = Parameters(study_of(builder, 120))
        shares = parameters.importances()
    assert max(shares["mAP50-95"], key=lambda name: shares["mAP50-95"][name]) == "sparsity"
    assert max(shares["latency"], key=lambda name: shares["latency"][name]) == "latency"
    assert sum(shares["latency"].values()) == pytest.approx(1)
    assert "balance" not in shares["latency"], "it took one value only"
    figure = importances_figure(parameters.varied, shares)
    assert figure is not None
    assert [trace.name for trace in figure.data] == ["for mAP50-95", "for latency"]
    assert figure.data[1].y[-1] == "latency asked for"


def test_few_trials_have_no_importances(builder: Builder) -> None:
    assert Parameters(study_of(builder, FEWEST - 1)).importances() == {}
    assert Parameters(study_of(builder, 0)).importances() == {}
    assert importances_figure([], {}) is None


def test_accuracy_before_recovery_is_no_accuracy(builder: Builder) -> None:
    parameters = Parameters(study_of(builder, 20, Outcome.OVER_BUDGET))
    assert list(parameters.importances()) == ["latency"]
    assert parallel_figure(parameters.varied, parameters.tried) is None
    assert slice_figure(parameters.varied[0], parameters.tried) is None


def test_failed_trials_are_left_out(builder: Builder) -> None:
    study = study_of(builder, 3)
    params = {"sparsity": 1e-3}
    study.add_trial(create_trial(state=TrialState.FAIL, params=params, distributions={"sparsity": SPACE["sparsity"]}))
    assert [point.network.trial for point in Parameters(study).tried] == [0, 1, 2]


def test_a_line_goes_through_every_parameter(builder: Builder) -> None:
    parameters = Parameters(study_of(builder, 30))
    figure = parallel_figure(parameters.varied, parameters.tried)
    assert figure is not None
    (lines,) = figure.data
    labels = [dimension.label for dimension in lines.dimensions]
    assert labels == [
        "sparsity", "latency asked for", "rounds", "recovery epochs", "start", "latency in ms", "mAP50-95",
    ]  # fmt: skip
    assert {len(dimension.values) for dimension in lines.dimensions} == {30}
    assert all(-4 <= value <= -2 for value in lines.dimensions[0]["values"]), "a logarithmic axis"
    assert float(lines.dimensions[0].ticktext[0]) == pytest.approx(10 ** lines.dimensions[0].tickvals[0], rel=0.01)
    assert list(lines.dimensions[4].ticktext) == ["&lt;dense&gt;", "rewound"]


def test_a_slice_shows_one_parameter(builder: Builder) -> None:
    parameters = Parameters(study_of(builder, 30))
    by_name = {parameter.name: slice_figure(parameter, parameters.tried) for parameter in parameters.varied}
    sparsity, start = by_name["sparsity"], by_name["start"]
    assert sparsity is not None
    assert start is not None
    assert sparsity.layout.xaxis.type == "log"
    assert set(start.data[0].x) == {"&lt;dense&gt;", "rewound"}
    assert start.layout.xaxis.type == "category"
    assert [told[1] for told in sparsity.data[0].customdata] == [str(number) for number in range(30)]


def test_a_slice_of_many_trials_is_thinned(builder: Builder) -> None:
    parameters = Parameters(study_of(builder, SLICED + 1))
    figure = slice_figure(parameters.varied[0], parameters.tried)
    assert figure is not None
    assert SLICED / 2 < len(figure.data[0].x) <= SLICED
