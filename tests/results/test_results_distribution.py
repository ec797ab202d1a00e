"""The figure of a measurement's rounds."""

from __future__ import annotations

from prunetune.results.figures.distribution import distribution_figure


def test_every_round_is_drawn_with_its_ratio() -> None:
    samples = {"a<b>": [2.0, 2.2, 9.0], "half": [1.0, 1.1, 1.2]}
    figure = distribution_figure(samples, "half")
    assert [list(box.x) for box in figure.data] == list(samples.values())
    assert [box.name for box in figure.data] == ["a&lt;b&gt;", "half"]
    assert [tuple(point) for point in figure.data[0].customdata] == [(1, 2.0), (2, 2.2 / 1.1), (3, 7.5)]
    assert figure.data[0].marker.color != figure.data[1].marker.color
