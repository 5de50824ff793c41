"""Refinements of an embedded pair under several settings, one JSON line each.

    python recipes/sweep.py fashion16 --kimg=8 --out=sweep.jsonl "glr=1e-4" "glr=3e-4 objective=diff-instruct,weighting=dmd"

Settings are fields of RefineOptions and `objective` (`di-gan` if none is named); seeds and evaluation latents are the
same for all, so that runs are paired.
"""

import copy
import json
import sys
import time
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from gan_refine import assets
from gan_refine.config import RefineOptions, build_options
from gan_refine.evaluation import NUM_IMAGES, Teacher, YardstickOptions, open_yardsticks
from gan_refine.objectives import GanFile, build_objective
from gan_refine.refine import refine
from gan_refine.run.build import give_learning_samples
from gan_refine.run.networks import open_gan
from gan_refine.teachers import load_edm


@click.command()
@click.argument("name")
@click.argument("settings", nargs=-1, required=True)
@click.option("--gan", default=None, help="Another generator than the pair's, such as one-step:fashion16.")
@click.option("--kimg", type=float, default=8, show_default=True)
@click.option(
    "--evaluations", type=int, default=4, show_default=True, help="Evaluations along each run, the last at its end."
)
@click.option("--eval-images", type=int, default=NUM_IMAGES, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--save", type=click.Path(path_type=Path), default=None, help="Folder for each run's last average.")
@click.option("--threads", type=int, default=2, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="File that a JSON line is added to for each run."
)
def main(
    name: str,
    settings: tuple[str, ...],
    gan: str | None,
    kimg: float,
    evaluations: int,
    eval_images: int,
    seed: int,
    save: Path | None,
    threads: int,
    device: str,
    out: Path,
) -> None:
    torch.set_num_threads(threads)
    original = open_gan(gan or name).generator.to(device)
    path = assets.resolve("teacher", name)
    teacher = load_edm(path).to(torch.device(device))
    measured = YardstickOptions(num_images=eval_images)
    yardsticks = open_yardsticks(measured, original.spec, Teacher(path, teacher), device)

    def distance(generator) -> float:
        return round(yardsticks.measure(generator, seed)[0].value, 3)

    before = distance(original)
    for setting in settings:
        fields = dict(pair.split("=", 1) for pair in setting.split())
        objective = build_objective(fields.pop("objective", "di-gan"), teacher, GanFile(original.discriminator))
        total = int(kimg * 1000)
        give_learning_samples(objective, Teacher(path, teacher), total)
        fields = {"total_images": str(total), "tick_images": str(total // evaluations), "seed": str(seed), **fields}
        options = build_options(RefineOptions, fields, "RefineOptions")
        started, curve, nats = time.time(), [], []
        for progress in refine(copy.deepcopy(original), objective, options):
            curve.append([progress.images, distance(progress.average)])
            nats.append(progress.health.remaining_nats())
            click.echo(f"{setting} seed {seed}: {curve[-1]} after {time.time() - started:.0f} s", err=True)
        record: dict[str, object] = {
            "pair": name,
            "metric": yardsticks.name,
            "gan": gan or name,
            "setting": setting,
            "seed": seed,
        }
        record |= {"before": before, "curve": curve, "nats": nats}
        if save is not None:
            save.mkdir(parents=True, exist_ok=True)
            file_of_run = save / f"{len(list(save.iterdir())):03d}.pkl"
            progress.average.export(file_of_run)
            record["saved"] = file_of_run.name
        record["seconds"] = round(time.time() - started, 1)
        with open(out, "a") as file:
            file.write(json.dumps(record) + "\n")
        click.echo(f"{setting:60s} {before} -> {', '.join(str(value) for _, value in curve)}  ({record['seconds']} s)")


if __name__ == "__main__":
    main()
