"""Refine a pretrained GAN generator with a pretrained diffusion teacher and no data set.

python run_refine.py --gan=GAN.pkl --teacher=TEACHER.pkl --outdir=training-runs
"""

import math
import sys
from dataclasses import replace
from pathlib import Path

import click
import torch
from click.core import ParameterSource

from gan_refine.cli.drawing_options import labels_option, noise_mode_option, spell_out
from gan_refine.cli.gans import ONE_STEP, find_gan
from gan_refine.cli.launching import find_run, go_on, launch
from gan_refine.cli.run_options import RunOptions
from gan_refine.cli.running import run_command
from gan_refine.cli.trusting import trust_pickle_option
from gan_refine.config import RefineOptions, parse_spec, require
from gan_refine.errors import OptionError
from torch_utils import distributed

DEFAULT_PAIR = "fashion16"
DEFAULTS = RefineOptions()
DEFAULT_OBJECTIVE = "auto"
SMALL_GLR = (
    1e-4  # for steps along single draws of noise, and for a U-Net, whose weights are not scaled as StyleGAN2's are
)
POOLED = (
    "auto",
    "best",
    "carried",
    "diff-instruct",
)  # objectives whose gradient is learnt from pools unless --pool-kimg says otherwise


# Options of the command line that have another name in the run's options.
FIELDS = {"kimg": "total_images", "warmup_kimg": "warmup_images", "pool_kimg": "pool_images"}
FIELDS |= {"ema_kimg": "ema_halflife_images", "tick": "tick_images"}


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _images(kimg: float, what: str, least: int = 1) -> int:
    allowed = "a positive number of thousands of images" if least else "a number of at least 0"
    require(what, kimg, math.isfinite(kimg) and (kimg > 0 or (kimg == 0 and not least)), allowed)
    return max(round(kimg * 1000), least)


