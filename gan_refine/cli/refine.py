"""`gan-refine refine`, which run_refine.py is too: refine a GAN with a diffusion teacher and no data set."""

from collections.abc import Collection
from pathlib import Path

import click
from click.core import ParameterSource

from gan_refine.cli.options import (
    GAN,
    PATH,
    SETTINGS,
    TEACHER,
    GroupedCommand,
    check_device,
    detector_option,
    device_option,
    fid_ref_option,
    labels_option,
    noise_mode_option,
    option,
    spell_out,
    teacher_steps_option,
    trust_pickle_option,
)
from gan_refine.cli.process import share_cores
from gan_refine.config import RANGES, Range, RefineOptions, require, shortened
from gan_refine.errors import OptionError
from gan_refine.run.command import option_of, read_config
from gan_refine.run.options import KIMG, RunOptions
from gan_refine.run.presets import PRESETS

NETWORKS, TRAINING, OBJECTIVE = "Networks", "Training", "Objective"
EVALUATION, RUN = "Evaluation", "Run"
DEFAULTS, TRAINING_DEFAULTS = RunOptions(), RefineOptions()
EXAMPLES = """\
# the embedded pair
gan-refine refine --outdir=training-runs
# a StyleGAN2-ADA and an EDM pickle of the same data set, 8 GPUs
torchrun --standalone --nproc-per-node=8 run_refine.py --gan=GAN.pkl --teacher=TEACHER.pkl --batch=256 --outdir=training-runs
# the paper's alternation with the authors' released settings
gan-refine refine --preset=paper
"""


def use_preset(context: click.Context, _: click.Parameter, name: str) -> str:
    """Makes what a named preset says the defaults of all other options; a --config wins over it."""
    if name != DEFAULTS.preset:
        options = dict(option_of(field, value) for field, value in PRESETS[name].items())
        context.default_map = {**options, **(context.default_map or {})}
    return name


def use_config(context: click.Context, _: click.Parameter, path: str | None) -> str | None:
    """Makes what the file says the defaults of all other options. Raises UserError."""
    if path is not None:
        context.default_map = {**(context.default_map or {}), **read_config(path)}
    return path


# fmt: off
@click.command("refine", cls=GroupedCommand, context_settings=SETTINGS, epilog=EXAMPLES)
@option(NETWORKS, "--gan", metavar="PKL|URL|NAME", type=PATH, default=DEFAULTS.gan, help=GAN)
@option(NETWORKS, "--which", type=click.Choice(["G_ema", "G"]), default=DEFAULTS.which,
        help="Network of the GAN's file to refine; the result is written to both G and G_ema.")
@option(NETWORKS, "--teacher", metavar="PKL|URL|NAME", type=PATH, default=DEFAULTS.teacher, help=TEACHER)
@option(NETWORKS, "--bridge", metavar="SPEC", default=DEFAULTS.bridge,
        help="For a GAN 2, 4, 8, ... times as large as its teacher: "
        "resize[,anchor=1,filter=lanczos|box,measure=teacher|full].")
@option(NETWORKS, "--train", metavar="PARTS", default=TRAINING_DEFAULTS.train,
        help="Trained parts of a StyleGAN2: auto (all but noise), all, or a list of mapping, synthesis, affine, noise, each with a "
        "multiple of --glr such as synthesis,affine:0.1. Other parts stay bit-identical.")
@option(NETWORKS, "--whiten-w", metavar="POWER", type=float, default=DEFAULTS.whiten_w,
        help="Before the first step, let a StyleGAN2 make more of directions in which its w varies little: 0 = off, to 0.5, where "
        "all count alike.  [default: 0.1 for di-gan with a discriminator; 0 else, and with --bridge, --l2-images, or "
        "--train without affine]")
@labels_option(NETWORKS)
@noise_mode_option(NETWORKS)
@trust_pickle_option(NETWORKS)
@option(TRAINING, "--kimg", metavar="KIMG", type=float, default=TRAINING_DEFAULTS.total_images / 1000,
        help="Length of the run, in thousands of images shown to the generator; above 0.")
@option(TRAINING, "--batch", metavar="INT", type=int, default=TRAINING_DEFAULTS.batch,
        help="Global batch size; above 0.")
@option(TRAINING, "--batch-gpu", metavar="INT|auto", default=None,
        help="Micro-batch size, a divisor of --batch; auto for the largest that fits.  [default: --batch divided by processes]")
@option(TRAINING, "--glr", metavar="FLOAT", type=float, default=None,
        help="Learning rate of the generator.  [default: the preset's or the objective's, 0.0003 for di-gan, 0.0005 for it without "
        "a discriminator, 0.0001 for the others; at most 0.0001 for one-step generators]")
@option(TRAINING, "--score-lr", metavar="FLOAT", type=float, default=TRAINING_DEFAULTS.score_lr,
        help="Learning rate of the score model.")
