"""What a description allows and its user will hardly want: told by each process that begins to work on a study."""

from __future__ import annotations

from prunetune.search.study.study_spec import StudySpec
from prunetune.spaces import SearchSpace
from prunetune.spaces.recipe import OPTIONS

_PLAIN = ("sgd", "musgd")
"""Optimizers whose steps on gammas are as large as the gradient says. MuSGD takes Muon's for matrices alone."""


def advice(spec: StudySpec) -> list[str]:
    """One line for each combination of options that was found to work against itself."""
    space, told = spec.space, []
    optimizer = str(spec.train.get("optimizer", "AdamW"))
    is_sparse = space.longest_sparse_epochs > 0
    if is_sparse and "subgradient" in _words(space, "shrinkage") and optimizer.lower() not in _PLAIN:
        told.append(
            f"shrinkage: subgradient under {optimizer}, which hides the size of a gradient: sparsity will hardly "
            "matter; train: {optimizer: SGD} lets it"
        )
    if spec.model.endswith(".pt") and "dense_epochs" not in spec.model_fields_set and "half-width" in spec.controls:
        told.append(
            f"dense_epochs is not given, and {spec.model} does not say how long it was trained: half-width trains as "
            f"if it had been {spec.dense_epochs} epochs"
        )
    return told


def _words(space: SearchSpace, option: str) -> set[str]:
    """All that an option can take."""
    parameter = getattr(space, option)
    return {OPTIONS[option]} if parameter is None else set(parameter.values)