def _whole(text: str, what: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise OptionError(f"--{what}={text} is not allowed; give a whole number, or auto") from error


@click.command(context_settings={"show_default": True, "max_content_width": 120})
@click.option(
    "--gan",
    default=DEFAULT_PAIR,
    help="StyleGAN2 pickle or state dict, name of an embedded pair, or one-step:TEACHER,sigma=2.5.",
)
@click.option(
    "--which",
    type=click.Choice(["G_ema", "G"]),
    default="G_ema",
    help="The file's generator to refine; the result is written to both.",
)
@click.option(
    "--teacher", default=DEFAULT_PAIR, help="EDM network pickle or state dict, or the name of an embedded pair."
)
@click.option(
    "--bridge",
    default="none",
    help="resize[,anchor=1,filter=lanczos|box,measure=auto|full|teacher] for a GAN 2, 4, 8 ... times as large as its teacher.",
)
@click.option("--outdir", default="training-runs", help="Where to make the run folder.")
@click.option("--desc", default=None, help="Name of the run folder after its number.")
@click.option("--kimg", type=float, default=DEFAULTS.total_images / 1000, help="Thousands of images to refine for.")
@click.option("--batch", type=int, default=DEFAULTS.batch, help="Images a step.")
@click.option(
    "--batch-gpu",
    default=None,
    help="Images in memory at a time, divides --batch; auto for as many as fit.  [default: --batch by processes]",
)
@click.option(
    "--warmup-kimg",
    type=float,
    default=DEFAULTS.warmup_images / 1000,
    help="Fakes for the helpers to learn from first.",
)
@click.option(
    "--pool-kimg",
    type=float,
    default=None,
    help="Fakes that the generator learns to move at a time; 0 alternates as the paper does.  "
    f"[default: {DEFAULTS.pool_images / 1000} for auto, best, carried and diff-instruct, else 0]",
)
@click.option(
    "--glr",
    type=float,
    default=None,
    help=f"Learning rate of the generator.  [default: {DEFAULTS.glr}; without pools and for one-step generators {SMALL_GLR}]",
)
@click.option(
    "--train",
    default=DEFAULTS.train,
    help="Parts of a StyleGAN2 that learn: all, or of mapping, synthesis, affine, noise, with multiples of --glr: "
    "synthesis,affine:0.1. Others stay bit-identical.",
)
@labels_option
@noise_mode_option
@click.option("--score-lr", type=float, default=DEFAULTS.score_lr, help="Learning rate of the score model.")
@click.option(
    "--objective",
    default=DEFAULT_OBJECTIVE,
    help="best, carried, diff-instruct, diff-instruct-dmd, sid, sim, sds or adversarial and its options: NAME,key=value,... "
    "(docs/method.md). auto is best, or diff-instruct without pools.",
)
@click.option(
    "--ema-kimg", type=float, default=DEFAULTS.ema_halflife_images / 1000, help="Half-life of the weight average."
)
@click.option("--metrics", default="auto", help="auto (fd), none, or a list of fd, kd, is, pr, dc; the first ranks.")
@click.option("--detector", default="auto", help="auto (the embedded one that fits), NAME, inception,path=FILE ...")
@click.option(
    "--fid-ref", default="auto", help="auto (the detector's), teacher[,steps=18], an .npz file, a folder, a zip."
)
@click.option(
    "--fid-seeds", type=int, default=0, help="At the end, repeat before and after with so many fresh latents."
)
@click.option("--eval-images", type=int, default=10_000, help="Images an evaluation.")
@click.option(
    "--teacher-steps", type=int, default=18, help="Sampler steps for the teacher's own distance; 0 to skip it."
)
@click.option(
    "--recall",
    type=int,
    default=0,
    help="Measure the recall of so many teacher samples by as many images, before and at snapshots; 0: not.",
)
@click.option(
    "--tick", type=float, default=DEFAULTS.tick_images / 1000, help="Thousands of images between progress records."
)
@click.option("--snap", type=int, default=1, help="Ticks between snapshots, each evaluated.")
@click.option(
    "--snap-minutes", type=float, default=0, help="Also save a checkpoint whenever so many minutes have passed; 0: not."
)
@click.option("--keep", type=int, default=2, help="Checkpoints to keep, beside that of the best pickle.")
@click.option(
    "--elastic",
    type=float,
    default=DEFAULTS.elastic,
    help="Pull of the generator's weights to the original's: a weight that is pushed one way stays 1/elastic away; 0: none.",
)
@click.option(
    "--keep-images",
    type=float,
    default=DEFAULTS.keep_images,
    help="Weight of the squared distance of each image to the original generator's for the same latents; 0: none.",
)
@click.option("--clip-grad", type=float, default=DEFAULTS.clip_grad, help="Largest norm of a gradient; 0: no limit.")
@click.option(
    "--stop-on-collapse",
    type=float,
    default=0,
    help="Stop when the metric is this many times its start (without one: the data-free estimate); 0: never.",
)
@click.option(
    "--recompute/--no-recompute",
    default=False,
    help="Trade time for memory in the teacher's and score model's backward.",
)
@click.option("--seed", type=int, default=DEFAULTS.seed, help="Of all noise and latents.")
@click.option(
    "--device",
    default=default_device,
    show_default=False,
    help="cpu, cuda, cuda:1 ...  [default: a GPU if there is one]",
)
@trust_pickle_option
@click.option("--resume", default=None, help="Go on with the run in this folder, or with the latest below --outdir.")
@click.option("--dry-run", is_flag=True, help="Check everything, show the options, write nothing.")
@click.pass_context
def cli(context: click.Context, resume: str | None, dry_run: bool, **given) -> None:
    """Refine a pretrained GAN with a pretrained diffusion model of the same domain, without a data set."""
    distributed.init()
    speaks = distributed.is_rank0()
    named = [name for name in given if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    fit_memory = given["batch_gpu"] == "auto"
    options = run_options(given)
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(
            f"--device={options.device} cannot be used here; give cpu, or cuda on a machine with a GPU"
        ) from error
    if resume is None:
        result = launch(options, dry_run, fit_memory)
    elif dry_run:
        raise OptionError("--dry-run is for new runs; leave it or --resume out")
    else:
        fields = [FIELDS.get(name, name) for name in named if not (fit_memory and name == "batch_gpu")]
        result = go_on(find_run(resume, Path(options.outdir)), options, fields)
    if result is not None and speaks:
        print(result)


def run_options(given: dict) -> RunOptions:
    """The options of the command line as a run knows them. Raises OptionError."""
    pool_kimg = given.pop("pool_kimg")
    if pool_kimg is None:
        pool_kimg = DEFAULTS.pool_images / 1000 if parse_spec(given["objective"])[0] in POOLED else 0
    glr = given.pop("glr")
    if glr is None:
        gentle = not pool_kimg or find_gan(given["gan"], given["which"], given["trust_pickle"]).family == ONE_STEP
        glr = SMALL_GLR if gentle else DEFAULTS.glr
    batch, batch_gpu = given.pop("batch"), given.pop("batch_gpu")
    share = max(batch // distributed.get_world_size(), 1)
    training = replace(
        DEFAULTS,
        pool_images=_images(pool_kimg, "pool-kimg", least=0),
        total_images=_images(given.pop("kimg"), "kimg"),
        warmup_images=_images(given.pop("warmup_kimg"), "warmup-kimg", least=0),
        batch=batch,
        batch_gpu=share if batch_gpu in (None, "auto") else _whole(batch_gpu, "batch-gpu"),
        glr=glr,
        train=given.pop("train"),
        score_lr=given.pop("score_lr"),
        ema_halflife_images=_images(given.pop("ema_kimg"), "ema-kimg"),
        elastic=given.pop("elastic"),
        keep_images=given.pop("keep_images"),
        clip_grad=given.pop("clip_grad"),
        tick_images=_images(given.pop("tick"), "tick"),
        seed=given.pop("seed"),
    )
    return RunOptions(refine=training, **{**given, "labels": spell_out(given["labels"])})


if __name__ == "__main__":
    sys.exit(run_command(cli))
