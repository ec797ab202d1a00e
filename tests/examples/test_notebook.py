"""The notebook runs from its first cell to its last on a study of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

from prunetune.search.cli import main  # noqa: E402

NOTEBOOK = Path(__file__).parents[2] / "examples" / "results.ipynb"

STUDY: dict[str, Any] = {
    "name": "barcodes",
    "model": "yolov5n.yaml",
    "imgsz": 64,
    "batch": 8,
    "dense_epochs": 1,
    "space": {"sparsity": 0.3, "sparse_epochs": 1, "threshold": {"choices": [0.01, 0.8]}, "recovery_epochs": 1},
    "targets": [{"kind": "onnxruntime", "name": "cpu", "threads": 1, "alignment": 8, "runs": 6, "tolerance": 0.9}],
    "budget": {"latency": "<= 100 x dense"},  # met on the busiest machine
    "controls": ["dense"],
    "trials": 2,
}


@pytest.fixture
def folder(tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a finished study below `runs`."""
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(yaml.safe_dump({**STUDY, "data": str(shapes)}), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["prunetune", "run", "study.yaml"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    return tmp_path


@pytest.mark.slow
def test_every_cell_runs(folder: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    told = ["".join(str(output.get("data") or output.get("text")) for output in cell.outputs) for cell in cells]
    assert all(told), "every cell shows something"
    assert "on the front" in told[0]
    assert "half-width" not in told[1]
    assert "dense" in told[1]
    assert "plotly" in told[3]
    assert "classes square, disc" in told[-2]


def test_it_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