@option(TRAINING, "--lr-rampup", metavar="SHARE", type=float, default=TRAINING_DEFAULTS.lr_rampup,
        help="Share of the run over which learning rates rise linearly; 0 to 1.")
@option(TRAINING, "--lr-decay", metavar="SHARE", type=float, default=TRAINING_DEFAULTS.lr_decay,
        help="Share of the run, at its end, over which learning rates fall to 0 by a cosine; 0 to 1.")
@option(TRAINING, "--beta1", metavar="FLOAT", type=float, default=TRAINING_DEFAULTS.beta1, help="Adam's beta1.")
@option(TRAINING, "--beta2", metavar="FLOAT", type=float, default=TRAINING_DEFAULTS.beta2, help="Adam's beta2.")
@option(TRAINING, "--ema-kimg", metavar="KIMG", type=float, default=TRAINING_DEFAULTS.ema_halflife_images / 1000,
        help="Half-life of the exponential moving average (EMA) of the generator's weights.")
@option(TRAINING, "--ema-rampup", metavar="SHARE", type=float, default=TRAINING_DEFAULTS.ema_rampup,
        help="The half-life is at most this share of the images so far; 0 = no ramp-up.")
@option(TRAINING, "--l2-images", metavar="FLOAT", type=float, default=TRAINING_DEFAULTS.l2_images,
        help="Weight of the squared distance of each image to the original generator's for the same latents; 0 = off.")
@option(TRAINING, "--clip-grad", metavar="FLOAT", type=float, default=TRAINING_DEFAULTS.clip_grad,
        help="Largest norm of a gradient; 0 = no clipping.")
@option(TRAINING, "--max-skips", metavar="INT", type=int, default=TRAINING_DEFAULTS.max_skips,
        help="Stop after this many consecutive steps whose gradient is not finite.")
@option(TRAINING, "--precision", type=click.Choice(["auto", "fp32", "tf32", "bf16"]), default=DEFAULTS.precision,
        help="Arithmetic: float32, on tensor cores with tf32, in bfloat16 inside the U-Nets with bf16. auto is tf32 where a GPU "
        "has it, else fp32.")
@option(TRAINING, "--recompute/--no-recompute", default=DEFAULTS.recompute,
        help="Recompute the U-Nets' activations in the backward pass: less memory, more time.")
@option(TRAINING, "--seed", metavar="INT", type=int, default=TRAINING_DEFAULTS.seed,
        help="Random seed; at least 0.")
@option(OBJECTIVE, "--objective", metavar="NAME,KEY=VALUE,...", default=DEFAULTS.objective,
        help="di-gan (auto), diff-instruct, diff-instruct-dmd, sid, sim or sds, with options as in docs/objectives.md.")
@option(OBJECTIVE, "--warmup-kimg", metavar="KIMG", type=float, default=TRAINING_DEFAULTS.warmup_images / 1000,
        help="Train the score model (of di-gan: the discriminator) alone for this many kimg at the start.")
@option(EVALUATION, "--metrics", metavar="LIST|none", default=DEFAULTS.metrics,
        help="auto (fd), none, or a list of fd, kd, is, pr, dc, nn; fid and kid are fd and kd in Inception features. "
        "The first metric of the first detector selects the best snapshot.")
@detector_option(EVALUATION)
@fid_ref_option(EVALUATION)
@option(EVALUATION, "--eval-images", metavar="INT", type=int, default=DEFAULTS.eval_images,
        help="Images per evaluation, samples of the teacher to compare with, and other samples for the floor; at least 2.")
@teacher_steps_option(EVALUATION)
@option(EVALUATION, "--fid-seeds", metavar="INT", type=int, default=DEFAULTS.fid_seeds,
        help="Sets of new latents for the tables at the end; 0 = the set that selected the best snapshot.")
@option(EVALUATION, "--stop-on-collapse", metavar="FACTOR", type=float, default=DEFAULTS.stop_on_collapse,
        help="Stop when the first metric exceeds its start by this factor; above 1, 0 = never.")
@option(RUN, "--outdir", metavar="DIR", type=PATH, default=DEFAULTS.outdir, help="Where to make the run folder.")
@option(RUN, "--desc", metavar="TEXT", default=None, help="Name of the run folder after its number.")
@option(RUN, "--tick", metavar="KIMG", type=float, default=TRAINING_DEFAULTS.tick_images / 1000,
        help="Interval between progress records.")
@option(RUN, "--snap", metavar="TICKS", type=int, default=DEFAULTS.snap,
        help="Interval between snapshots, each of which is evaluated.")
@option(RUN, "--snap-minutes", metavar="MINUTES", type=float, default=DEFAULTS.snap_minutes,
        help="Also save a checkpoint at this interval; 0 = off.")
@option(RUN, "--report/--no-report", default=DEFAULTS.report,
        help="Write report.html, a page to look at, at every snapshot.")
