"""What a description allows and its user will hardly want: told once, when the study begins."""

from __future__ import annotations

from prunetune.search.spec import StudySpec
from prunetune.spaces.parameters import Parameter


def advice(spec: StudySpec) -> list[str]:
    """One line for each combination of options that was found to work against itself."""
    space, told = spec.space, []
    judges = _words(space.importance, "gamma")
    if "knapsack" in _words(space.planner, "threshold") and (others := sorted(judges - {"taylor"})):
        told.append(
            f"planner: knapsack adds up the scores of different layers, and {', '.join(others)} cannot be compared "
            "across layers; importance: taylor can"
        )
    optimizer = str(spec.train.get("optimizer", "AdamW"))
    if "subgradient" in _words(space.shrinkage, "proximal") and optimizer.lower() != "sgd":
        told.append(
            f"shrinkage: subgradient under {optimizer}, which hides the size of a gradient: sparsity will hardly "
            "matter; train: {optimizer: SGD} lets it"
        )
    return told


def _words(parameter: Parameter | None, default: str) -> set[str]:
    return {default} if parameter is None else {str(value) for value in parameter.values or ()}
