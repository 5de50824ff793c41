"""`gan-refine doctor`: whether this machine is ready for a run, and what a run of the given files would take."""

from dataclasses import replace
from pathlib import Path

import click

from gan_refine.cli.options import (
    GAN,
    PATH,
    SETTINGS,
    TEACHER,
    GroupedCommand,
    check_device,
    device_option,
    option,
    trust_pickle_option,
)
from gan_refine.config import RefineOptions
from gan_refine.errors import OptionError
from gan_refine.files import require_writable
from gan_refine.run.options import RunOptions

NETWORKS, RUN = "Networks", "Run"


@click.command("doctor", cls=GroupedCommand, context_settings=SETTINGS)
@option(NETWORKS, "--gan", metavar="PKL|URL|NAME", type=PATH, default=None, help=GAN)
@option(NETWORKS, "--teacher", metavar="PKL|URL|NAME", type=PATH, default=None, help=TEACHER)
@trust_pickle_option(NETWORKS)
@option(
    RUN,
    "--batch",
    metavar="INT",
    type=int,
    default=None,
    help="Batch size of the run; above 0.  [default: the preset's]",
)
@option(RUN, "--outdir", metavar="DIR", type=PATH, default=RunOptions().outdir, help="Where the run would write.")
@device_option(RUN)
def doctor(
    gan: str | None, teacher: str | None, trust_pickle: bool, batch: int | None, outdir: str, device: str
) -> None:
    """Show what this machine offers; with --gan and --teacher also whether they fit each other and what a run would take.

    Writes nothing. The exit code is 2 if the files do not fit or cannot be opened.
    """
    from gan_refine.run.build import build
    from gan_refine.run.command import command_line
    from gan_refine.run.environment import environment_rows
    from gan_refine.run.hints import notices
    from gan_refine.run.plan import make_plan, plan_lines

    if (gan is None) != (teacher is None):
        raise OptionError("doctor checks a pair; give both --gan and --teacher, or neither")
    check_device(device)
    require_writable("--outdir", Path(outdir))
    refine = RefineOptions() if batch is None else RefineOptions(batch=batch, batch_gpu=batch)
    automatic = {"objective", *vars(refine)} - ({"batch", "batch_gpu"} if batch is not None else set())
    run = None
    if gan is not None and teacher is not None:
        options = RunOptions(gan=gan, teacher=teacher, outdir=outdir, device=device, trust_pickle=trust_pickle)
        run = build(replace(options, refine=refine), automatic)
    click.echo("\n".join(f"  {name:<14} {found}" for name, found in environment_rows(Path(outdir))))
    if run is None:
        return
    shown = (("GAN", run.generator.spec, gan), ("teacher", run.teacher.denoiser.spec, teacher))
    click.echo("\n" + "\n".join(f"{name:<10} {spec}, {file}" for name, spec, file in shown) + "\nThey fit.\n")
    for notice in notices(run):
        click.echo(notice)
    click.echo("\n".join(plan_lines(run, make_plan(run))))
    given = replace(options, refine=refine)  # what the run decides is left to it
    click.echo(f"\n{command_line(given, ('objective', 'glr'))}")
