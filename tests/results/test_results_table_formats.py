"""The table in every format: the same rows, whatever the study holds and whatever its names are."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from optuna.trial import TrialState
from rich.console import Console

from prunetune.results import (
    Comparison,
    Confirmation,
    ConfirmedNetwork,
    Interval,
    csv_text,
    front_document,
    latex,
    markdown,
    rich_table,
    table_frame,
    trial_table,
)
from prunetune.results.tables.escapes import latex_text, markdown_text, printable
from prunetune.results.tables.formats import write_parquet
from prunetune.results.tables.rows import caption

Builder = Any

ODD = [
    "<script>alert(1)</script>", "a|b", 'say "x" & \'y\'', "$x_1^2$ 100 % #1 ~{}\\end{table}", "量产板", "=1+1", "-x",
    "two\nlines", "\x1b[31mred", "[link](javascript:x)", "**bold** `code`", "\u202egnp",
]  # fmt: skip


def shown(study: Any, width: int = 300) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(rich_table(study, width=width))
    return console.export_text()


def never_started(builder: Builder) -> None:
    pass


def empty(builder: Builder) -> None:
    builder.context(baselines={})


def one_trial(builder: Builder) -> None:
    builder.context()
    builder.trial(0.9, 0.8)


def nothing_feasible(builder: Builder) -> None:
    builder.context()
    builder.trial(0.9, 1.3, outcome="OVER_BUDGET", violation=0.3)
    builder.trial(0.9, 1.2, outcome="OVER_BUDGET", violation=0.2)


def failed_only(builder: Builder) -> None:
    builder.context()
    for reason in ("loss is NaN", "<b>no memory</b>"):
        builder.trial(None, None, outcome="DIVERGED", state=TrialState.FAIL, reason=reason)


CASES: dict[Callable[[Builder], None], tuple[int, int, str]] = {
    never_started: (0, 0, "trials: none yet"),
    empty: (0, 0, "trials: none yet"),
    one_trial: (2, 1, "trials: 1 complete"),
    nothing_feasible: (2, 0, "trials: 2 over budget"),
    failed_only: (2, 0, "trials: 2 failed"),
}
"""Controls, members of the front, and what the caption says."""


@pytest.mark.parametrize("fill", CASES, ids=lambda case: case.__name__)
def test_every_format_holds_every_study(builder: Builder, tmp_path: Path, fill: Callable[[Builder], None]) -> None:
    pyarrow = pytest.importorskip("pyarrow.parquet")
    fill(builder)
    controls, members, said = CASES[fill]
    study, count = builder.study, controls + members
    assert len(markdown(study).splitlines()) == 2 + count
    records = list(csv.DictReader(io.StringIO(csv_text(study))))
    assert [record["kind"] for record in records] == ["control"] * controls + ["front"] * members
    frame = table_frame(study)
    assert list(frame["model"]) == [record["model"] for record in records]
    write_parquet(study, tmp_path / "front.parquet")
    stored = pyarrow.read_table(tmp_path / "front.parquet")
    assert (stored.num_rows, stored.column_names) == (count, list(frame.columns))
    assert str(stored.schema.field("map50_95").type) == "double"
    assert str(stored.schema.field("params").type) == "int64"
    assert latex(study).count("\\midrule") == (2 if controls and members else 1)
    assert said in caption(study)
    assert said in " ".join(shown(study).split())
    assert len(trial_table(study)) == len(study.trials)
    assert len(front_document(study)["front"]) == members


def test_frames_of_studies_without_a_front(builder: Builder) -> None:
    failed_only(builder)
    frame = trial_table(builder.study)
    assert list(frame["outcome"]) == ["DIVERGED", "DIVERGED"]
    assert frame["map50_95"].isna().all()
    assert not frame["on_front"].any()


@pytest.mark.parametrize("name", ODD)
def test_a_name_stays_itself_in_every_format(make_builder: Any, tmp_path: Path, name: str) -> None:
    pyarrow = pytest.importorskip("pyarrow.parquet")
    builder = make_builder(name)
    builder.context(baselines={name: builder.baseline(0.4, {name: 2.0})})
    study = builder.study
    write_parquet(study, tmp_path / "front.parquet")
    (stored,) = pyarrow.read_table(tmp_path / "front.parquet").to_pylist()
    assert (stored["model"], stored["latency_ms"]) == (name, 2.0)
    assert table_frame(study)["model"][0] == name
    (record,) = csv.DictReader(io.StringIO(csv_text(study), newline=""))
    assert record["model"] in (name, f"'{name}")
    assert not record["model"].startswith(("=", "-", "+", "@"))
    head, _, line = markdown(study).splitlines()
    assert "<script" not in line
    assert "\x1b" not in line + shown(study) + latex(study)
    bars = r"(?<!\\)\|"
    assert len(re.findall(bars, line)) == len(re.findall(bars, head))
    body = latex(study).splitlines()
    assert body[-2:] == ["\\end{tabular}", "\\end{table}"]
    assert sum(row.endswith(" \\\\") for row in body) == 2


class _Words(HTMLParser):
    """The text of a page, and the tags around it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words += data


