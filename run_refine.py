"""Refine a pretrained GAN generator with a pretrained diffusion teacher and no data set: `gan-refine refine` by another name.

python run_refine.py --gan=GAN.pkl --teacher=TEACHER.pkl --outdir=training-runs
"""

import sys

from gan_refine.cli import run_command
from gan_refine.cli.refine import refine as cli

if __name__ == "__main__":
    sys.exit(run_command(cli))
