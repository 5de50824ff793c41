"""The score model: a copy of the teacher that learns to denoise the generator's own images."""

from gan_refine.interfaces import Images, PerSample, Sigma
from gan_refine.noise import edm_weight


def denoising_loss(denoised: Images, clean: Images, sigma: Sigma) -> PerSample:
    """EDM's weighted squared error, a mean over pixels for each sample (eq. 2 and Table 1 of arXiv:2206.00364)."""
    error = (denoised - clean).square().flatten(1).mean(1)
    return edm_weight(sigma, sigma_data=0.5).flatten() * error
