"""Every option of a run, with its meaning and default. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from anynet_dist.data.loaders.names import EvalResize, LoaderName
from anynet_dist.data.transforms.augmentation import Augmentation
from anynet_dist.system.ranges import (
    AboveOne,
    Count,
    Fraction,
    Level,
    NonNegative,
    NonNegativeInt,
    Positive,
    PositiveFraction,
    Precision,
)

Interval = Annotated[
    str,
    Field(
        pattern=r"^[1-9][0-9]*( (steps?|minutes?|epochs?))?$",
        description="an interval such as '500 steps', '10 minutes' or '2 epochs'",
    ),
]
Duration = Annotated[
    str,
    Field(
        pattern=r"^([0-9]+-)?[0-9]{1,3}:[0-5][0-9]:[0-5][0-9]$",
        description="a time as HH:MM:SS or D-HH:MM:SS",
    ),
]

StepRange = Annotated[str, Field(pattern=r"^[0-9]+:[0-9]+$", description="steps START:STOP such as '10:15'")]

PrecisionChoice = Literal["auto", Precision]
MemoryFormat = Literal["auto", "contiguous", "channels_last"]

CompileMode = Literal["auto", "off", "regional", "full", "reduce-overhead", "max-autotune"]


def _compile_mode(value: object) -> object:
    """The mode that is meant by a switch, which is what the option once was."""
    return {"true": "full", "false": "off"}.get(str(value).lower(), value)


def _parts(value: object) -> object:
    """A switch by its name, and a single part as a list of one."""
    if not isinstance(value, str):
        return value
    return {"true": True, "false": False}.get(value.lower(), [value])


LOSSES = ("cross_entropy", "bce")
TASKS = ("classification",)
OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("cosine", "multistep", "onecycle", "constant")
"""The package's own, by name; plug-ins register others."""
OPTIMIZER_LIBRARIES = ("torch", "timm")
"""Whose optimizers go by LIBRARY:NAME."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where a run lives and what makes it repeatable."""

    name: str | None = None
    """Name of the run. Default: the name of the config file."""
    dir: str | None = None
    """The run folder. Default: runs/NAME."""
    seed: NonNegativeInt = 0
    """Seeds the weights, the sample order, the augmentation and the train/val split."""
    resume: str = "never"
    """`auto` resumes from the run folder's last checkpoint if there is one, `never` starts from
    scratch, a path resumes from that checkpoint."""
    overwrite: bool = False
    """Start from scratch in a run folder that already holds a run, removing what is in it."""
    cpu: bool = False
    """Stay on the CPU even where there is a GPU."""
    max_time: Duration | None = None
    """Save and stop, to be resumed, after this wall-clock time, HH:MM:SS or D-HH:MM:SS. A SLURM job's own
    time limit is kept in any case."""
    stop_margin: NonNegative = 60.0
    """Seconds before that end, or the job's, at which the run saves and stops."""
    stop_signal: Literal["SIGUSR1", "SIGUSR2", "SIGHUP"] = "SIGUSR1"
    """A signal that lets the run save and stop, to be resumed; SIGTERM and Ctrl-C do so too."""
    timeout: Positive = 30.0
    """Minutes that a process waits for the others before the run ends with an error."""
    allow_config_change: bool = False
    """Resume though options have changed that change the result; short: --allow-config-change."""


