"""How well a latency table predicts networks that it has not seen.

YOLOv5n at 160 px: the table is measured, then networks pruned by random gammas are measured against its anchor and
predicted. The last line is JSON: `mape`, `worst` and `kendall_tau` by runtime, `predictions_per_s`.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from pathlib import Path

from common.figures import close
from latency_noise import IMGSZ, export, random_network
from scipy.stats import kendalltau

from prunetune.pruning import ChannelConfig, Detector
from prunetune.search.commands.profile import PACE
from prunetune.targets import TARGET_KINDS, LatencyTable, Network, create_target, parse_target_spec, profile
from prunetune.targets.latency_model.profiling import ANCHOR, anchor_widths
from prunetune.targets.latency_model.synthesis import write_resized

FIGURES = ("mape", "worst", "kendall_tau", "predictions_per_s")

RUNTIMES = [kind for kind in ("onnxruntime", "openvino") if kind in TARGET_KINDS]
BATCH = 10
"""Unseen networks that are measured in one go."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="12 unseen networks instead of 30")
    quick = parser.parse_args().quick
    logging.getLogger("prunetune").setLevel(logging.ERROR)  # noise shows in the errors
    mape, worst, tau, speed = {}, {}, {}, {}
    with tempfile.TemporaryDirectory(prefix="prunetune-table-") as name:
        folder = Path(name)
        dense = export(Detector.load("yolov5n.yaml"), "dense", folder)
        unseen = {}
        for seed in range(1000, 1012 if quick else 1030):
            detector = random_network(seed)
            unseen[f"unseen-{seed}"] = (detector.channels, export(detector, f"unseen-{seed}", folder))
        heads = f"{'left out':>10}{'error bar':>11}{'unseen':>8}{'worst':>8}{'in bar':>8}{'tau':>7}"
        print(f"{'runtime':<13}{'profile':>9}{heads}")
        for kind in RUNTIMES:
            start = time.perf_counter()
            assert dense.onnx is not None
            table = profile(create_target(parse_target_spec({**PACE, "kind": kind})), dense.onnx)
            took = time.perf_counter() - start
            ratios = measure(kind, table, dense.onnx, [network for _, network in unseen.values()], folder)
            pairs = [(table.predict(channels).ratio, ratios[name]) for name, (channels, _) in unseen.items()]
            errors = [abs(predicted / measured - 1) for predicted, measured in pairs]
            mape[kind], worst[kind] = statistics.fmean(errors), max(errors)
            tau[kind] = float(kendalltau(*zip(*pairs, strict=True)).statistic)
            speed[kind] = predictions_per_s(table, [channels for channels, _ in unseen.values()])
            within = sum(error <= table.error for error in errors)
            print(
                f"{kind:<13}{took:>7.0f} s{table.mape:>10.2%}{table.error:>11.2%}{mape[kind]:>8.2%}{worst[kind]:>8.2%}"
                f"{f'{within}/{len(errors)}':>8}{tau[kind]:>7.3f}"
            )
    print(f"mean error on unseen networks: target at most 5 %; predictions: {min(speed.values()):,.0f} a second")
    found = {"mape": mape, "worst": worst, "kendall_tau": tau}
    rounded = {key: {kind: round(value, 4) for kind, value in values.items()} for key, values in found.items()}
    close(FIGURES, {**rounded, "predictions_per_s": round(min(speed.values()))})


def measure(kind: str, table: LatencyTable, dense: Path, networks: list[Network], folder: Path) -> dict[str, float]:
    """The ratios of networks to the table's anchor, each measured as long as in a study."""
    target = create_target(parse_target_spec({"kind": kind}))
    file = folder / "anchor.onnx"
    write_resized(dense, file, table.graph, anchor_widths(table.graph, target.alignment.default))
    anchor = Network(ANCHOR, (1, 3, IMGSZ, IMGSZ), onnx=file)
    found: dict[str, float] = {}
    for start in range(0, len(networks), BATCH):
        measured = target.measure([anchor, *networks[start : start + BATCH]], reference=ANCHOR)
        found |= {name: latency.ratio for name, latency in measured.items()}
    return found


def predictions_per_s(table: LatencyTable, networks: list[ChannelConfig]) -> float:
    """How many networks are predicted in a second, one by one."""
    table.predict(networks[0])
    count, start = 0, time.perf_counter()
    while (took := time.perf_counter() - start) < 1:
        for channels in networks:
            table.predict(channels)
        count += len(networks)
    return count / took


if __name__ == "__main__":
    main()
