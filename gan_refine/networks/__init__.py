"""Networks as plain modules: StyleGAN2, the U-Nets of EDM and their preconditioning."""

from gan_refine.foundation import public_torch_utils

# The sources of these modules are embedded in pickles, and so import torch_utils by its public name.
with public_torch_utils():
    from gan_refine.networks import edm_precond, edm_unet, stylegan2

__all__ = ["edm_precond", "edm_unet", "stylegan2"]
