"""Presets: the defaults of a run's options. This module does not import torch."""

# Fields of RunOptions.refine, and `objective`; those that a preset leaves out have the defaults of RefineOptions.
Preset = dict[str, int | float | str]
PAPER: Preset = {"objective": "diff-instruct", "warmup_images": 0, "batch": 128, "glr": 1e-5, "score_lr": 1e-5}
PAPER |= {"beta2": 0.999, "lr_rampup": 0, "lr_decay": 0, "train": "all", "total_images": 49_152, "tick_images": 12_288}
GAN: Preset = {"total_images": 10**6, "warmup_images": 10**5, "batch": 256, "tick_images": 50_000}
PRESETS: dict[str, Preset] = {
    "demo": {},  # minutes on a CPU
    "gan": {**GAN, "ema_halflife_images": 20_000},  # a GAN of usual size on GPUs
    "one-step": {**PAPER, "total_images": 10**7, "tick_images": 200_000},  # a U-Net as the generator
    "paper": PAPER,  # the authors' released settings
}
