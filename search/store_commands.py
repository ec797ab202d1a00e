"""`prunetune store`: what the stage store holds, who needs it, and whether it is sound. Starts without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from prunetune.results.escapes import printable
from prunetune.search.output import console, write_json

if TYPE_CHECKING:
    from prunetune.pruning.claims import Sign
    from prunetune.pruning.inventory import Item
    from prunetune.search.store_usage import Contents, Garbage

store_app = typer.Typer(name="store", help="Show, free and check the stages that studies share.", no_args_is_help=True)

RunsOption = Annotated[Path, typer.Option("--runs", help="The folder of studies; the store is in it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")]


@store_app.command("ls")
def list_store(runs: RunsOption = Path("runs"), as_json: JsonOption = False) -> None:
    """Show the stages with their sizes and the studies that need them."""
    from prunetune.search.store_usage import read_contents

    contents = read_contents(runs)
    if as_json:
        write_json(_contents_document(contents))
    else:
        _write_contents(contents, console())


@store_app.command("gc")
def collect(
    runs: RunsOption = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be freed.")] = False,
    forget: Annotated[
        list[str] | None,
        typer.Option(metavar="STUDY", help="A study in another storage that is gone there, too; can be repeated."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Free what no study below RUNS needs: remove a study's folder first."""
    from prunetune.search.store_usage import find_garbage, free, read_contents

    contents = read_contents(runs)
    garbage = find_garbage(contents, forget or ())
    freed: Sequence[Item] = garbage.items if dry_run else free(contents, garbage)
    if as_json:
        write_json(_garbage_document(contents, garbage, freed, dry_run))
    else:
        _write_garbage(contents, garbage, freed, dry_run, console())


@store_app.command("verify")
def verify(
    runs: RunsOption = Path("runs"),
    remove: Annotated[bool, typer.Option("--remove", help="Discard damaged stages: they are run again.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compute the sums of all files again. Exit code 1: a stage is damaged."""
    from prunetune.pruning.inventory import damage
    from prunetune.pruning.store import StageStore
    from prunetune.search.store_usage import read_contents

    contents = read_contents(runs)
    stages = [item for item in contents.items if item.is_stage]
    damaged = {item.name: problems for item in stages if (problems := damage(item))}
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


# What is there


def _contents_document(contents: Contents) -> dict[str, Any]:
    needed = contents.needed()
    return {
        "store": str(contents.root),
        "stages": [_item_document(contents, item, needed[item.path]) for item in contents.items if item.is_stage],
        "others": [_item_document(contents, item, needed[item.path]) for item in contents.items if not item.is_stage],
        "totals": {
            kind: {"count": count, "bytes": size, "linked_bytes": linked}
            for kind, (count, size, linked) in _totals(contents.items).items()
        },
        "claims": [_claim_document(sign, contents.now) for sign in contents.claims if sign.is_held],
        "studies": [
            {
                "name": study.name,
                "state": study.state,
                "storage": study.storage or None,
                "problem": study.problem or None,
                "bytes": sum(item.size for item in contents.items if study.name in needed[item.path]),
            }
            for study in contents.studies
        ],
    }


def _item_document(contents: Contents, item: Item, users: Iterable[str]) -> dict[str, Any]:
    return {
        "name": item.name,
        "kind": item.kind,
        "parent": item.parent or None,
        "epochs": item.epochs,
        "bytes": item.size,
        "linked_bytes": item.linked,
        "age_s": round(max(0.0, contents.now - item.modified), 1),
        "needed_by": sorted(users),
    }


def _claim_document(sign: Sign, now: float) -> dict[str, Any]:
    holder = sign.holder
    return {
        "trunk": sign.trunk,
        "stage": holder.stage if holder else None,
        "host": holder.host if holder else None,
        "pid": holder.pid if holder else None,
        "since": holder.since if holder else None,
        "beat_age_s": round(max(0.0, now - sign.beat), 1),
    }


def _write_contents(contents: Contents, out: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    needed = contents.needed()
    table = Table("stage", "kind", box=None, pad_edge=False)
    for title in ("size", "epochs", "age"):
        table.add_column(title, justify="right")
    table.add_column("needed by", overflow="fold")
    for item in contents.items:
        cells = [
            item.name,
            item.kind,
            size_text(item.size),
            str(item.epochs or ""),
            age_text(contents.now - item.modified),
            ", ".join(sorted(needed[item.path])) or "nobody",
        ]
        table.add_row(*(Text(printable(cell)) for cell in cells))
    out.print(table)
    for sign in contents.claims:
        if sign.is_held and sign.holder:
            _say(out, f"{sign.holder.stage}: is being trained by {sign.holder} since {sign.holder.since}")
    for study in contents.studies:
        if study.problem:
            _say(out, f"{contents.runs / study.name}: {study.problem}")
    for kind, (count, size, linked) in _totals(contents.items).items():
        _say(out, f"{kind}: {count}, {size_text(size)}{_linked_text(linked)}")
    whole = sum(item.size for item in contents.items)
    _say(out, f"{contents.root}: {size_text(whole)}{_linked_text(sum(item.linked for item in contents.items))}")


def _totals(items: Iterable[Item]) -> dict[str, tuple[int, int, int]]:
    counts, sizes, linked = Counter[str](), Counter[str](), Counter[str]()
    for item in items:
        counts[item.kind] += 1
        sizes[item.kind] += item.size
        linked[item.kind] += item.linked
    return {kind: (counts[kind], sizes[kind], linked[kind]) for kind in counts}


# What is freed


def _garbage_document(contents: Contents, garbage: Garbage, freed: Sequence[Item], dry_run: bool) -> dict[str, Any]:
    return {
        "store": str(contents.root),
        "dry_run": dry_run,
        "freed": [_item_document(contents, item, ()) for item in freed],
        "bytes": sum(item.size for item in freed),
        "linked_bytes": sum(item.linked for item in freed),
        "studies_gone": list(garbage.studies),
        "doubts": list(garbage.doubts),
    }


def _write_garbage(contents: Contents, garbage: Garbage, freed: Sequence[Item], dry_run: bool, out: Console) -> None:
    for doubt in garbage.doubts:
        _say(out, doubt)
    verb = "would free" if dry_run else "freed"
    for item in freed:
        age = age_text(contents.now - item.modified)
        _say(out, f"{verb} {item.name} ({item.kind}, {size_text(item.size)}, {age} old)")
    size, linked = sum(item.size for item in freed), sum(item.linked for item in freed)
    gone = f"; studies that are gone: {', '.join(garbage.studies)}" if garbage.studies else ""
    _say(out, f"{contents.root}: {verb} {len(freed)} items, {size_text(size)}{_linked_text(linked)}{gone}")


def size_text(size: int) -> str:
    """Bytes as people read them."""
    if size < 1000:
        return f"{size} B"
    value = float(size)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} TB"


def age_text(seconds: float) -> str:
    """An age in its largest whole unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def _linked_text(linked: int) -> str:
    """What has another name as well: bytes that stay on the disk as long as that does."""
    return f", of which {size_text(linked)} are also files of studies" if linked else ""


def _say(out: Console, text: str) -> None:
    out.print(printable(text), markup=False, highlight=False, soft_wrap=True)
