"""What a study's networks take without measuring: by its tables, else by multiply-adds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from prunetune.pruning.channels import ChannelConfig
from prunetune.search.latency.shares import DenseShares
from prunetune.spaces import ConfigError

DENSE = ChannelConfig({"model.0.conv": 8, "model.1.conv": 16})
SLIM = ChannelConfig({"model.0.conv": 4, "model.1.conv": 16})


class Known:
    """A target with a table, by which the first layer takes all the time."""

    name = "board"

    def __init__(self, is_limited: bool = True) -> None:
        self.is_limited = is_limited

    def predict(self, channels: ChannelConfig, reference: ChannelConfig) -> Any:
        return SimpleNamespace(ratio=channels["model.0.conv"] / reference["model.0.conv"])


class Unknown(Known):
    name = "cpu"

    def predict(self, channels: ChannelConfig, reference: ChannelConfig) -> Any:
        return None


class Counts:
    def multiply_adds(self, widths: ChannelConfig) -> int:
        return sum(widths.values())


def costs(*targets: Known, conv_graph: Counts | None = None) -> DenseShares:
    meter: Any = SimpleNamespace(
        targets=targets, networks=SimpleNamespace(conv_graph=conv_graph, channels={"dense": DENSE})
    )
    return DenseShares(meter)


def test_a_table_tells() -> None:
    assert costs(Known()).time(SLIM) == 0.5


def test_multiply_adds_tell_where_there_is_no_table() -> None:
    assert costs(Unknown(), conv_graph=Counts()).time(SLIM) == pytest.approx(20 / 24)


def test_targets_with_a_budget_count_alike() -> None:
    both = costs(Known(), Unknown(), Known(is_limited=False), conv_graph=Counts())
    assert both.time(SLIM) == pytest.approx((0.5 + 20 / 24) / 2)
    assert costs(Known(is_limited=False)).time(SLIM) == 0.5, "without any budget all do"


def test_what_cannot_be_told_is_said() -> None:
    with pytest.raises(ConfigError, match="target 'cpu' is not known; make a latency table with prunetune profile"):
        costs(Known(), Unknown()).time(SLIM)
