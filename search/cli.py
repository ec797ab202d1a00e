"""The command line. Commands that only read a study start without torch."""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from prunetune.search.commands.bundle_commands import export, recover, splice, verify
from prunetune.search.commands.result_commands import JsonOption, RunsOption, StudyArgument, confirm, pictures, table
from prunetune.search.commands.store import store_app
from prunetune.search.options.options import is_override, named, require_file
from prunetune.search.options.output import ErrorsNow
from prunetune.search.options.output import console as _console
from prunetune.search.options.output import write_json as _write_json
from prunetune.spaces import ConfigError, PrunetuneError, Threshold
from prunetune.spaces.files import place_error, write_text
from prunetune.spaces.recipe import Importance

if TYPE_CHECKING:
    from prunetune.search.study.study_spec import StudySpec

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(store_app)


def _say_version(asked: bool) -> None:
    if asked:
        print(f"prunetune {version('prunetune')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Search over pruning recipes for YOLO detectors."""


def _multiple_of_32(size: int) -> int:
    if size % 32:
        raise ConfigError(f"--imgsz: {size} is no multiple of 32, as detectors need it; some need multiples of 64")
    return size


TargetOption = Annotated[str, typer.Option(help="onnxruntime, openvino, torch, or the yaml of a target.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads; by default 1.")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; by default cpu.")]
PrecisionOption = Annotated[
    str | None, typer.Option(help="fp32, fp16, bf16, or int8, calibrated with noise; by default fp32.")
]
MoreOption = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="Another key of the target, such as hint=throughput."),
]
RepeatsOption = Annotated[
    int | None, typer.Option("--repeats", min=1, help="Most timed rounds, the target's `runs`; by default 400.")
]
ImgszOption = Annotated[int, typer.Option(min=32, max=8192, callback=_multiple_of_32, help="Input size in px.")]


@app.command()
def run(
    file: Annotated[
        str,
        typer.Argument(
            metavar="STUDY.yaml", help="The study's description; without one, model=... and data=... are enough."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="For example trials=30 space.rounds.high=3."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes on this machine; by default 1, or one for each GPU that device: lists."),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="local or ray: who carries out trials; by default what the description says.")
    ] = None,
    stopped_code: Annotated[
        int, typer.Option(min=0, max=255, help="Exit code after SIGTERM or Ctrl-C, for a scheduler to tell it by.")
    ] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Write nothing but errors.")] = False,
    log_json: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Append what happens to a file, one JSON object a line; - is the standard output."
        ),
    ] = None,
    callback: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Tell mlflow, wandb, or MODULE:CLASS of your own; can be repeated."),
    ] = None,
) -> None:
    """Run a study, or go on with it: the same command resumes, and joins one that runs."""
    from prunetune.search.callbacks.json_lines import STDOUT
    from prunetune.search.callbacks.reporting import Reporting
    from prunetune.search.interruption import Interruption, StopAskedError
    from prunetune.search.study.study_spec import StudySpec

    if log_json not in (None, STDOUT):
        require_file("--log-json", Path(str(log_json)))
    reporting = Reporting(quiet, log_json, tuple(callback or ()))
    console = _console() if reporting.is_shown else None
    try:
        with Interruption():
            given = [*(overrides or ()), *([f"engine={engine}"] if engine else ())]
            if is_override(file):
                from prunetune.search.engine.auto_study import study_without_file

                spec = study_without_file([file, *given], workers, partial(_say, console=console))
            else:
                spec = StudySpec.read(file, given)
            if spec.engine == "ray" and workers is not None:
                raise ConfigError("--workers: Ray decides how many; ray.concurrent=N limits them")
            if spec.engine != "ray":
                _ray_does_not_count(spec, overrides or (), console)
            from prunetune.search.local_workers import run_here

            _quiet_optuna()
            study = run_here(spec, workers, console, reporting)
    except StopAskedError:
        _say("stopped; the same command goes on from here", console)
        raise typer.Exit(stopped_code) from None
    except KeyboardInterrupt as error:
        _say("interrupted; the same command goes on from here", console)
        raise typer.Exit(128 + (error.args[0] if error.args else 2)) from None
    _show_end(study, spec.folder, console)


