"""Channel arithmetic: rounding to blocks, and configurations as values."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetune.pruning.structure.channels import ChannelConfig, round_channels
from prunetune.spaces.errors import ConfigError, ModelError

WIDTHS = st.integers(1, 2048)
ALIGNMENTS = st.sampled_from([1, 2, 4, 8, 16, 32])
NAMES = st.from_regex(r"model\.[0-9]{1,2}\.cv[1-3]\.conv", fullmatch=True)


@given(st.data(), WIDTHS, ALIGNMENTS)
def test_kept_channels_are_whole_blocks_or_the_full_width(data: st.DataObject, width: int, alignment: int) -> None:
    survivors = data.draw(st.integers(0, width))
    kept = round_channels(survivors, width, alignment)
    assert kept == width or kept % alignment == 0
    assert min(width, alignment) <= kept <= width
    assert kept >= survivors
    assert kept - survivors < alignment or survivors == 0


@given(st.data(), WIDTHS, ALIGNMENTS)
def test_more_survivors_never_give_fewer_channels(data: st.DataObject, width: int, alignment: int) -> None:
    fewer, more = sorted(data.draw(st.tuples(st.integers(0, width), st.integers(0, width))))
    assert round_channels(fewer, width, alignment) <= round_channels(more, width, alignment)


def test_an_alignment_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="alignment: 0 is below 1"):
        round_channels(4, 16, 0)


@given(st.dictionaries(NAMES, WIDTHS, min_size=1), st.randoms())
def test_a_configuration_is_a_value_whatever_the_order(widths: dict[str, int], random: Random) -> None:
    shuffled = list(widths.items())
    random.shuffle(shuffled)
    one, other = ChannelConfig(widths), ChannelConfig(dict(shuffled))
    assert one == other
    assert hash(one) == hash(other)
    assert one.digest() == other.digest()
    assert list(one) == list(other)
    assert ChannelConfig.from_dict(json.loads(json.dumps(one.as_dict(), sort_keys=True))) == one
    assert pickle.loads(pickle.dumps(one)) == one


def test_layers_come_in_their_natural_order() -> None:
    names = [
        "model.2.m.10.cv1.conv",
        "model.10.conv",
        "model.2.cv1.conv",
        "model.2.m.9.cv1.conv",
        "model.0.conv",
    ]
    assert list(ChannelConfig(dict.fromkeys(names, 8))) == [
        "model.0.conv",
        "model.2.cv1.conv",
        "model.2.m.9.cv1.conv",
        "model.2.m.10.cv1.conv",
        "model.10.conv",
    ]


def test_a_digest_is_short_and_tells_widths_apart() -> None:
    digests = {ChannelConfig({"model.0.conv": width}).digest() for width in range(1, 50)}
    assert len(digests) == 49
    assert {len(digest) for digest in digests} == {16}


def test_removed_is_the_share_of_all_channels() -> None:
    dense = ChannelConfig({"model.0.conv": 16, "model.1.conv": 48})
    assert ChannelConfig({"model.0.conv": 8, "model.1.conv": 40}).removed(dense) == pytest.approx(0.25)
    assert dense.removed(dense) == 0.0


def test_configurations_of_different_detectors_cannot_be_compared() -> None:
    dense = ChannelConfig({"model.0.conv": 16, "model.11": 8})
    with pytest.raises(ModelError, match=r"model\.11: only one of the two detectors"):
        ChannelConfig({"model.0.conv": 16}).removed(dense)


@pytest.mark.parametrize("width", [0, -8, 8.0, True, "8"])
def test_a_width_that_is_none_is_refused_with_its_layer(width: object) -> None:
    with pytest.raises(ModelError, match=r"model\.0\.conv"):
        ChannelConfig({"model.0.conv": width})  # type: ignore[dict-item]


def test_reading_configurations_needs_no_torch() -> None:
    code = "import sys, prunetune.pruning.structure.channels; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
