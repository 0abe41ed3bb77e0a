"""The recipe of a pycls config as our options: data, batch, optimizer, schedule, average, batch norm.

What has no counterpart, or a different one, is reported rather than left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Values = Mapping[str, Any]

ELSEWHERE = (
    "CFG_DEST",
    "CUDNN",
    "DATA_LOADER",
    "DESC",
    "DIST_BACKEND",
    "DOWNLOAD_CACHE",
    "FSDP",
    "HOST",
    "LAUNCH",
    "LOG_DEST",
    "MAX_GPUS_PER_NODE",
    "MEM",
    "MODEL.ACTIVATION_INPLACE",
    "OPTIM.MTA",
    "OUT_DIR",
    "PORT",
    "PORT_RANGE",
    "PREC_TIME",
    "TEST.WEIGHTS",
    "TRAIN.AUTO_RESUME",
    "TRAIN.CHECKPOINT_PERIOD",
    "VERBOSE",
)
"""Options, and sections of them, about where and how fast pycls runs: a command's or automatic here."""
OTHER_NETWORKS = (
    "ANYNET",
    "EN",
    "LN",
    "MODEL.SCALING_FACTOR",
    "MODEL.SCALING_TYPE",
    "REGNET",
    "RESNET",
    "VIT",
)
"""Sections of networks of one kind: the one in question is read elsewhere, the others have no effect."""


@dataclass
class Recipe:
    """Options by dotted key, and what they leave out."""

    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def import_recipe(values: Values, given: Values, *, mean: Any, std: Any, crop_ratio: float | None) -> Recipe:
    """Everything of a pycls config but its network.

    `values` has all options of pycls that matter, `given` those that the file sets; mean, std and the centre
    crop are those of pycls' loader.
    """
    recipe = Recipe()
    recipe.options |= {"run.seed": values["RNG_SEED"]}
    _data(values, recipe, crop_ratio)
    recipe.options |= {"data.mean": list(mean), "data.std": list(std)}
    _training(values, recipe)
    _optimizer(values, recipe)
    _schedule(values, recipe)
    _average(values, recipe)
    _evaluation(values, recipe)
    recipe.notes += _left_out(values, given)
    return recipe


def _data(values: Values, recipe: Recipe, crop_ratio: float | None) -> None:
    dataset, size = values["TRAIN.DATASET"], values["TRAIN.IM_SIZE"]
    folder = dataset if dataset in ("imagenet", "cifar10") else "DATASET"
    recipe.options |= {
        "data.train": f"data/{folder}/train.beton",
        "data.val": f"data/{folder}/val.beton",
        "data.train_res": size,
        "data.eval_res": size,
    }
    if folder == "cifar10":  # its images are taken whole
        recipe.options |= {"data.augment.flip": True, "data.augment.translate": 4}
        recipe.notes.append(
            "data.val: pycls evaluates CIFAR-10's test images after each epoch, and so does this config"
        )
        return
    if folder == "DATASET":
        recipe.notes.append(f"TRAIN.DATASET '{dataset}' is none of pycls' own: set data.train and data.val")
    recipe.options |= {"data.augment.random_resized_crop": True, "data.augment.flip": True}
    if crop_ratio is not None:
        recipe.options["data.eval_crop_ratio"] = crop_ratio
    if values["TEST.IM_SIZE"] < size:
        recipe.notes.append("TEST.IM_SIZE is below TRAIN.IM_SIZE: evaluation takes the whole shorter side")
    if values["DATA_LOADER.MODE"] != "ffcv" and values["TRAIN.PCA_STD"] > 0:
        recipe.options["data.augment.lighting"] = values["TRAIN.PCA_STD"]
    if values["TRAIN.AUGMENT"]:
        recipe.notes.append(
            f"TRAIN.AUGMENT {values['TRAIN.AUGMENT']}: data.augment.auto_augment is the nearest, not the same"
        )


def _training(values: Values, recipe: Recipe) -> None:
    recipe.options |= {
        "train.epochs": values["OPTIM.MAX_EPOCH"],
        "train.global_batch": values["TRAIN.BATCH_SIZE"],
        "train.precision": "auto" if values["TRAIN.MIXED_PRECISION"] else "fp32",
        "train.label_smoothing": values["TRAIN.LABEL_SMOOTHING"],
        "train.log_every": values["LOG_PERIOD"],
        "data.augment.mixup": values["TRAIN.MIXUP_ALPHA"],
        "data.augment.cutmix": values["TRAIN.CUTMIX_ALPHA"],
    }
    if values["TRAIN.MIXED_PRECISION"]:
        recipe.notes.append("TRAIN.MIXED_PRECISION is fp16 in pycls; train.precision auto is bf16, or fp32")
    if values["MODEL.LOSS_FUN"] != "cross_entropy":
        recipe.notes.append(f"MODEL.LOSS_FUN {values['MODEL.LOSS_FUN']}: the loss is the cross-entropy here")
    if values["TRAIN.WEIGHTS"]:
        recipe.notes.append(f"TRAIN.WEIGHTS {values['TRAIN.WEIGHTS']}: name the file as model.pretrained")
    if values["TRAIN.SPLIT"] != "train":
        recipe.notes.append(f"TRAIN.SPLIT {values['TRAIN.SPLIT']}: data.train names the images")