@app.command()
def init(
    overrides: Annotated[
        list[str],
        typer.Argument(metavar="KEY=VALUE...", help="model=... and data=..., and any other key, such as hours=24."),
    ],
    out: Annotated[Path, typer.Option(help="Where to write.")] = Path("study.yaml"),
) -> None:
    """Write a study.yaml for a model and data, with what fits this machine: some steps are trained to find out."""
    from prunetune.search.engine.auto_study import choose
    from prunetune.search.study.study_file import study_text, summary

    require_file("--out", out, (".yaml", ".yml"))
    if os.path.exists(out):
        raise ConfigError(f"--out: {out}: is there already; give another file, or remove it")
    study = choose(overrides)
    write_text(out, study_text(study, overrides, str(out)))
    for line in (*summary(study, overrides), f"written as {out}; run it with: prunetune run {out}"):
        _say(line, _console())


def _ray_does_not_count(spec: StudySpec, overrides: Sequence[str], console: Console | None) -> None:
    """What was given for Ray alone: refused if it is meant for this run, noted if the description has it for others."""
    given = [name for name, _, _ in (override.partition("=") for override in overrides) if name.split(".")[0] == "ray"]
    if given:
        raise ConfigError(f"{', '.join(given)}: counts with a Ray cluster only; add --engine ray, or leave it out")
    if spec.ray.model_fields_set:
        _say("ray: what the description says of a Ray cluster counts with --engine ray only", console)


def _say(text: str, console: Console | None) -> None:
    if console is not None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _show_end(study: Any, folder: Path, console: Console | None) -> None:
    from prunetune.results import rich_table
    from prunetune.results.findings.findings import Findings
    from prunetune.results.record.figure import figure_text
    from prunetune.results.tables.rows import budget_text, latencies_text
    from prunetune.targets.budget import FIGURES

    found = Findings.of(study)
    if found.study.finished is None:
        return
    if console is not None:
        console.print(rich_table(found, width=console.width))
    if found.front:
        for name in ("report.html", "best.pt", "best.onnx"):
            _say(f"{name:12} {folder / name}", console)
        return
    closest, budget = found.nearest, budget_text(found)
    where = f"{folder / 'report.html'} shows all trials"
    if closest is None:
        ends = [record.outcome for record in found.records.values()]
        failed = Counter(outcome.value for outcome in ends if outcome is not None and not outcome.has_values)
        how = ", ".join(f"{count} {name}" for name, count in failed.items())
        raise PrunetuneError(f"no trial finished{f' ({how})' if how else ''}; {where}, with their reasons")
    nearest = f"Nearest is {closest.title} with {latencies_text(closest)}"
    if not found.excess(closest):  # it kept the budget, but not the share of it that was asked for
        assert closest.trial is not None  # no baseline is over its budget
        reason = found.records[closest.trial].reason
        raise PrunetuneError(
            f"space.latency: no recipe came to its share of the {budget}. {nearest}: {reason}; ask for a larger share, "
            f"or lower space.floor if it has one. {where}"
        )
    worst = max(found.excess(closest).items(), key=lambda item: item[1])[0]
    what = worst if worst in FIGURES else "latency"
    if worst in FIGURES:
        nearest = f"Nearest is {closest.title} with {figure_text(worst, closest.figures)}"
    raise PrunetuneError(
        f"budget.{what}: no recipe met the {budget}. {nearest}; allow more {what}, or let the space prune more "
        f"(a higher threshold or sparsity, more rounds). {where}"
    )


@app.command()
def status(study: StudyArgument, runs: RunsOption = "runs", as_json: JsonOption = False) -> None:
    """Show how far a study is."""
    from prunetune.results.storage.storage import find_findings
    from prunetune.search.commands.status import study_status, write_status

    read = study_status(*find_findings(study, runs))
    if as_json:
        _write_json(read.as_dict())
    else:
        write_status(read, _console())


@app.command()
def front(study: StudyArgument, runs: RunsOption = "runs", as_json: JsonOption = False) -> None:
    """Show the front beside the controls."""
    from prunetune.results import front_document, rich_table
    from prunetune.results.storage.storage import find_findings

    found, folder = find_findings(study, runs)
    if as_json:
        _write_json(front_document(found, folder))
    else:
        console = _console()
        console.print(rich_table(found, width=console.width))


app.command()(table)
app.command()(confirm)
app.command()(pictures)


@app.command()
def report(
    study: StudyArgument,
    runs: RunsOption = "runs",
    trial: Annotated[
        str | None, typer.Option(help="Which network to show first: 7, 7.1 or dense; by default the most accurate.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write; by default report.html in its folder.")] = None,
    png: Annotated[Path | None, typer.Option(help="Draw the front into this PNG as well, for a README.")] = None,
) -> None:
    """Write the study's report as one HTML file."""
    from prunetune.results import write_report
    from prunetune.results.storage.storage import find_findings

    if out is not None:
        require_file("--out", out, (".html", ".htm"))
    if png is not None:
        require_file("--png", png, (".png",))
    found, folder = find_findings(study, runs)
    with named("--trial"):
        print(write_report(found, folder, out or folder / "report.html", trial))
    if png is not None:
        from prunetune.results.figures.front_image import write_front_image

        print(write_front_image(found, png))