SIGNS = st.text(alphabet="ab1_*`[]()<>&;#|$~\\!/-+=.: \"'", max_size=20)


@given(text=st.text(max_size=40) | SIGNS)
@example("<= half-width")
@example("&lt; &#60; & <b>bold</b> <!-- -->")
@example("Linux x86_64, _emphasis_ a__b")
@example("# no title")
def test_escaped_text_reads_as_it_is(text: str) -> None:
    shown = printable(" ".join(text.splitlines()))
    render = MarkdownIt().enable(["table", "strikethrough"]).render
    cell = _Words(render(f"| a |\n| --- |\n| {markdown_text(text)} |\n"))
    assert cell.tags == ["table", "thead", "tr", "th", "tbody", "tr", "td"]
    assert cell.words.split() == ["a", *shown.split()]
    item = _Words(render(f"- {markdown_text(shown.strip() or 'x')}\n"))
    if not re.match(r"\d+[.)]|=", shown.strip()):  # a list in a list, and a line under nothing: no markup of words
        assert item.tags == ["ul", "li"]
        assert item.words.split() == (shown.split() or ["x"])


@given(text=st.text(max_size=40))
def test_latex_has_no_markup_left(text: str) -> None:
    plain = re.sub(r"\\text\w+\{\}|\{\\char\d\d\}|\$\\pm\$|\\[{}$&%#_]", "", latex_text(text))
    assert not re.search(r"[\\{}$&%#_~^<>|\"`]", plain)


def test_names_are_readable_after_the_escapes(builder: Builder) -> None:
    builder.context(baselines={"量产 a_b": builder.baseline(0.4)})
    assert "| 量产 a_b |" in markdown(builder.study)
    assert latex(builder.study).count("量产 a\\_b & ") == 1
    assert markdown_text("<= half-width & x86_64") == "<= half-width & x86_64"


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_confirmed_study_says_what_is_sure(filled: Builder, split: str) -> None:
    sure, unsure = Interval(0.03, 0.01, 0.05), Interval(0.01, -0.01, 0.03)
    against = {
        "half-width": Comparison(None, sure, {"cpu": Interval(0.8, 0.79, 0.81)}),
        "dense": Comparison(None, unsure, {}),
        "0": Comparison(None, sure, {}),
    }
    known = Interval(0.897, 0.88, 0.91)
    networks = {"1": ConfirmedNetwork(known, known, {}, against)}
    filled.store(
        confirmation=Confirmation(split, 72, 1000, 0, 0.95, "", None, networks), test={"1": filled.accuracy(0.897)}
    )
    member = markdown(filled.study).splitlines()[4]
    assert member.endswith(
        "recover 6; surely more accurate and faster than half-width; no sure difference from dense |"
    )
    assert ("0.897 (0.880 to 0.910)" in member) is (split == "test")
    record = list(csv.DictReader(io.StringIO(csv_text(filled.study))))[2]
    assert record.get("test_map50_95_low") == ("0.88" if split == "test" else None)
    assert f"sure: outside the 95 % interval, on 72 {split} images" in caption(filled.study)


def test_changes_are_against_the_dense_control(filled: Builder) -> None:
    frame = table_frame(filled.study).set_index("model")
    assert frame.loc["trial 0", "map50_95_change"] == pytest.approx(0.905 - 0.940)
    assert frame.loc["half-width", "map50_change"] == pytest.approx(0.986 - 0.993)
    assert frame.loc["dense", ["map50_change", "map50_95_change"]].isna().all()
    filled.context(baselines={"half-width": filled.baseline(0.875)})
    assert table_frame(filled.study)["map50_95_change"].isna().all()


def test_a_control_tells_its_epochs(builder: Builder) -> None:
    builder.context(baselines={"dense": builder.baseline(0.9, epochs=62)})
    assert "trained for 62 epochs" in markdown(builder.study)