@dataclass(frozen=True, kw_only=True)
class RegNetConfig:
    """A RegNet by its own parameters, in place of depths and widths. Stem, strides and head stay free."""

    w0: Count | None = None
    """Width of the first block, a multiple of 8."""
    wa: NonNegative | None = None
    """How much wider each block would be than the one before, if widths were not quantised."""
    wm: AboveOne | None = None
    """Width of a stage over that of the stage before."""
    depth: Count | None = None
    """Blocks in all stages together."""
    group_width: Count | None = None
    """Channels in one group of the 3x3 convolution; widths are rounded so that it divides them."""
    bottleneck_ratio: Positive | None = None
    """Width of a stage over the width inside its blocks. Default: 1."""
    se_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    """Squeeze-excitation: 0.25 makes a RegNetY. Default: 0, a RegNetX."""
    stem_width: Count | None = None
    """Channels of the stem. Default: 32."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """An AnyNet. Whatever is left out comes from the preset, or from the default it names."""

    preset: str | None = None
    """A network by name, such as resnet50 or regnetx_400mf; the other fields change it."""
    regnet: RegNetConfig = field(default_factory=RegNetConfig)
    """A RegNet by its own parameters, in place of depths and widths."""
    block_type: str | list[str] | None = None
    """Block of all stages, or one per stage. Default: bottleneck."""
    num_stages: Count | None = None
    """Number of stages. Default: the length of num_blocks_per_stage."""
    num_blocks_per_stage: Count | list[Count] | None = None
    """Depth: blocks in each stage."""
    num_channels: list[Count] | None = None
    """Widths: the stem's, then each stage's."""
    bottleneck_ratio: Positive | list[Positive | None] | None = None
    """Width of a stage over the width inside its blocks; below 1 inverts the bottleneck. Default: 1."""
    group_width: Count | list[Count | None] | None = None
    """Channels in one group of the 3x3 convolution. Default: one group."""
    strides: Count | list[Count] | None = None
    """Stride of each stage's first block. Default: 2."""
    stem: str | None = None
    """The stem. Default: conv3x3_s2."""
    head: str | None = None
    """The head. Default: linear."""
    se_ratio: NonNegative | None = None
    """Squeeze-excitation width over the block's input width; 0 leaves it out. Default: 0."""
    dropout: Fraction | None = None
    """Dropout before the classifier. Default: 0."""
    num_classes: Count | None = None
    """Number of classes. Default: the data's."""
    zero_init_residual: bool | None = None
    """Start each residual block as the identity. Default: false."""
    init: Literal["pycls", "torch"] | None = None
    """How convolutions and linear layers start: as pycls draws them, or as PyTorch does. What a plug-in's own
    constructor made stays as it is. Default: torch where all blocks are listing_ ones, else pycls."""
    blurpool: bool | None = None
    """Blur what goes into convolutions that stride, of 16 input channels or more (anti-aliasing). Default:
    false."""
    pretrained: str | None = None
    """Start from these weights: a run, a checkpoint, a model.safetensors, a file of timm, torchvision or
    pycls, torchvision:NAME or timm:NAME. A head for other classes is initialised."""
    freeze: list[str] = field(default_factory=list)
    """Parts that do not train: stem, stage1, stage2, ..."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Augmentation):
    """Random changes to training images; each is a function of (seed, epoch, sample)."""

    mixup: NonNegative = 0.0
    """Alpha of mixup, 0 for none; with cutmix too, each batch takes one of them at random."""
    cutmix: NonNegative = 0.0
    """Alpha of CutMix, 0 for none."""

    def __post_init__(self) -> None:
        """The ranges are checked when a config is loaded, where messages name file and line."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the images are and how they are loaded."""

    train: str | None = None
    """Training images: a .beton file or a folder with one folder per class."""
    val: str | None = None
    """Validation images: they choose the best checkpoint."""
    test: str | None = None
    """Test images: looked at once, when training has ended."""
    val_fraction: Fraction = 0.0
    """Without data.val: hold out this fraction of the training images for validation, chosen by the seed."""
    loader: LoaderName = "auto"
    """`ffcv`, `torch` (torchvision), `device` (small images of one size, kept on the accelerator), or `auto`:
    FFCV where it is installed and the file is a .beton."""
    workers: Count | None = None
    """Loader threads (ffcv) or processes (torch) of each rank. Default: this rank's part of the cores."""
    drop_last: bool = True
    """Leave out the images of an epoch that do not fill a global batch; each epoch leaves out others. `false`
    takes them as a last, smaller step, whose gradient is the mean over its images on any number of devices;
    batch norm then sees smaller batches."""
    train_res: Count | None = None
    """Side in pixels of training images. Default: the images' own, where all have one size."""
    start_res: Count | None = None
    """Progressive resizing: side in pixels of the first training images. Default: data.train_res."""
    res_ramp: tuple[NonNegativeInt, Count] = (0, 1)
    """Progressive resizing: the first epoch (from 0) with larger images, and the first at data.train_res."""
    eval_res: Count | None = None
    """Side in pixels of evaluated images. Default: data.train_res."""
    eval_crop_ratio: PositiveFraction = 224 / 256
    """Fraction of the shorter side that the evaluation's centre crop keeps, where images differ in size."""
    eval_resize: EvalResize = "auto"
    """How it is resized: `area` as FFCV does, `bilinear` (antialiased) as torchvision does, `auto` what
    comes with the loader."""
    mean: tuple[Level, Level, Level] | None = None
    """Mean colour in 0..1 taken off each pixel. Default: what was measured when the data was built, for image
    folders that of ImageNet."""
    std: tuple[Positive, Positive, Positive] | None = None
    """Standard deviation in 0..1 by which each pixel is divided. Default: as for the mean, but 1 for a
    channel that is constant."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Random changes to training images."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how large, how precise."""

    epochs: Count = 10
    """Passes over the training images."""
    max_steps: Count | None = None
    """Stop after this many optimizer steps, though epochs are left; the schedule then spans these."""
    global_batch: Count = 512
    """Images in one optimizer step, over all devices. The learning rate belongs to it."""
    max_device_batch: Count | None = None
    """At most this many images at a time on one device; more are split into accumulated gradients."""
    precision: PrecisionChoice = "auto"
    """`auto` is bf16 where the device computes in it, fp32 elsewhere."""
    memory_format: MemoryFormat = "auto"
    """`auto` takes the faster on this device for this network, measured once and remembered in the cache."""
    task: str = "classification"
    """What is learned: `classification`, or what a plug-in registers."""
    loss: str = "cross_entropy"
    """The loss: `cross_entropy`, `bce` (binary cross-entropy of each class, as in "ResNet strikes back"), or
    one that a plug-in registers. Evaluation reports the cross-entropy."""
    loss_options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the loss by name, such as target_threshold of bce."""
    label_smoothing: Fraction = 0.0
    """Fraction of each label spread over all classes."""
    stochastic_depth: Fraction = 0.0
    """Probability with which the last residual block leaves out its branch, image by image; it rises to this
    block by block."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` lets each class count alike in the loss, whatever its number of training images."""
    early_stopping: Count | None = None
    """Stop after this many evaluations in a row without a better validation top-1. Default: never."""
    clip_grad_norm: Positive | None = None
    """Scale gradients down to at most this norm."""
    compile: Annotated[CompileMode, Field(), BeforeValidator(_compile_mode)] = "off"
    """Compile the network with torch.compile: `full` (or true) the whole of it, `regional` each block by
    itself, which takes less time to compile, `reduce-overhead` the whole, replayed as CUDA graphs, which
    spares the processor the start of each kernel, `max-autotune` like `full` with the fastest of several
    kernels, `auto` the whole where the run is long enough to pay for it. The first steps are slow; compiled
    code is kept."""
    activation_checkpointing: Annotated[bool | list[str], Field(), BeforeValidator(_parts)] = False
    """Save memory: keep the input of each block alone, and compute the block again in the backward pass, for
    a third more arithmetic. `true` for all parts before the head, or a list of parts: stem, stage1, stage2,
    ... The result stays the same; not with DeepSpeed. `anynet models memory` says what it saves."""
    deterministic: bool = False
    """Only deterministic kernels, where torch has them; slower."""
    max_bad_steps: NonNegativeInt = 3
    """Steps whose loss or gradients are not finite are left out; more than this many in a row end the run."""
    log_every: Count = 50
    """Optimizer steps between two training records, each a line of metrics.jsonl."""
    profile: StepRange | None = None
    """`START:STOP` writes a torch profiler trace of the steps after START up to STOP into the run folder."""
    profile_startup: bool = False
    """Show after the first step where the seconds since the start of the process went."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer."""

    name: str = "sgd"
    """The optimizer: `sgd`, `adam` (adds weight decay to the gradient), `adamw` (decays the weights), a class
    of torch.optim (torch:RAdam), an optimizer of timm (timm:lamb), or one that a plug-in registers."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the optimizer by name."""
    lr: Positive | None = None
    """Peak learning rate at train.global_batch. Default: 0.1 for sgd, 0.0005 for adam and adamw at 512 images
    a step, in proportion to train.global_batch up to 8192; other optimizers have none."""
    body_lr_scale: Positive = 1.0
    """Learning rate of stem and stages over that of the head; below 1 for fine-tuning."""
    weight_decay: NonNegative = 5.0e-5
    """Weight decay."""
    decay_norm_and_bias: bool = False
    """Decay the parameters of normalisation layers and biases too."""
    no_decay: list[str] = field(default_factory=list)
    """Parameters whose name contains one of these are not decayed, whatever else is."""
    momentum: Fraction = 0.9
    """Momentum of sgd; that of other optimizers belongs in optim.options."""
    nesterov: bool = True
    """Nesterov momentum in sgd."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay of the running averages of adam and adamw; that of others belongs in optim.options."""
    eps: Positive = 1.0e-8
    """Added to the denominator of adam and adamw."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The learning rate over time, set before every optimizer step."""

    name: str = "cosine"
    """Shape of the curve after the warm-up: `cosine`, `multistep`, `onecycle` (linear up, then linear down),
    `constant`, or one that a plug-in registers."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of a plug-in's schedule by name."""
    update: Literal["step", "epoch"] = "step"
    """When it changes: before every optimizer step, or at the start of each epoch only, as pycls does it."""
    warmup_epochs: NonNegative | None = None
    """Epochs of linear rise; for onecycle the time of the peak. Default: none where optim.lr is set, else a
    tenth of the run, at most 5 epochs; for onecycle 30 % of the run."""
    warmup_start: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Fraction of the learning rate at which the warm-up starts."""
    final: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of the learning rate at the end of cosine and onecycle."""
    milestones: list[NonNegative] = field(default_factory=lambda: [100.0, 150.0])
    """Epochs at which multistep multiplies the learning rate."""
    gamma: PositiveFraction = 0.1
    """What multistep multiplies it by."""


@dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    """Ways to faster steps, each with a switch of its own, so that its effect can be measured."""

    fused_optimizer: bool = True
    """Update all weights in one kernel, where torch has one for the optimizer; otherwise operation by
    operation over the list of weights. Only with it can single steps that are not finite be left out."""
    gradient_bucket_view: bool = True
    """Several processes: gradients lie in the buffers that are sent, which saves a copy and their memory."""
    gradient_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Several processes: in what gradients are sent; 16 bits halve the traffic and round the sums."""
    static_graph: bool = False
    """Several processes: rely on each step using the same weights in the same order, and send gradients
    in the order in which they were ready in the first step. Not with accumulated gradients."""
    copy_ahead: bool = True
    """On a GPU: copy the next batch to the device while the step before it is computed."""
    collect_garbage_every: Count | None = 500
    """Have Python collect cyclic garbage after so many steps, on all ranks alike; none: whenever it likes."""


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """Exponential moving average of the weights, evaluated beside the raw ones."""

    decay: Fraction | None = None
    """Fraction of the average kept at each update. Default: no average."""
    every: Count = 1
    """Optimizer steps between two updates; the decay is raised to this power."""
    warmup: bool = True
    """Let the decay grow with the number of updates at first, min(decay, (1 + n) / (10 + n))."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Evaluation during and after training."""

    every: Count = 1
    """Epochs between two evaluations; the last epoch is always evaluated."""
    batch_size: Count = 512
    """Images at a time on each device."""
    flip: bool = False
    """Score the mean of each image's and its mirror image's logits too, beside the plain scores."""
    compile: bool = False
    """Let evaluations use compiled code too, where training does (train.compile)."""
    precise_bn: NonNegativeInt = 0
    """Before evaluating, recompute batch-norm statistics over this many training images; 0 keeps the running
    ones."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints in the run folder."""

    every: Interval | Count = "1 epoch"
    """Between two checkpoints: `500 steps`, `10 minutes` or `2 epochs`; a bare number counts epochs. The end
    of the run always has one, and so has each epoch that is the best so far."""
    keep_last: Count = 2
    """Keep this many of the newest."""
    keep_best: Count = 1
    """Keep this many of those with the best validation accuracy."""
    keep_every: Count | None = None
    """Keep those for good whose number of steps is a multiple of this."""
    on_error: Literal["stop", "continue"] = "stop"
    """What to do when a checkpoint cannot be written, as on a full disk: the earlier ones stay."""
    in_background: bool = True
    """Write checkpoints beside the next steps, from a copy of all that they hold in host memory. Before the
    next one, and before it ends, the run waits for the one that is on its way. With FSDP2 and DeepSpeed the
    steps wait for each."""


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where to watch the run, beside the console and metrics.jsonl."""

    trackers: list[str] = field(default_factory=list)
    """Trackers by name: wandb, tensorboard, any other that accelerate knows, such as mlflow or trackio, or
    one that a plug-in registers."""
    tracker_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Arguments for trackers other than wandb and tensorboard, by tracker: {mlflow: {tracking_uri: ...}}."""
    notes: str | None = None
    """A description of the run, for trackers. Default: WANDB_NOTES."""
    wandb: Literal["off", "online", "offline"] = "off"
    """Weights & Biases; `wandb` among the trackers means online where this is off."""
    wandb_project: str | None = None
    """Project in Weights & Biases, or entity/project. Default: WANDB_PROJECT, or anynet."""
    wandb_entity: str | None = None
    """Team or user in Weights & Biases. Default: WANDB_ENTITY, or the one logged in."""
    wandb_group: str | None = None
    """Group of runs in Weights & Biases, such as the members of a sweep. Default: WANDB_RUN_GROUP."""
    wandb_job_type: str | None = None
    """Kind of run in Weights & Biases. Default: WANDB_JOB_TYPE."""
    wandb_artifacts: Literal["off", "best", "final"] = "off"
    """Weights that Weights & Biases keeps as an artifact when the run ends: those of the best checkpoint, or
    model.safetensors."""
    wandb_alerts: bool = False
    """A message by Weights & Biases (e-mail or Slack) when the run fails, or its loss is not finite."""
    wandb_watch: Literal["off", "gradients", "all"] = "off"
    """Histograms of the gradients, or of the weights too, in Weights & Biases; they cost time."""
    tags: list[str] = field(default_factory=list)
    """Tags in Weights & Biases."""
    timeout: Positive = 60.0
    """Seconds to wait for trackers at the start and at the end; training does not wait for them."""
    tensorboard: bool = False
    """TensorBoard, with the graph of an example input; the same as `tensorboard` among the trackers."""
    report: bool = True
    """Leave report.html in the run folder at the end, and pictures of a training batch, the curves, the
    confusion matrix and the most certain mistakes; it takes one more evaluation of the final network."""

    @property
    def wandb_mode(self) -> Literal["off", "online", "offline"]:
        """How Weights & Biases is used, by either option."""
        return "online" if self.wandb == "off" and "wandb" in self.trackers else self.wandb

    @property
    def uses_tensorboard(self) -> bool:
        """Whether TensorBoard is used, by either option."""
        return self.tensorboard or "tensorboard" in self.trackers

    @property
    def others(self) -> list[str]:
        """The trackers beside these two, each once."""
        return [name for name in dict.fromkeys(self.trackers) if name not in ("wandb", "tensorboard")]

    @property
    def has_trackers(self) -> bool:
        """Whether any tracker is used."""
        return self.wandb_mode != "off" or self.uses_tensorboard or bool(self.others)


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What the console shows. The run folder has it all the same: console.log, and metrics.jsonl."""

    level: Literal["quiet", "info", "debug"] = "info"
    """`info` shows how the run is set up and a line per epoch, in long epochs one a minute; `debug` also one
    per training record (train.log_every); `quiet` only warnings, errors and the result."""
    format: Literal["text", "json"] = "text"
    """`json` writes one object per line, with time, level, rank and message."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """One training run, whole."""

    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    log: LogConfig = field(default_factory=LogConfig)
    plugins: list[str] = field(default_factory=list)
    """Python files of yours that register blocks, stems, heads, optimizers, schedules, losses, tasks, hooks;
    relative to the config file."""
