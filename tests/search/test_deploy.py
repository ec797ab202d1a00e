"""At which input sizes and in which precisions a study's networks run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetune.search.study.deploy import DeploySettings, further
from prunetune.search.study.spec_change import refuse_change
from prunetune.search.study.study_spec import StudySpec
from prunetune.spaces import ConfigError, Deployment, ImageSize, Recipe, SearchSpace, SpecChangedError, Threshold

MakeSpec = Callable[..., StudySpec]
strides = st.sampled_from([32, 64])
squares = st.integers(1, 40).map(lambda steps: 32 * steps)


@pytest.mark.parametrize(
    ("imgsz", "stride", "sizes"),
    [
        (640, 32, (640, 544, 448, 352, 256)),
        (160, 32, (160, 128, 96, 64)),
        (64, 32, (64,)),
        (1280, 64, (1280, 1088, 896, 704, 512)),
        (128, 64, (128,)),
    ],
)
def test_the_sizes_of_a_study_that_names_none(imgsz: int, stride: int, sizes: tuple[int, ...]) -> None:
    assert DeploySettings().sizes(imgsz, stride) == sizes


@given(st.integers(1, 40), strides)
def test_default_sizes_fit_the_detector(steps: int, stride: int) -> None:
    imgsz = steps * stride
    sizes = DeploySettings().sizes(imgsz, stride)
    assert sizes[0] == imgsz
    assert list(sizes) == sorted(set(sizes), reverse=True)
    assert all(size % stride == 0 and (size >= 2 * stride or size == imgsz) for size in sizes)


def test_sizes_are_told_the_largest_first() -> None:
    settings = DeploySettings(imgsz=(320, "640", [384, 640]))
    assert settings.sizes(640, 32) == (640, (384, 640), 320)
    assert settings.model_dump(mode="json") == {"imgsz": [640, [384, 640], 320], "precision": None}


@given(squares, st.lists(squares, max_size=4, unique=True), st.sampled_from([("fp32",), ("fp32", "int8")]))
def test_further_deployments_are_no_larger_and_each_once(
    own: int, sizes: list[int], precisions: tuple[str, ...]
) -> None:
    trained = Deployment(own, "fp32")
    found = further(trained, sorted(sizes, reverse=True), precisions)
    assert trained not in found
    assert len(set(found)) == len(found)
    expected = {(size, precision) for size in (own, *sizes) if size <= own for precision in precisions}
    assert {(item.imgsz, item.precision) for item in found} == expected - {(own, "fp32")}


def test_a_rectangle_goes_where_both_sides_fit() -> None:
    sizes: tuple[ImageSize, ...] = (640, (384, 640), 448, (256, 448), 320)
    assert [item.imgsz for item in further(Deployment((384, 640)), sizes, ["fp32"])] == [(256, 448), 320]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"imgsz": [100]}, "deploy.imgsz: 100: takes multiples of 32, the model's stride, from 64 on, not 100"),
    ({"imgsz": [32]}, "deploy.imgsz: 32: takes multiples of 32, the model's stride, from 64 on, not 32"),
    ({"imgsz": [[96, 130]]}, "deploy.imgsz: 96x130: takes multiples of 32, the model's stride, from 64 on, not 130"),
    ({"imgsz": [320]}, "deploy.imgsz: 320 is larger than imgsz: 160; give a larger imgsz, or leave it out"),
    ({"imgsz": [[96, 320]]}, "deploy.imgsz: 96x320 is larger than imgsz: 160; give a larger imgsz, or leave it out"),
]


@pytest.mark.parametrize(("deploy", "problem"), BAD)
def test_a_size_that_does_not_fit(make_spec: MakeSpec, deploy: dict[str, Any], problem: str) -> None:
    assert list(make_spec(imgsz=160, deploy=deploy).size_problems(32)) == [problem]


def test_a_size_of_the_space_has_to_fit_as_well(make_spec: MakeSpec, tiny: dict[str, Any]) -> None:
    spec = make_spec(imgsz=160, space={**tiny["space"], "imgsz": {"choices": [160, 100]}})
    assert [problem.partition(":")[0] for problem in spec.size_problems(32)] == ["space.imgsz"]


@pytest.mark.parametrize(
    ("deploy", "words"),
    [
        ({"imgsz": []}, "deploy.imgsz: is empty"),
        ({"imgsz": [64, 64]}, "value twice"),
        ({"imgsz": [64, [64, 64]]}, "value twice"),
        ({"imgsz": ["64x"]}, "'64x'"),
        ({"imgsz": [True]}, "True"),
        ({"imgsz": [[32, 64, 96]]}, "[32, 64, 96]"),
        ({"imgsz": 64}, "deploy.imgsz: takes a list"),
        ({"precision": ["int4"]}, "deploy.precision"),
        ({"imgzs": [64]}, "deploy.imgzs: unknown key; did you mean imgsz?"),
    ],
)
def test_a_bad_description_of_deployments(make_spec: MakeSpec, deploy: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make_spec(deploy=deploy)
    assert len(refused.value.problems) == 1
    assert words in refused.value.problems[0]


def test_sizes_of_the_space_have_one_form(tiny: dict[str, Any]) -> None:
    space = SearchSpace.model_validate({**tiny["space"], "imgsz": {"choices": [[384, 640], "640", [320, 320]]}})
    assert dict(space.parameters())["imgsz"].values == ("384x640", 640, 320)
    with pytest.raises(ValueError, match=r"twice"):
        SearchSpace.model_validate({**tiny["space"], "imgsz": {"choices": [96, "96x96"]}})


def test_a_table_without_a_device_knows_one_size(make_spec: MakeSpec, tiny: dict[str, Any]) -> None:
    table = [{"kind": "table", "file": "cpu.json"}]
    assert make_spec(imgsz=160, targets=table).sizes(32) == (160,)
    for key, changes in (
        ("deploy.imgsz", {"deploy": {"imgsz": [160, 96]}}),
        ("space.imgsz", {"space": {**tiny["space"], "imgsz": 96}}),
    ):
        problems = list(make_spec(imgsz=160, targets=table, **changes).size_problems(32))
        assert len(problems) == 1
        assert problems[0].startswith(f"{key}: target 'table' is a table made for one input size")


def test_recipes_are_drawn_over_the_sizes() -> None:
    plain = SearchSpace.model_validate({"preset": "yolov5-slimming"})
    assert plain.over_sizes(()) == plain
    parameters = dict(plain.over_sizes((160, (96, 160))).parameters())
    assert parameters["imgsz"].values == (160, "96x160")
    values = {
        "sparsity": 0.3,
        "sparse_epochs": 1,
        "rounds": 1,
        "recovery_epochs": 1,
        "threshold": 0.5,
        "imgsz": "96x160",
    }
    space = SearchSpace.model_validate({"sparsity": 0.3, "sparse_epochs": 1, "threshold": 0.5, "recovery_epochs": 1})
    assert space.over_sizes((160, (96, 160))).recipe(values).imgsz == (96, 160)
    own = SearchSpace.model_validate({**space.as_json(), "imgsz": 128})
    assert own.over_sizes((160, 96)) == own


@pytest.mark.parametrize("imgsz", [None, 96, (96, 160)])
def test_a_recipe_keeps_its_size(imgsz: ImageSize | None) -> None:
    recipe = Recipe(0.3, 1, Threshold.everywhere(0.5), imgsz=imgsz)
    assert Recipe.from_dict(recipe.as_dict()) == recipe


def test_other_deployments_are_another_study(make_spec: MakeSpec) -> None:
    stored = make_spec()
    refuse_change(stored, make_spec(deploy={}))
    with pytest.raises(SpecChangedError, match=r"deploy"):
        refuse_change(stored, make_spec(deploy={"imgsz": [64]}))


@pytest.mark.parametrize(
    ("controls", "words"),
    [
        (["dens"], "did you mean dense?"),
        (["yolov8n.onnx"], "takes names, and files of .yaml or .pt"),
        (["a/best.pt", "b/best.pt"], "has 'best.pt' twice"),
    ],
)
def test_a_control_that_is_none(make_spec: MakeSpec, controls: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make_spec(controls=controls)
    assert words in refused.value.problems[0]
