"""The notebook runs from its first cell to its last on a real study."""

from __future__ import annotations

from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

NOTEBOOK = Path(__file__).parents[2] / "examples" / "results.ipynb"


@pytest.mark.slow
def test_every_cell_runs(finished_study: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    named = next(cell for cell in notebook.cells if "barcodes" in cell.source and cell.cell_type == "code")
    named.source = named.source.replace("barcodes", finished_study.name)
    folder = finished_study.parents[1]
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    told = ["".join(str(output.get("data") or output.get("text")) for output in cell.outputs) for cell in cells]
    assert all(told), "every cell shows something"
    assert "on the front" in told[0]
    assert "dense" in told[1]
    assert "half-width" in told[1]
    assert "plotly" in told[3]
    assert "classes square, disc" in told[-2]


def test_it_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
