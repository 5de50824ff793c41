"""`gan-refine evaluate`: metrics of one or more generators on the same latents."""

import click

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
from gan_refine.config import NUM_IMAGES
from gan_refine.files import require_writable

NETWORKS, EVALUATION, OUTPUT = "Networks", "Evaluation", "Output"


# fmt: off
@click.command("evaluate", cls=GroupedCommand, context_settings=SETTINGS)
@option(NETWORKS, "--gan", "gans", metavar="PKL|URL|NAME", type=PATH, multiple=True, required=True,
        help=GAN + " Repeat it to compare others with the first.")
@option(NETWORKS, "--teacher", metavar="PKL|URL|NAME", type=PATH, default=None,
        help=TEACHER + " The generators are compared with its samples.")
@option(NETWORKS, "--bridge", metavar="SPEC", default="none",
        help="For generators 2, 4, 8, ... times as large as the teacher: resize[,filter=lanczos|box], as the teacher sees them.")
@option(NETWORKS, "--baselines", is_flag=True,
        help="Measure baselines without learning too: the first generator with its flat ground cleared, and with truncation.")
@labels_option(NETWORKS)
@noise_mode_option(NETWORKS)
@trust_pickle_option(NETWORKS)
@option(EVALUATION, "--metrics", metavar="LIST", default="auto",
        help="auto (fd), or any of fd, kd, is, pr, dc, nn, each with options: fd,infinity=true,kd,subsets=50. fid and kid are fd "
        "and kd in Inception features.")
@detector_option(EVALUATION)
@fid_ref_option(EVALUATION)
@option(EVALUATION, "--images", metavar="INT", type=int, default=NUM_IMAGES,
        help="Images of each generator, samples of the teacher to compare with, and other samples for the floor; at least 2.")
@teacher_steps_option(EVALUATION)
@option(EVALUATION, "--seed", metavar="INT", type=int, default=0, help="Random seed of the latents; at least 0.")
@option(EVALUATION, "--fid-seeds", metavar="INT", type=int, default=3,
        help="Sets of latents, with the seeds seed, seed + 1, ...; two or more give confidence intervals.")
@option(OUTPUT, "--outdir", metavar="DIR", type=PATH, default=None,
        help="Append the results to metric-NAME.jsonl in this folder, and write table.json.")
@device_option(OUTPUT)
def evaluate(labels: str, **given) -> None:
    """Compare generators with samples of a teacher and with data: a table on standard error.

    Results go to standard output as JSON lines, the last of which is the table. torchrun shares the work.
    """
    from gan_refine.run import evaluate as work

    options = work.EvaluateOptions(labels=spell_out(labels), **given)
    check_device(options.device)
    share_cores()
    if options.outdir is not None:
        require_writable("--outdir", options.folder)
    work.evaluate(options)
# fmt: on
