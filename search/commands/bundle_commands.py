"""The commands that ship networks: as a bundle, checked, trained on, and spliced of two."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from prunetune.search.commands.result_commands import JsonOption, RunsOption, StudyArgument
from prunetune.search.options.options import require_folder
from prunetune.search.options.output import console, write_json
from prunetune.spaces import PrunetuneError


def export(
    study: StudyArgument,
    trial: Annotated[
        str,
        typer.Option(help="The network: 7, 7.1 after the first of several rounds, 7@96 at 96 px, or a control's name."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The bundle's folder; by default export/trial-N in the study's.")
    ] = None,
    openvino: Annotated[bool, typer.Option("--openvino", help="Also OpenVINO's IR.")] = False,
    tensorrt: Annotated[bool, typer.Option("--tensorrt", help="Also a TensorRT engine for the GPU of here.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Also an int8 ONNX, calibrated with training images.")] = False,
    runs: RunsOption = "runs",
) -> None:
    """Write a network as a bundle to ship: .pt for stock ultralytics, ONNX, model card, sums."""
    from prunetune.search.commands.export import Forms, export_bundle
    from prunetune.search.study.open_study import find_study

    if out is not None:
        require_folder("--out", out)
    found, folder = find_study(study, runs)
    written = export_bundle(found, folder, trial, out, Forms(openvino, tensorrt, int8))
    for path in sorted(written.iterdir()):
        print(path)


def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A bundle that `export` or `recover` wrote.")],
    data: Annotated[
        str | None, typer.Option(help="A data.yaml: the accuracy that the bundle states is evaluated on it, too.")
    ] = None,
    device: Annotated[str, typer.Option(help="ultralytics' device for that.")] = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Check a bundle: sums, that every file loads, that all compute the same, and with --data its accuracy."""
    from prunetune.pruning.yolo.compat import prepare_ultralytics
    from prunetune.results.bundle import verify as checks

    prepare_ultralytics()
    found = []
    try:
        for check in checks.verify(folder, data, device, _fingerprint):
            found.append(check)
            if not as_json:
                colour = {checks.HOLDS: "green", checks.FAILS: "bold red", checks.NOTE: "yellow"}.get(
                    check.state, "dim"
                )
                detail = f": {check.detail}" if check.detail else ""
                line = f"[{colour}]{check.state:8}[/] {escape(f'{check.file}: {check.what}{detail}')}"
                console().print(line, highlight=False, soft_wrap=True)
    except checks.NoBundleError as error:
        raise PrunetuneError(str(error)) from error
    if as_json:
        write_json([check.as_dict() for check in found])
    else:
        print(checks.summary([check.state for check in found]))
    if any(check.state == checks.FAILS for check in found):
        raise typer.Exit(1)


def _fingerprint(data: str) -> str | None:
    from prunetune.pruning.data.dataset import inspect_dataset
    from prunetune.spaces import DatasetError

    try:
        return inspect_dataset(data).fingerprint
    except DatasetError:
        return None


def recover(
    network: Annotated[Path, typer.Argument(metavar="DIR", help="A bundle, or a .pt.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE...", help="data=... and epochs=...; imgsz, batch, device, train.lr0 ..."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The new bundle; by default DIR-recovered.")] = None,
) -> None:
    """Train a pruned network on, its widths as they are, and write a new bundle."""
    from prunetune.search.commands.recover import recover as carry_out
    from prunetune.search.interruption import Interruption, StopAskedError

    if out is not None:
        require_folder("--out", out)
    try:
        with Interruption():
            written = carry_out(network, overrides or (), out, Console(stderr=True))
    except StopAskedError:
        typer.echo("stopped; the same command goes on from its last epoch", err=True)
        raise typer.Exit(130) from None
    for path in sorted(written.iterdir()):
        print(path)


def splice(
    study: StudyArgument,
    backbone_from: Annotated[str, typer.Option(help="Whose backbone: 7, 7.1 or dense.")],
    head_from: Annotated[str, typer.Option(help="Whose neck and head.")],
    recover: Annotated[
        int | None, typer.Option(min=0, help="Epochs of recovery; by default the longest of the study's space.")
    ] = None,
    runs: RunsOption = "runs",
) -> None:
    """Put a network together of two, recover and measure it, and add it to the study as a trial."""
    from prunetune.results.findings.findings import Findings
    from prunetune.results.tables.rows import decimals, latencies_text
    from prunetune.search.commands.splice import splice_networks
    from prunetune.search.interruption import Interruption, StopAskedError
    from prunetune.search.study.open_study import find_study

    found, folder = find_study(study, runs)
    try:
        with Interruption():
            trial = splice_networks(found, folder, backbone_from, head_from, recover, Console(stderr=True))
    except StopAskedError:
        typer.echo("stopped; the same command goes on from its last epoch", err=True)
        raise typer.Exit(130) from None
    findings = Findings.of(found)
    record, network = findings.records[trial.number], findings.last_network(trial.number)
    assert network is not None  # a splice that has none is no trial
    is_member = any(member.name == network.name for member in findings.front)
    reason = f" ({record.reason})" if record.reason else ", on the front" if is_member else ""
    print(
        f"{network.title}: {record.outcome}{reason}: map50_95 {decimals(network.map50_95)}, {latencies_text(network)}, "
        f"{network.recipe_text}"
    )
