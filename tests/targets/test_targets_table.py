"""Conv graphs, grids, the fit and the table's file; the device is made up, with a law of cost that is known."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from prunetune.spaces import Alignment
from prunetune.spaces.errors import TargetError
from prunetune.targets import (
    ConvGraph,
    Latency,
    LatencyTable,
    Network,
    OnnxRuntimeSpec,
    TableSpec,
    Target,
    create_target,
    profile,
    read_conv_graph,
)
from prunetune.targets.latency_model.conv_graph import Channels, ConvShape, Layer, Transfer
from prunetune.targets.latency_model.latency_table import FeatureModel, Grid
from prunetune.targets.latency_model.profiling import FEATURES, anchor_widths, fit, random_widths
from prunetune.targets.latency_model.synthesis import write_resized
from prunetune.targets.network import Form
from prunetune.targets.testing import TargetTestCase

SIZE = 16
POINT = ConvShape((1, 1), (1, 1), (0, 0, 0, 0), (SIZE, SIZE))


def write_network(path: Path, size: int = SIZE) -> Path:
    """An image, a residual block of three layers, a concatenation with its input, and an output of fixed width."""
    widths = {"stem": (3, 32), "one": (32, 64), "two": (64, 32), "side": (32, 40), "out": (72, 6)}
    silu = [("stem", "a"), ("one", "b"), ("two", "c"), ("side", "d")]
    conv = {
        name: helper.make_node("Conv", [source, f"{name}.weight", f"{name}.bias"], [name], kernel_shape=[1, 1])
        for name, source in (("stem", "image"), ("one", "a"), ("two", "b"), ("side", "a"), ("out", "joined"))
    }
    nodes = []
    for name, result in silu:
        nodes += [
            conv[name],
            helper.make_node("Sigmoid", [name], [f"{name}.sigmoid"]),
            helper.make_node("Mul", [name, f"{name}.sigmoid"], [result]),
        ]
    nodes += [
        helper.make_node("Add", ["a", "c"], ["sum"]),
        helper.make_node("Concat", ["sum", "d"], ["joined"], axis=1),
        conv["out"],
    ]
    weights = [
        numpy_helper.from_array(numpy.full(shape, index + 1, numpy.float32), f"{name}.{part}")
        for index, (name, (inputs, outputs)) in enumerate(widths.items())
        for part, shape in (("weight", (outputs, inputs, 1, 1)), ("bias", (outputs,)))
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 6, size, size])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_network(tmp_path / "network.onnx")


@pytest.fixture
def graph(file: Path) -> ConvGraph:
    return read_conv_graph(file)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> ConvGraph:
    """The same graph, for many examples of hypothesis."""
    return read_conv_graph(write_network(tmp_path_factory.mktemp("family") / "network.onnx"))


# The graph


def test_a_graph_knows_who_reads_whom(graph: ConvGraph) -> None:
    assert graph.size == (SIZE, SIZE)
    assert {layer.name: layer.reads for layer in graph.layers} == {
        "stem": Channels(constant=3),
        "one": Channels(("stem",)),
        "two": Channels(("one",)),
        "side": Channels(("stem",)),
        "out": Channels(("stem", "side")),
    }
    assert graph.groups == (("stem", "two"), ("one",), ("side",))
    assert [transfer.operation for transfer in graph.transfers] == ["add", "concat"]
    assert [layer.shape.activation for layer in graph.layers] == ["silu"] * 4 + ["none"]


def test_a_graph_survives_json(graph: ConvGraph) -> None:
    again = ConvGraph.from_dict(json.loads(json.dumps(graph.as_dict())))
    assert again == graph


def test_a_resized_network_runs_and_is_of_the_same_family(file: Path, graph: ConvGraph, tmp_path: Path) -> None:
    widths = random_widths(graph, 8, 1, seed=3)[0]
    write_resized(file, tmp_path / "resized.onnx", graph, widths)
    again = read_conv_graph(tmp_path / "resized.onnx")
    assert again.widths == widths != graph.widths
    assert [layer.reads for layer in again.layers] == [layer.reads for layer in graph.layers]
    network = Network("resized", (1, 3, SIZE, SIZE), onnx=tmp_path / "resized.onnx")
    create_target(OnnxRuntimeSpec(runs=6, warmup=0)).measure([network], reference="resized")


@pytest.mark.parametrize("alignment", [1, 8, 16])
def test_random_widths_are_aligned_and_tied(graph: ConvGraph, alignment: int) -> None:
    for widths in (*random_widths(graph, alignment, 50, seed=1), anchor_widths(graph, alignment)):
        assert widths["stem"] == widths["two"]
        assert widths["out"] == 6
        for name, dense in graph.widths.items():
            assert widths[name] == dense or (widths[name] % alignment == 0 and 0 < widths[name] < dense)


@pytest.mark.parametrize("content", [b"no protobuf at all", None])
def test_a_file_that_is_no_network_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TargetError, match=r"broken\.onnx.*export"):
        read_conv_graph(path)


# Networks without residual blocks


def write_shorter(path: Path) -> Path:
    """The same network without its residual block."""
    model = onnx.load(write_network(path))
    gone = {f"{name}{part}" for name in ("one", "two") for part in ("", ".sigmoid")} | {"b", "c", "sum"}
    nodes = [node for node in model.graph.node if node.output[0] not in gone]
    weights = [item for item in model.graph.initializer if not item.name.startswith(("one.", "two."))]
    for node in nodes:
        node.input[:] = ["a" if name == "sum" else name for name in node.input]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(weights)
    onnx.save(model, path)
    return path


SHORTER = ("stem", "side", "out")


def test_a_graph_without_a_block_is_that_of_the_shorter_network(graph: ConvGraph, tmp_path: Path) -> None:
    shorter = read_conv_graph(write_shorter(tmp_path / "shorter.onnx"))
    assert graph.only(SHORTER) == graph.only([*SHORTER, "decoder"]) == shorter
    assert graph.only(graph.widths) == graph
    assert graph.multiply_adds(shorter.widths) == shorter.multiply_adds(shorter.widths)


@pytest.mark.parametrize(
    ("missing", "named"),
    [("two", "two"), ("one", "one"), ("side", "side"), ("out", "out"), ("stem", "stem"), ("stem one two", "stem"),
     ("one two out", "out")],
)  # fmt: skip
def test_what_is_no_whole_residual_block_cannot_be_missing(graph: ConvGraph, missing: str, named: str) -> None:
    with pytest.raises(TargetError, match=f"layer {named}:"):
        graph.only(graph.widths.keys() - set(missing.split()))


def chain(blocks: int, concatenates: bool, is_first: bool) -> ConvGraph:
    """Residual blocks one after the other, and a layer that reads their end, or all that there is of them.

    Args:
        blocks: How many.
        concatenates: Whether the last layer reads the input of the first block, and the output of each.
        is_first: Whether additions have the branch first, and so its channels.
    """
    layers, additions, brought = [Layer("in", POINT, Channels(constant=3), 8, 1)], list[Transfer](), [Channels(("in",))]
    for block in range(blocks):
        inner, outer = f"{block}.inner", f"{block}.outer"
        layers += [Layer(inner, POINT, brought[-1], 8, 1), Layer(outer, POINT, Channels((inner,)), 8, 1)]
        parts = (Channels((outer,)), brought[-1]) if is_first else (brought[-1], Channels((outer,)))
        additions.append(Transfer("add", parts, 1))
        brought.append(parts[0])
    side = Channels(("side",), 2)
    layers.append(Layer("side", POINT, Channels(constant=3), 8, 1))
    joined = (side, *(brought if concatenates else brought[-1:]))
    names = tuple(name for part in joined for name in part.layers)
    layers.append(Layer("out", POINT, Channels(names, 2), 8, 1))
    tied = ("in", *(f"{block}.outer" for block in range(blocks)))
    alone = [(f"{block}.inner",) for block in range(blocks)]
    return ConvGraph((1, 1), tuple(layers), (*additions, Transfer("concat", joined, 1)), (tied, *alone, ("side",)))


@pytest.mark.parametrize("left", [0, 1, 2, 3])
@pytest.mark.parametrize("concatenates", [False, True])
@pytest.mark.parametrize("is_first", [False, True])
def test_a_concatenation_loses_what_only_a_missing_block_brought(left: int, concatenates: bool, is_first: bool) -> None:
    shorter = chain(left, concatenates, is_first)
    assert chain(3, concatenates, is_first).only(shorter.widths) == shorter


def test_a_block_in_a_missing_block_goes_with_it() -> None:
    layers = (
        Layer("in", POINT, Channels(constant=3), 8, 1),
        Layer("one", POINT, Channels(("in",)), 8, 1),
        Layer("deep", POINT, Channels(("one",)), 8, 1),
        Layer("two", POINT, Channels(("one",)), 8, 1),
        Layer("out", POINT, Channels(("in",)), 8, 1),
    )
    inner = Transfer("add", (Channels(("one",)), Channels(("deep",))), 1)
    outer = Transfer("add", (Channels(("in",)), Channels(("two",))), 1)
    graph = ConvGraph((1, 1), layers, (inner, outer), (("in", "two"), ("one", "deep")))
    assert graph.only(("in", "out")) == ConvGraph((1, 1), (layers[0], layers[-1]), (), (("in",),))
    assert graph.only(("in", "one", "two", "out")).transfers == (outer,)


def test_a_table_predicts_shorter_networks(file: Path, tmp_path: Path) -> None:
    device = MadeUp()
    table = profile(device, file, networks=24)
    short = write_shorter(tmp_path / "shorter.onnx")
    whole, shorter = table.graph.widths, read_conv_graph(short).widths
    assert table.has_layers_of(read_conv_graph(short))
    assert table.predict(shorter).latency_ms == pytest.approx(device.cost_ms(short), rel=0.05)
    mixed = [shorter, whole, {**shorter, "side": 8}, {**whole, "side": 8}]
    ratios = table.predict_many(table.as_array(mixed)).tolist()
    assert ratios == pytest.approx([table.predict(widths).ratio for widths in mixed])
    assert ratios[2] < ratios[0] < ratios[1]
    with pytest.raises(TargetError, match=r"layer side: 48 channels.*40"):
        table.predict({**shorter, "side": 48})


# Grouped convolutions


def write_grouped(path: Path, groups: int) -> Path:
    """The same network, with a grouped convolution that reads the stem, which an addition ties."""
    model = onnx.load(write_network(path))
    node = next(node for node in model.graph.node if node.output[0] == "side")
    node.attribute.append(helper.make_attribute("group", groups))
    next(item for item in model.graph.initializer if item.name == "side.weight").CopyFrom(
        numpy_helper.from_array(numpy.ones((40, 32 // groups, 1, 1), numpy.float32), "side.weight")
    )
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("groups", [2, 4, 8])
@pytest.mark.parametrize("alignment", [1, 6, 8])
def test_networks_with_a_grouped_convolution_have_multiples_of_its_groups(
    tmp_path: Path, groups: int, alignment: int
) -> None:
    file = write_grouped(tmp_path / "grouped.onnx", groups)
    graph = read_conv_graph(file)
    side = next(layer for layer in graph.layers if layer.name == "side")
    assert (side.shape.groups, side.shape.depthwise, side.width) == (groups, False, 40)
    assert [graph.multiple(group) for group in graph.groups] == [groups, 1, groups]
    assert ConvGraph.from_dict(json.loads(json.dumps(graph.as_dict()))) == graph
    plain = read_conv_graph(write_network(tmp_path / "plain.onnx"))
    saved = plain.multiply_adds(graph.widths) - graph.multiply_adds(graph.widths)
    assert saved == 32 * 40 * (1 - 1 / groups) * SIZE * SIZE
    drawn = random_widths(graph, alignment, 12, seed=2)
    for number, widths in enumerate((anchor_widths(graph, alignment), *drawn)):
        assert widths["stem"] % groups == widths["side"] % groups == 0
        assert all(widths[name] == dense or widths[name] % alignment == 0 for name, dense in graph.widths.items())
        if number < 3:
            write_resized(file, tmp_path / "resized.onnx", graph, widths)
            again = read_conv_graph(tmp_path / "resized.onnx")
            assert again.widths == widths
            assert [layer.shape for layer in again.layers] == [layer.shape for layer in graph.layers]
            network = Network("resized", (1, 3, SIZE, SIZE), onnx=tmp_path / "resized.onnx")
            create_target(OnnxRuntimeSpec(runs=6, warmup=0)).measure([network], reference="resized")


def test_a_table_predicts_networks_with_a_grouped_convolution(tmp_path: Path) -> None:
    file, device = write_grouped(tmp_path / "grouped.onnx", 4), MadeUp()
    table = profile(device, file, networks=24)
    table.save(tmp_path / "table.json")
    table = LatencyTable.load(tmp_path / "table.json")
    for widths in random_widths(table.graph, 8, 8, seed=99):
        write_resized(file, tmp_path / "unseen.onnx", table.graph, widths)
        assert table.has_layers_of(read_conv_graph(tmp_path / "unseen.onnx"))
        true = device.cost_ms(tmp_path / "unseen.onnx")
        assert table.predict(widths).latency_ms == pytest.approx(true, rel=0.05)


def test_tables_from_before_grouped_convolutions_are_read(table: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    table.save(path)
    path.write_text(path.read_text().replace(', "groups": 1', ""))
    assert '"groups": 1' not in path.read_text()
    assert LatencyTable.load(path) == table


# The grid


def law(inputs: float, outputs: float) -> float:
    """A cost that is linear in both widths, as a bilinear interpolation can follow exactly."""
    return 0.001 * (5 + inputs) * (3 + outputs)


INPUTS, OUTPUTS = (3, 8, 16, 24, 32, 48, 64, 72), (6, 8, 16, 40, 64)


def model_of(graph: ConvGraph, times: tuple[tuple[float, ...], ...]) -> FeatureModel:
    shapes = dict.fromkeys(layer.shape for layer in graph.layers)
    return FeatureModel(graph, [Grid(shape, INPUTS, OUTPUTS, times) for shape in shapes])


EXACT = tuple(tuple(law(inputs, outputs) for outputs in OUTPUTS) for inputs in INPUTS)


def layers_time(model: FeatureModel, graph: ConvGraph, widths: dict[str, int]) -> float:
    row = numpy.array([[widths[layer.name] for layer in graph.layers]])
    return float(model.features(row)[0, FEATURES.index("layers")])


@given(st.integers(1, 32), st.integers(1, 64), st.integers(1, 40))
def test_between_points_the_time_is_bilinear(family: ConvGraph, stem: int, one: int, side: int) -> None:
    widths = {"stem": stem, "one": one, "two": stem, "side": side, "out": 6}
    expected = sum(law(max(3, layer.reads.width(widths)), max(6, widths[layer.name])) for layer in family.layers)
    assert layers_time(model_of(family, EXACT), family, widths) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), min_size=40, max_size=40), st.integers(1, 31), st.integers(1, 63), st.integers(1, 39))
def test_rising_times_give_rising_predictions(
    family: ConvGraph, steps: list[float], stem: int, one: int, side: int
) -> None:
    rising = numpy.array(steps).reshape(len(INPUTS), len(OUTPUTS)).cumsum(axis=0).cumsum(axis=1)
    model = model_of(family, tuple(map(tuple, rising.tolist())))
    widths = {"stem": stem, "one": one, "two": stem, "side": side, "out": 6}
    lower = layers_time(model, family, widths)
    for names in (("stem", "two"), ("one",), ("side",)):
        wider = widths | {name: widths[name] + 1 for name in names}
        assert layers_time(model, family, wider) >= lower - 1e-9


def test_many_networks_at_once_are_as_one_by_one(graph: ConvGraph) -> None:
    model = model_of(graph, EXACT)
    rows = numpy.array([list(widths.values()) for widths in random_widths(graph, 8, 20, seed=0)])
    together = model.features(rows)
    assert numpy.allclose(together, numpy.concatenate([model.features(row[None]) for row in rows]))
    for row, found in zip(rows, model.input_widths(rows), strict=True):
        widths = dict(zip(graph.widths, row, strict=True))
        assert found.tolist() == [layer.reads.width(widths) for layer in graph.layers]


def test_moved_features_are_counted(graph: ConvGraph) -> None:
    def counted(side: int) -> dict[str, float]:
        row = numpy.array([[32, 64, 32, side, 6]])
        return dict(zip(FEATURES, model_of(graph, EXACT).features(row)[0], strict=True))

    aligned, unaligned = counted(16), counted(24)
    pixels = SIZE * SIZE / 1e6
    assert aligned["add"] == pytest.approx(64 * pixels)
    assert (aligned["concat"], aligned["unaligned"]) == (pytest.approx(48 * pixels), 0)
    assert unaligned["unaligned"] == unaligned["concat"] == pytest.approx(56 * pixels)
    assert aligned["weights"] * 1e6 == pytest.approx(3 * 32 + 32 * 64 + 64 * 32 + 32 * 16 + 48 * 6)


# The fit


def test_the_fit_finds_the_coefficients_that_made_the_ratios() -> None:
    features = numpy.random.default_rng(0).uniform(0.1, 1, (40, len(FEATURES)))
    features[:, 0] = 1
    true = numpy.array([0.2, 0.8, 0.3, 0.1, 0.0, 0.05, 0.2, 0.1])
    found = fit(features, features @ true)
    assert list(found.coefficients) == list(FEATURES)
    assert numpy.allclose(list(found.coefficients.values()), true, atol=0.01)
    assert max(map(abs, found.residuals)) < 0.01


def test_the_fit_has_no_negative_coefficients() -> None:
    generator = numpy.random.default_rng(0)
    features = generator.uniform(0.1, 1, (30, len(FEATURES)))
    found = fit(features, features @ numpy.linspace(1, 0.1, len(FEATURES)) - 0.3 * features[:, 4] + 0.2)
    assert min(found.coefficients.values()) >= 0


def test_too_few_networks_are_refused() -> None:
    with pytest.raises(TargetError, match="networks: 5"):
        fit(numpy.ones((5, len(FEATURES))), numpy.ones(5))


# The whole table


class MadeUp:
    """A device whose latency follows a law of the ONNX file alone, with some noise.

    Every network costs 0.1 ms, a convolution by its multiply-adds and its weights, an addition and a concatenation
    by their features.
    """

    name = "made-up"
    alignment = Alignment.everywhere(8)
    form: Form = "onnx"

    def __init__(self, noise: float = 0.0) -> None:
        self._noise, self._chance = noise, random.Random(0)

    def fingerprint(self) -> dict[str, str]:
        return {"kind": "made-up", "device": "paper"}

    def measure(self, networks: Sequence[Network], reference: str) -> dict[str, Latency]:
        times = {network.name: self.cost_ms(network.onnx) * self._chance.gauss(1, self._noise) for network in networks}
        return {name: Latency.from_samples([time] * 6, [times[reference]] * 6) for name, time in times.items()}

    @staticmethod
    def cost_ms(path: Path | None) -> float:
        assert path is not None
        model = onnx.shape_inference.infer_shapes(onnx.load(path))
        sizes = {item.name: numpy.prod(item.dims) for item in model.graph.initializer}
        features = {
            value.name: float(numpy.prod([size.dim_value for size in value.type.tensor_type.shape.dim]))
            for value in (*model.graph.value_info, *model.graph.output)
        }
        cost = 0.1
        for node in model.graph.node:
            if node.op_type == "Conv":
                cost += 1e-6 * sizes[node.input[1]] * SIZE * SIZE + 2e-6 * sizes[node.input[1]]
            elif node.op_type in ("Add", "Concat"):
                cost += 2e-6 * features[node.output[0]]
        return cost


def test_a_table_predicts_networks_that_it_has_not_seen(file: Path, graph: ConvGraph, tmp_path: Path) -> None:
    device = MadeUp(noise=0.01)
    table = profile(device, file, networks=24)
    write_resized(file, tmp_path / "anchor.onnx", graph, anchor_widths(graph, 8))
    assert table.anchor_ms == pytest.approx(device.cost_ms(tmp_path / "anchor.onnx"), rel=0.02)
    within = []
    for widths in random_widths(graph, 8, 20, seed=99):
        write_resized(file, tmp_path / "unseen.onnx", graph, widths)
        found, true = table.predict(widths), device.cost_ms(tmp_path / "unseen.onnx")
        assert found.latency_ms == pytest.approx(true, rel=0.05)
        assert found.latency_ms == pytest.approx(found.ratio * table.anchor_ms)
        within.append(abs(found.latency_ms - true) <= found.error_ms)
    assert table.error < 0.05
    assert sum(within) >= 16


def test_progress_counts_up_to_all(file: Path) -> None:
    told: list[tuple[str, int, int]] = []
    profile(MadeUp(), file, networks=20, blocks=(1, 8), progress=lambda *said: told.append(said))
    assert [what for what, _ in itertools.groupby(told, key=lambda said: said[0])] == ["layers", "networks"]
    assert all(done <= total for _, done, total in told)
    assert told[-1] == ("networks", 20, 20)


def test_a_target_that_runs_no_files_is_refused(file: Path) -> None:
    target = MadeUp()
    target.form = "module"
    with pytest.raises(TargetError, match=r"'made-up'.*onnxruntime"):
        profile(target, file)


@pytest.fixture
def table(file: Path) -> LatencyTable:
    return profile(MadeUp(), file, networks=8, blocks=(1, 4))


def test_a_table_survives_its_file(table: LatencyTable, tmp_path: Path) -> None:
    table.save(tmp_path / "tables" / "table.json")
    again = LatencyTable.load(tmp_path / "tables" / "table.json")
    assert again == table
    assert again.predict(table.graph.widths) == table.predict(table.graph.widths)
    assert [path.name for path in (tmp_path / "tables").iterdir()] == ["table.json"]


def test_another_device_is_refused_with_the_difference(table: LatencyTable) -> None:
    table.require_device({"kind": "made-up", "device": "paper"})
    with pytest.raises(TargetError, match=r"another device(.|\n)*device: paper -> stone(.|\n)*prunetune profile"):
        table.require_device({"kind": "made-up", "device": "stone"})


def damaged(text: str) -> Iterator[tuple[str, str]]:
    values = json.loads(text)
    yield "", "no latency table"
    yield "[]", "no latency table"
    yield text[: len(text) // 2], "no latency table"
    yield json.dumps({key: value for key, value in values.items() if key != "grids"}), "no latency table"
    yield json.dumps({**values, "grids": values["grids"][:1]}), "no latency table"
    yield json.dumps({**values, "version": 99}), "version 99"


def test_a_damaged_file_is_refused_by_name(table: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    with pytest.raises(TargetError, match=r"table\.json.*prunetune profile"):
        LatencyTable.load(path)
    table.save(path)
    for text, reason in damaged(path.read_text()):
        path.write_text(text)
        with pytest.raises(TargetError, match=rf"table\.json.*{reason}.*prunetune profile"):
            LatencyTable.load(path)


def test_a_network_of_another_family_is_refused_by_layer(table: LatencyTable) -> None:
    widths = table.graph.widths
    with pytest.raises(TargetError, match=r"layer two.*family"):
        table.predict({name: width for name, width in widths.items() if name != "two"})
    with pytest.raises(TargetError, match=r"layer one: 72 channels.*64"):
        table.predict(widths | {"one": 72})
    assert table.predict(widths | {"decoder": 16}) == table.predict(widths)


def test_a_table_is_a_value(table: LatencyTable) -> None:
    assert replace(table, anchor_ms=2 * table.anchor_ms) != table


# The target


class Described(MadeUp):
    """A device that says all that a target says of itself."""

    def fingerprint(self) -> dict[str, str]:
        told = ("kind", "device", "runtime", "precision", "threads", "platform")
        return {key: f"its {key}" for key in told}


class TestTable(TargetTestCase):
    predicts = True
    one_size = True

    @pytest.fixture(autouse=True)
    def _profiled(self, file: Path, graph: ConvGraph, tmp_path: Path) -> None:
        self.file, self.graph = file, graph
        profile(Described(), file, networks=8, blocks=(1, 4)).save(tmp_path / "table.json")

    def target(self) -> Target:
        return create_target(TableSpec(file=str(self.folder / "table.json")))

    def network(self, name: str, width: int, shrink: int = 1) -> Network:
        fixed = {layer for layer in self.graph.widths if layer not in itertools.chain(*self.graph.groups)}
        widths = {layer: full if layer in fixed else min(full, width) for layer, full in self.graph.widths.items()}
        path = self.folder / f"{name}.onnx"
        side = SIZE // shrink
        file = write_network(self.folder / f"{side}.onnx", side)
        write_resized(file, path, read_conv_graph(file), widths)
        return Network(name, (1, 3, side, side), onnx=path)

    def test_it_predicts_what_the_table_does(self) -> None:
        table = LatencyTable.load(self.folder / "table.json")
        networks = [self.network("narrow", 8), self.network("wide", 64)]
        found = self.target().measure(networks, reference="narrow")["wide"]
        narrow, wide = (table.predict(read_conv_graph(network.onnx).widths) for network in networks if network.onnx)
        assert found.median_ms == wide.latency_ms
        assert found.ratio == pytest.approx(wide.ratio / narrow.ratio)
        assert found.uncertainty == pytest.approx(2**0.5 * table.error)

    def test_it_predicts_networks_without_residual_blocks(self) -> None:
        short = Network("shorter", (1, 3, SIZE, SIZE), onnx=write_shorter(self.folder / "shorter.onnx"))
        whole = Network("whole", (1, 3, SIZE, SIZE), onnx=self.file)
        found = self.target().measure([whole, short], reference="whole")["shorter"]
        table = LatencyTable.load(self.folder / "table.json")
        only = {layer: self.graph.widths[layer] for layer in SHORTER}
        assert found.ratio == pytest.approx(table.predict(only).ratio / table.predict(self.graph.widths).ratio)
        assert found.ratio < 0.8

    def test_other_networks_are_refused(self) -> None:
        network = self.network("narrow", 8)
        two = replace(network, input_shape=(2, 3, SIZE, SIZE))
        with pytest.raises(TargetError, match="'narrow'"):
            self.target().measure([two], reference="narrow")
        other = self.folder / "other.onnx"
        model = onnx.load(self.file)
        for node in model.graph.node:
            node.input[:] = [name.replace("side.", "another.") for name in node.input]
        for item in model.graph.initializer:
            item.name = item.name.replace("side.", "another.")
        onnx.save(model, other)
        with pytest.raises(TargetError, match=r"'other'.*not of the family.*table\.json"):
            self.target().measure([Network("other", (1, 3, SIZE, SIZE), onnx=other)], reference="other")

    def test_it_predicts_the_precision_that_it_was_made_in_alone(self) -> None:
        network = self.network("dense", 8)
        assert self.target().precisions == ("its precision",)
        assert self.target().measure([replace(network, precision="its precision")], "dense")["dense"].ratio == 1
        with pytest.raises(TargetError, match=r"'dense': precision: int8 .*'table'.*take its precision"):
            self.target().measure([replace(network, precision="int8")], "dense")

    def test_a_table_that_is_not_there(self) -> None:
        with pytest.raises(TargetError, match=r"gone\.json.*prunetune profile"):
            create_target(TableSpec(file=str(self.folder / "gone.json"))).fingerprint()