@app.command()
def dashboard(
    study: StudyArgument,
    host: Annotated[str, typer.Option(help="The address to listen at. There is no password.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Its port; 0 for any that is free.")] = 8080,
    runs: RunsOption = "runs",
) -> None:
    """Show a study in optuna-dashboard, while it runs or later."""
    from prunetune.results.storage.place import place_of, sqlite_url
    from prunetune.results.storage.storage import find_study
    from prunetune.search.commands.dashboard import serve

    folder, address = place_of(study, runs, None)
    find_study(study, runs)  # says what is wrong with it
    _quiet_optuna()
    serve(address or sqlite_url(folder), folder, host, port)


app.command()(export)
app.command()(verify)
app.command()(recover)
app.command()(splice)


@app.command()
def prune(
    model: Annotated[str, typer.Argument(help="A .pt, or a yaml.")],
    threshold: Annotated[float, typer.Option(help="Channels with an importance below it go.")],
    head_threshold: Annotated[
        float | None, typer.Option(help="Another threshold for neck and head; by default the same.")
    ] = None,
    neck_threshold: Annotated[
        float | None, typer.Option(help="Another threshold for the neck; by default the head's.")
    ] = None,
    importance: Annotated[
        Importance, typer.Option(help="What channels are judged by: gamma is absolute, others relative to a mean of 1.")
    ] = "gamma",
    data: Annotated[
        str | None, typer.Option(help="The data.yaml whose training images `--importance taylor` judges by.")
    ] = None,
    floor: Annotated[float, typer.Option(help="The least share of its channels that every layer keeps.")] = 0.0,
    align: Annotated[int, typer.Option(min=1, help="Keep channels in multiples of this.")] = 8,
    imgsz: Annotated[
        int, typer.Option(min=32, max=8192, callback=_multiple_of_32, help="Input size in px, for GFLOPs and `taylor`.")
    ] = 640,
    out: Annotated[Path | None, typer.Option(help="Where to write the pruned .pt.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Prune a detector once, without a study and without training."""
    from prunetune.search.commands.prune import prune_once, write_pruned

    if out is not None:
        require_file("--out", out, (".pt",))
    wanted = Threshold(threshold, threshold if head_threshold is None else head_threshold, neck_threshold)
    pruned = prune_once(
        model, wanted, alignment=align, imgsz=imgsz, out=out, importance=importance, data=data, floor=floor
    )
    if as_json:
        _write_json(pruned.as_dict())
    else:
        write_pruned(pruned, _console())


@app.command()
def measure(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help=".pt, .onnx or yaml files.")],
    target: TargetOption = "onnxruntime",
    against: Annotated[str | None, typer.Option(help="The reference; by default the first model.")] = None,
    imgsz: ImgszOption = 640,
    threads: ThreadsOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    option: MoreOption = None,
    repeats: RepeatsOption = None,
    tolerance: Annotated[
        float | None, typer.Option(help="How exactly a ratio must be known before the rounds end; by default 0.01.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw every round into this HTML file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure latency, all models interleaved in one run."""
    from prunetune.search.commands.measure import measure_models, write_measured
    from prunetune.search.options.target_option import read_target

    if plot is not None:
        require_file("--plot", plot, (".html", ".htm"))
    described = {"threads": threads, "device": device, "precision": precision}
    spec = read_target(target, described, {"runs": repeats, "tolerance": tolerance}, option)
    measured = measure_models(models, spec, against, imgsz, plot)
    if as_json:
        _write_json(measured.as_dict())
    else:
        write_measured(measured, _console())


@app.command("align-probe")
def align_probe(
    target: TargetOption = "onnxruntime",
    threads: ThreadsOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    option: MoreOption = None,
    imgsz: Annotated[
        int, typer.Option(min=32, max=8192, callback=_multiple_of_32, help="Input size of the detector in px.")
    ] = 320,
    repeats: RepeatsOption = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the target, for `targets: [FILE]`.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Find the multiple of channels that a device prefers, and write it as a target."""
    from prunetune.search.commands.align_probe import probe, write_probe
    from prunetune.search.options.target_option import read_target

    if out is not None:
        require_file("--out", out, (".yaml", ".yml"))
    described = {"threads": threads, "device": device, "precision": precision}
    found = probe(read_target(target, described, more=option), imgsz, out, repeats)
    if as_json:
        _write_json(found.as_dict())
    else:
        write_probe(found, _console())


@app.command()
def profile(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The dense detector: a .pt, .onnx or yaml.")],
    target: TargetOption = "onnxruntime",
    imgsz: ImgszOption = 640,
    threads: ThreadsOption = None,
    precision: PrecisionOption = None,
    option: MoreOption = None,
    align: Annotated[
        int | None, typer.Option(min=1, help="Widths are multiples of this; by default the target's alignment.")
    ] = None,
    networks: Annotated[int, typer.Option(min=6, help="Whole networks to measure for the fit.")] = 48,
    out: Annotated[Path, typer.Option(help="Where to write the table.")] = Path("table.json"),
    as_json: JsonOption = False,
) -> None:
    """Measure a latency table: it predicts the latency of every pruning of a detector."""
    from prunetune.search.commands.profile import profile_model, write_profiled
    from prunetune.search.options.target_option import read_target

    require_file("--out", out, (".json",))
    spec = read_target(target, {"threads": threads, "precision": precision, "alignment": align}, more=option)
    console = Console(stderr=True)
    profiled = profile_model(model, spec, imgsz, networks, out, console)
    if as_json:
        _write_json(profiled.as_dict())
    else:
        write_profiled(profiled, _console())


@app.command()
def sensitivity(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="The trained detector, a .pt.")] = None,
    data: Annotated[str | None, typer.Option(help="The data.yaml whose validation images it is judged on.")] = None,
    study: Annotated[
        str | None,
        typer.Option(
            metavar="STUDY", help="A study, in the place of MODEL: its dense network, on its data, as it says."
        ),
    ] = None,
    importance: Annotated[Importance, typer.Option(help="What channels are judged by.")] = "taylor",
    align: Annotated[int | None, typer.Option(min=1, help="Keep channels in multiples of this; by default 8.")] = None,
    imgsz: Annotated[int | None, typer.Option(min=32, max=8192, help="Input size in px; by default 640.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images in a batch; by default 16.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, or a GPU's number; by default cpu.")] = None,
    runs: RunsOption = "runs",
    out: Annotated[Path | None, typer.Option(help="Write a row for each removal into this CSV as well.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what removing 25, 50 and 75 % of each group of layers alone does to a trained detector."""
    from prunetune.search.commands.profile import sensitivity_of, sensitivity_of_study, write_analysed
    from prunetune.spaces.files import write_text

    if out is not None:
        require_file("--out", out, (".csv",))
    console = Console(stderr=True)
    if study is not None:
        from prunetune.search.study.open_study import find_study

        given = {
            "MODEL": model,
            "--data": data,
            "--align": align,
            "--imgsz": imgsz,
            "--batch": batch,
            "--device": device,
        }
        if named_too := [name for name, value in given.items() if value is not None]:
            raise ConfigError(f"--study: has its own of {', '.join(named_too)}; leave that out, or leave out --study")
        _quiet_optuna()
        found, file = sensitivity_of_study(*find_study(study, runs), importance, console)
        _say(f"{file}: prunetune report {study} shows it", console)
    else:
        if model is None or data is None:
            raise ConfigError("sensitivity: give MODEL and --data data.yaml, or --study NAME")
        found = sensitivity_of(
            model,
            data,
            importance=importance,
            alignment=align or 8,
            imgsz=imgsz or 640,
            batch=batch or 16,
            device=device or "cpu",
            console=console,
        )
    if out is not None:
        write_text(out, found.as_csv())
    if as_json:
        _write_json(found.as_dict())
    else:
        write_analysed(found, _console())


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Check that everything a study needs is installed and works."""
    from prunetune.search.commands.doctor import examine, write_findings

    findings = examine()
    if as_json:
        _write_json([finding.as_dict() for finding in findings])
    else:
        write_findings(findings, _console())
    if any(finding.state == "broken" for finding in findings):
        raise typer.Exit(1)


def main() -> None:
    """Runs a command. What the user can mend gives one message and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", handlers=[ErrorsNow()])
    try:
        app()
    except PrunetuneError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:
        raise SystemExit(1) from None
    except OSError as error:
        told = place_error(error)
        if told is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _quiet_optuna() -> None:
    """Keeps Optuna's own messages out of ours. Call it when Optuna is imported: the import sets its level."""
    for name in ("optuna", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    main()
