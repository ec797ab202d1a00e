"""What the rule that skips a network's further deployments loses, and what it saves.

A finished study (by default the demo's) looked at each recovered network where it may come to the front: see
`search/trial/deployments.py`. Here the deployments that it skipped are measured and evaluated, too. A skipped one
that the study's front does not dominate is lost. The last line is JSON: how many further deployments were `looked_at`,
`skipped` and `lost`; `most_lost`, by how much map50_95 at most a lost one is above the best of the front that is no
slower; `deploy_share`, the seconds that trials spent on further deployments, as a share of all; and `skipped_s`, those
that the skipped ones would have taken.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
from common.figures import close
from rich.console import Console

from prunetune.pruning.yolo.detector import Detector
from prunetune.results.findings.findings import Findings
from prunetune.results.record import NetworkResult
from prunetune.search.callbacks.progress import Progress
from prunetune.search.engine.engine import prepare
from prunetune.search.study.study_spec import StudySpec
from prunetune.search.trial.context import TrialContext
from prunetune.search.trial.deployments import deployed
from prunetune.spaces import Cost, MeasurementError, Outcome

FIGURES = ("looked_at", "skipped", "lost", "most_lost", "deploy_share", "skipped_s")

DEMO = Path(__file__).resolve().parent.parent / "examples/barcodes"
QUICK = ("trials=3", "dense_epochs=3", "controls=[]", "space.recovery_epochs=3", "space.sparse_epochs=2")
NOISE = 0.02
"""A latency so little above another one is no slower."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", metavar="STUDY.yaml", help="of a finished study; by default the demo's")
    parser.add_argument("override", nargs="*", metavar="KEY=VALUE", help="those that it was run with")
    parser.add_argument("--quick", action="store_true", help="the demo with 3 trials and few epochs")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("prunetune").setLevel(logging.ERROR)
    if options.study is not None:
        look(options.study, options.override)
        return
    with tempfile.TemporaryDirectory(prefix="prunetune-bound-") as name:
        data = Path(name, "data")
        subprocess.run([sys.executable, str(DEMO / "generate.py"), "--out", str(data)], check=True, stdout=2)
        overrides = [f"data={data / 'data.yaml'}", f"runs={name}/runs", *(QUICK if options.quick else ())]
        command = [sys.executable, "-m", "prunetune.search.cli", "run", str(DEMO / "study.yaml"), *overrides]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        look(str(DEMO / "study.yaml"), overrides)


def look(file: str, overrides: list[str]) -> None:
    """Looks at what a study skipped, and prints what it found."""
    study, context = prepare(StudySpec.read(file, overrides), Progress(Console(file=sys.stderr), 0))
    found = Findings.of(study)
    front = [network.result for network in found.front]
    lost, skipped, begin = [], 0, time.perf_counter()
    for network in skipped_networks(found, context):
        skipped += 1
        ms, accuracy = context.values(network)[1], network.accuracy.map50_95
        rivals = [one.accuracy.map50_95 for one in front if context.values(one)[1] <= ms * (1 + NOISE)]
        if network.is_candidate and accuracy > max(rivals, default=0.0):
            lost.append(accuracy - max(rivals, default=0.0))
    took = time.perf_counter() - begin
    records = [record for record in found.records.values() if record.outcome is Outcome.OK]
    cost = sum((record.cost for record in records), Cost())
    summary = {
        "looked_at": sum(
            network.is_deployed_further for number in found.records for network in found.networks_of(number)
        ),
        "skipped": skipped,
        "lost": len(lost),
        "most_lost": round(max(lost, default=0.0), 4),
        "deploy_share": round(cost.seconds.get("deploy", 0.0) / cost.total_s, 4),
        "skipped_s": round(took, 1),
    }
    close(FIGURES, summary)


def skipped_networks(found: Findings, context: TrialContext) -> Iterator[NetworkResult]:
    """All recovered networks at the deployments where their study did not look at them."""
    for number in found.records:
        known = found.networks_of(number)
        for network in known:
            if network.is_deployed_further or not network.result.recovered:
                continue
            looked_at = {other.deployment for other in known if other.own_name == network.name}
            detector = Detector.load(context.folder / str(network.result.files.checkpoint))
            for deployment in context.further(network.deployment):
                if deployment in looked_at:
                    continue
                try:
                    yield deployed(network.result, detector, deployment, context)
                except MeasurementError as error:
                    print(f"{network.name} at {deployment}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
