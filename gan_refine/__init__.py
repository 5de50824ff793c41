"""gan_refine: refine a pretrained GAN with a pretrained diffusion model and no data set (Diff-Instruct, arXiv:2305.18455)."""

__version__ = "0.1.0"
