"""The picture of the README: `python recipes/picture.py RUN_FOLDER docs/before_after.png`.

The first 8x4 latents of a run's grid, by the original on the left and by the best pickle on the right, every pixel 3x3.
"""

import json
import sys
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from gan_refine import assets
from gan_refine.evaluation import grid_latents, render
from gan_refine.generators import StyleGan2
from gan_refine.run.folder import save_png, tile

SCALE, COLUMNS, ROWS, GAP = 3, 8, 4, 12


@click.command()
@click.argument("run_folder", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def main(run_folder: Path, out: Path) -> None:
    options = json.loads((run_folder / "options.json").read_text())
    paths = (assets.resolve("gan", options["gan"]), run_folder / "network-refined-best.pkl")
    halves = []
    for path in paths:
        generator = StyleGan2.load(path)
        images = render(generator, grid_latents(generator, options["refine"]["seed"]))[: COLUMNS * ROWS]
        halves.append(tile(images, COLUMNS).repeat(SCALE, axis=0).repeat(SCALE, axis=1))
    before, after = halves
    gap = np.full([before.shape[0], GAP, before.shape[2]], 255, dtype=np.uint8)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_png(out, np.concatenate([before, gap, after], axis=1))
    click.echo(str(out))


if __name__ == "__main__":
    main()
