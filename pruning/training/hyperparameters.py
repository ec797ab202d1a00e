"""Which further arguments of ultralytics a training takes, and why not the others.

An argument is taken when it is known what it does here: `prunetune.pruning.training.trainer` obeys it, and scores
stay those of stock `YOLO.val`. All others are refused, those of a later ultralytics too, until somebody has looked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from prunetune.pruning.yolo.compat import prepare_ultralytics
from prunetune.spaces.errors import did_you_mean

ALLOWED = frozenset({
    "optimizer", "lr0", "lrf", "momentum", "weight_decay", "warmup_momentum", "warmup_bias_lr", "amp",
    "box", "cls", "cls_pw", "dfl", "fraction", "multi_scale",
    "hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective", "flipud", "fliplr", "bgr",
    "mosaic", "mixup", "cutmix", "copy_paste", "copy_paste_mode",
})  # fmt: skip
"""What `train` takes."""

_REASONS = {
    "is a key of its own; give it outside of train": "model data imgsz batch device workers cache seed",
    "each phase has its own; give dense_epochs, or sparse_epochs and recovery_epochs in the space": "epochs",
    "a training would depend on the speed of the machine; give hours, a limit of the study": "time",
    "a training has all its epochs; give early_stopping, which ends recoveries that fall behind": "patience",
    "each phase has its own, a tenth or a quarter of it; give warmup_bias_lr or warmup_momentum": "warmup_epochs",
    "learning rates fall linearly; give lrf, what remains of them at the end": "cos_lr",
    "each phase has its own, its last 10 epochs or half of it; give mosaic": "close_mosaic",
    "every batch is a step; give batch": "nbs",
    "what is pruned has to be trained; a smaller lr0 keeps weights near where they are": "freeze",
    "the dense original teaches; give distillation, its weight, in the space": "distill_model dis",
    "classes are the data set's; describe another one in a data.yaml": "single_cls classes",
    "scores would not be those of stock val any more; leave it out": (
        "conf iou max_det agnostic_nms nms augment dnn val split save_json"
    ),
    "networks are quantised after training; give a target precision: int8": "quantize",
    "training images are squares, as the networks are exported": "rect",
    "each epoch has a seed of its own; give seed": "deterministic",
    "the network is there already; give model": "pretrained resume cls_remap",
    "its arguments would not be checked; write them into train": "cfg",
    "prunetune decides what a training keeps, and where": (
        "name project exist_ok save save_period plots verbose profile task mode"
    ),
    "it changes how fast a training is, and is not known to leave the rest as it is": "compile channels_last",
    "belongs to classification; for detectors there are mosaic, mixup, cutmix and hsv_h": (
        "dropout auto_augment erasing"
    ),
    "belongs to other tasks than detection": "overlap_mask mask_ratio pose kobj rle angle dlog dgrad dlam",
    "belongs to prediction, not to training": (
        "source vid_stride stream_buffer visualize retina_masks embed show save_frames save_txt save_conf save_crop "
        "show_labels show_conf show_boxes line_width tracker"
    ),
    "belongs to export; give targets": "format optimize dynamic simplify opset workspace",
}

REFUSED = {key: reason for reason, keys in _REASONS.items() for key in keys.split()}
"""Why `train` does not take the others, and what to give in their place."""

OPTIMIZERS = ("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSProp", "MuSGD", "auto")
"""Those that ultralytics knows, in any case of letters; its settings take every word."""

_CHOSEN_BY_AUTO = ("lr0", "momentum", "warmup_bias_lr")

SMALLEST = 64
"""px. Smaller images end in one value for each channel, of which BatchNorm makes no statistics."""


def hyperparameter_problems(hyperparameters: Mapping[str, Any], imgsz: int) -> list[str]:
    """What a training would not take of its further arguments, one sentence each.

    Args:
        hyperparameters: What a user wrote into `train`.
        imgsz: Side of the smallest images that are trained on, in px.
    """
    problems = [problem for key, value in hyperparameters.items() for problem in _problems(key, value)]
    if problems:
        return problems
    if str(hyperparameters.get("optimizer")).lower() == "auto":
        idle = [key for key in _CHOSEN_BY_AUTO if key in hyperparameters]
        problems += [f"{key}: optimizer auto chooses its own; name an optimizer, or leave {key} out" for key in idle]
    smallest = imgsz * (1 - hyperparameters.get("multi_scale", 0.0))
    if hyperparameters.get("multi_scale") and smallest < SMALLEST:
        problems.append(f"multi_scale: images would be as small as {smallest:g} px; keep them from {SMALLEST} px on")
    return problems


def _problems(key: str, value: Any) -> Iterator[str]:
    prepare_ultralytics()
    from ultralytics.cfg import DEFAULT_CFG_DICT, get_cfg

    if key in REFUSED:
        yield f"{key}: {REFUSED[key]}"
    elif key not in ALLOWED:
        known = (
            "is not known to be right for a study" if key in DEFAULT_CFG_DICT else "ultralytics has no such argument"
        )
        yield f"{key}: {known}; {did_you_mean(key, sorted(ALLOWED))}"
    elif key == "optimizer" and str(value).lower() not in map(str.lower, OPTIMIZERS):
        yield f"{key}: {value!r} is none of {', '.join(OPTIMIZERS)}"
    elif key == "copy_paste_mode" and value not in ("flip", "mixup"):
        yield f"{key}: {value!r} is none of flip, mixup"
    elif (isinstance(value, bool) and key != "amp") or (isinstance(value, float) and not math.isfinite(value)):
        yield f"{key}: {value} is no number to train with"
    else:
        try:
            get_cfg(overrides={key: value})
        except (TypeError, ValueError, SyntaxError) as error:
            yield f"{key}: {error}"