@option(RUN, "--tensorboard", is_flag=True, help="Also write the figures for TensorBoard; needs the package tensorboard.")
@option(RUN, "--wandb", is_flag=True, help="Also send the figures to Weights & Biases; needs the package wandb.")
@option(RUN, "--keep", metavar="INT", type=int, default=DEFAULTS.keep,
        help="Recent checkpoints to keep, in addition to that of the best pickle.")
@device_option(RUN)
@option(RUN, "--resume", metavar="DIR|latest", type=PATH, default=None,
        help="Resume the run in this folder, or the latest below --outdir.")
@option(RUN, "--config", metavar="JSON", type=PATH, default=None, is_eager=True, callback=use_config,
        help="Take the options from the options.json of a run, or a file like it; options of the command line win.")
@option(RUN, "--preset", type=click.Choice([DEFAULTS.preset, *PRESETS]), default=DEFAULTS.preset, is_eager=True,
        callback=use_preset, help="Defaults of other options: demo for minutes on a CPU, gan for a GAN of usual size on GPUs, "
        "one-step for U-Nets, paper for the authors' settings; auto chooses one of the first three by generator and device. "
        "Given options win.")
@option(RUN, "--dry-run", is_flag=True,
        help="Check everything, show the resolved options and the plan with its time and memory, write nothing.")
@click.pass_context
def refine(context: click.Context, dry_run: bool, **given) -> None:
    """Refine a pretrained GAN with a pretrained diffusion model of the same domain, without a data set.

    Progress goes to standard error; the path of the refined pickle goes to standard output.
    """
    from gan_refine.foundation import distributed
    from gan_refine.run.launch import folder_of_this_launch, launch
    from gan_refine.run.resume import find_run, resume

    share_cores()
    distributed.init()
    rank0 = distributed.is_rank0()
    run, fit_memory = given.pop("resume"), given["batch_gpu"] == "auto"
    given.pop("config")
    named = [name for name in given if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    for name in ("config", "preset"):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE and run is not None:
            raise OptionError(f"--{name} is for new runs: a resumed run keeps its options; leave out either it or --resume")
    automatic = {KIMG.get(name, name) for name in given if context.get_parameter_source(name) is ParameterSource.DEFAULT}
    options = run_options(given, automatic)
    check_device(options.device)
    restarted = folder_of_this_launch(Path(options.outdir)) if run is None else None
    if restarted is not None:
        result: str | None = resume(restarted, options, ())
    elif run is None:
        result = launch(options, automatic, dry_run, fit_memory)
    elif dry_run:
        raise OptionError("--dry-run is for new runs; leave out either it or --resume")
    else:
        fields = [KIMG.get(name, name) for name in named if not (fit_memory and name == "batch_gpu")]
        result = resume(find_run(run, Path(options.outdir)), options, fields)
    if result is not None and rank0:
        print(result, flush=True)
# fmt: on


def run_options(given: dict, automatic: Collection[str] = ()) -> RunOptions:
    """The options of the command line as a run knows them; of the fields that are `automatic`, --preset=auto gives the values."""
    from gan_refine.foundation import distributed

    share = max(given["batch"] // distributed.get_world_size(), 1)
    batch_gpu = given.pop("batch_gpu")
    whole_share = batch_gpu in (None, "auto")
    fields: dict = {field: images(given.pop(name), name) for name, field in KIMG.items()}
    fields |= {name: given.pop(name) for name in vars(TRAINING_DEFAULTS) if given.get(name) is not None}
    fields["batch_gpu"] = share if whole_share else whole_number(batch_gpu, "batch-gpu")
    undecided = given["preset"] == DEFAULTS.preset and "batch" in automatic and not whole_share
    if undecided and RANGES["batch_gpu"].holds(fields["batch_gpu"]):
        fields["batch"] = fields["batch_gpu"]  # until the preset gives the batch, which is then checked
    rest = {name: value for name, value in given.items() if name in vars(DEFAULTS)}
    refine = RefineOptions(**fields)
    return RunOptions(refine=refine, **{**rest, "labels": spell_out(given["labels"])})


def images(kimg: float, name: str) -> int:
    """Thousands of images as images, at least one unless 0 is allowed. Raises OptionError."""
    may_be_0 = name == "warmup_kimg"
    allowed = Range(0, RANGES[KIMG[name]].high / 1000, above=not may_be_0)
    require(name, kimg, allowed.holds(kimg), f"{allowed}, in thousands of images")
    return round(kimg * 1000) if may_be_0 else max(round(kimg * 1000), 1)


def whole_number(text: str, name: str) -> int:
    """An integer option that is also called `auto`. Raises OptionError."""
    try:
        return int(text)
    except ValueError as error:
        raise OptionError(f"--{name}={shortened(text)} is not allowed; give a whole number, or auto") from error