def _optimizer(values: Values, recipe: Recipe) -> None:
    name, decay = values["OPTIM.OPTIMIZER"], values["OPTIM.WEIGHT_DECAY"]
    if name not in ("sgd", "adam", "adamw"):
        recipe.notes.append(f"OPTIM.OPTIMIZER {name}: sgd takes its place")
        name = "sgd"
    recipe.options |= {"optim.name": name, "optim.lr": values["OPTIM.BASE_LR"], "optim.weight_decay": decay}
    if name == "sgd":
        recipe.options |= {
            "optim.momentum": values["OPTIM.MOMENTUM"],
            "optim.nesterov": values["OPTIM.NESTEROV"],
        }
        if values["OPTIM.DAMPENING"]:
            recipe.notes.append(f"OPTIM.DAMPENING {values['OPTIM.DAMPENING']}")
    else:
        recipe.options["optim.betas"] = [values["OPTIM.BETA1"], values["OPTIM.BETA2"]]
    norms = values["BN.CUSTOM_WEIGHT_DECAY"] if values["BN.USE_CUSTOM_WEIGHT_DECAY"] else decay
    custom = values["OPTIM.BIAS_USE_CUSTOM_WEIGHT_DECAY"]
    biases = values["OPTIM.BIAS_CUSTOM_WEIGHT_DECAY"] if custom else decay
    recipe.options["optim.decay_norm_and_bias"] = decays = norms > 0
    used = decay if decays else 0.0
    if (norms, biases) != (used, used):
        recipe.notes.append(
            f"weight decay of batch norm {norms:g} and of biases {biases:g}: {used:g} for both here"
        )


def _schedule(values: Values, recipe: Recipe) -> None:
    policy, warmup = values["OPTIM.LR_POLICY"], values["OPTIM.WARMUP_EPOCHS"]
    recipe.options["schedule.warmup_epochs"] = warmup
    if warmup:
        recipe.options["schedule.warmup_start"] = values["OPTIM.WARMUP_FACTOR"]
    if policy == "steps":
        recipe.options |= {
            "schedule.name": "multistep",
            "schedule.milestones": [step for step in values["OPTIM.STEPS"] if step > 0],
            "schedule.gamma": values["OPTIM.LR_MULT"],
        }
    elif policy == "lin":
        recipe.options |= {"schedule.name": "onecycle", "schedule.final": values["OPTIM.MIN_LR"]}
        if warmup:
            recipe.notes.append("OPTIM.LR_POLICY lin falls during the warm-up too; onecycle after it")
    else:
        recipe.options |= {"schedule.name": "cosine", "schedule.final": values["OPTIM.MIN_LR"]}
        if policy != "cos":
            recipe.notes.append(f"OPTIM.LR_POLICY {policy}: cosine takes its place")
    recipe.options["schedule.update"] = "epoch"


def _average(values: Values, recipe: Recipe) -> None:
    """pycls moves its average by a share that follows batch and epochs, every so many steps."""
    every = values["OPTIM.EMA_UPDATE_PERIOD"]
    if not every:
        return
    moved = values["OPTIM.EMA_ALPHA"] * values["TRAIN.BATCH_SIZE"] / values["OPTIM.MAX_EPOCH"] * every
    if not 0 < moved < 1:
        recipe.notes.append(
            f"OPTIM.EMA_ALPHA {values['OPTIM.EMA_ALPHA']:g}: no average, as it would be a copy"
        )
        return
    copied = values["OPTIM.WARMUP_EPOCHS"] > 0
    recipe.options |= {"ema.decay": (1 - moved) ** (1 / every), "ema.every": every, "ema.warmup": copied}
    if copied:
        recipe.notes.append(
            "pycls copies the weights into the average during the warm-up of the learning rate; ema.warmup"
            " lets the decay grow instead"
        )


def _evaluation(values: Values, recipe: Recipe) -> None:
    images = values["BN.NUM_SAMPLES_PRECISE"] if values["BN.USE_PRECISE_STATS"] else 0
    devices = max(1, values["NUM_GPUS"])
    recipe.options |= {
        "eval.batch_size": max(1, values["TEST.BATCH_SIZE"] // devices),
        "eval.precise_bn": images,
    }
    if values["BN.MOM"] != 0.1:
        recipe.notes.append(f"BN.MOM {values['BN.MOM']:g}: batch norm's running statistics move by 0.1 here")


def _left_out(values: Values, given: Values) -> Iterator[str]:
    """Options that the file sets and that nothing here reads."""
    unread = [key for key in given if key not in values and not _within(key, OTHER_NETWORKS)]
    launching = [key for key in unread if _within(key, ELSEWHERE)]
    unknown = [key for key in unread if key not in launching]
    if unknown:
        yield f"not known here: {', '.join(sorted(unknown))}"
    if launching:
        yield f"given by the command line, or automatic, here: {', '.join(sorted(launching))}"


def _within(key: str, names: tuple[str, ...]) -> bool:
    return key in names or key.partition(".")[0] in names
