"""`prunetune store`: what the stage store holds, and whether it is sound. Starts without torch."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal

from prunetune.results.tables.escapes import printable
from prunetune.search.options.output import console, write_json
from prunetune.search.study.store_limit import GB, STORE
from prunetune.spaces import ConfigError

if TYPE_CHECKING:
    from prunetune.pruning.stages.store_contents import Item

DAY_S = 24 * 3600.0

store_app = typer.Typer(name="store", help="Show, free and check the stages that studies share.", no_args_is_help=True)

RunsOption = Annotated[Path, typer.Option("--runs", help="The folder of studies; the store is in it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")]


@store_app.command("ls")
def list_store(runs: RunsOption = Path("runs"), as_json: JsonOption = False) -> None:
    """Show what is stored, longest unused first."""
    from rich.table import Table
    from rich.text import Text

    from prunetune.pruning.stages.store_contents import StoreContents

    contents = StoreContents.read(runs / STORE)
    if as_json:
        items = [_item_document(item) for item in contents.items]
        write_json({"store": str(contents.root), "bytes": contents.size, "items": items})
        return
    table = Table("kind", "digest", box=None, pad_edge=False)
    table.add_column("size", justify="right")
    table.add_column("last used")
    for item in contents.items:
        cells = (item.kind, item.digest, decimal(item.size), _last_used(item))
        table.add_row(*(Text(printable(cell)) for cell in cells))
    out = console()
    out.print(table)
    _say(out, f"{contents.root}: {len(contents.items)} items, {decimal(contents.size)}")


@store_app.command("gc")
def collect(
    runs: RunsOption = Path("runs"),
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", min=0, help="Free what was not used for so long.")
    ] = None,
    max_gb: Annotated[
        float | None, typer.Option(metavar="N", min=0, help="Free what was used longest ago until N GB are left.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be freed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Free what was used longest ago; never what a training uses, or what was used within the last hour."""
    from prunetune.pruning.stages.store_contents import StoreContents, free

    if older_than is None and max_gb is None:
        raise ConfigError("store gc: give --older-than DAYS, --max-gb N, or both")
    contents = StoreContents.read(runs / STORE)
    freed = contents.removable(
        max_bytes=math.inf if max_gb is None else max_gb * GB,
        max_age_s=math.inf if older_than is None else older_than * DAY_S,
    )
    if not dry_run:
        freed = free(contents.root, freed)
    size = sum(item.size for item in freed)
    left = contents.size - size
    if as_json:
        items = [_item_document(item) for item in freed]
        write_json({"store": str(contents.root), "dry_run": dry_run, "freed": items, "bytes": size, "bytes_left": left})
        return
    out, verb = console(), "would free" if dry_run else "freed"
    for item in freed:
        _say(out, f"{verb} {item.digest} ({item.kind}, {decimal(item.size)}, last used {_last_used(item)})")
    _say(out, f"{contents.root}: {verb} {len(freed)} items, {decimal(size)}; {decimal(left)} left")


@store_app.command("verify")
def verify(
    runs: RunsOption = Path("runs"),
    remove: Annotated[bool, typer.Option("--remove", help="Discard damaged stages: they are run again.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compute the sums of all files again. Exit code 1: a stage is damaged."""
    from prunetune.pruning.stages.store import StageStore
    from prunetune.pruning.stages.store_contents import StoreContents, damage

    contents = StoreContents.read(runs / STORE)
    stages = [item for item in contents.items if item.is_stage]
    damaged = {item.digest: problems for item in stages if (problems := damage(item.path))}
    removed = [name for name in damaged if StageStore(contents.root).discard(name)] if remove else []
    if as_json:
        write_json({"store": str(contents.root), "stages": len(stages), "damaged": damaged, "removed": removed})
    else:
        for name, problems in damaged.items():
            done = "; removed" if name in removed else ""
            _say(console(), f"{name}: {'; '.join(problems)}{done}")
        sound = "all sound" if not damaged else f"{len(damaged)} damaged"
        hint = "; --remove discards them, and they are run again" if damaged and not remove else ""
        _say(console(), f"{contents.root}: {len(stages)} stages, {sound}{hint}")
    if damaged:
        raise typer.Exit(1)


def _item_document(item: Item) -> dict[str, Any]:
    return {"kind": item.kind, "digest": item.digest, "bytes": item.size, "last_used": _last_used(item)}


def _last_used(item: Item) -> str:
    return datetime.fromtimestamp(item.used).astimezone().isoformat(sep=" ", timespec="seconds")


def _say(out: Console, text: str) -> None:
    out.print(printable(text), markup=False, highlight=False, soft_wrap=True)
