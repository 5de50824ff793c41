"""The score model: a copy of the teacher that learns to denoise the generator's own images, whole or in part, averaged or not."""

import torch
from torch import nn

from gan_refine.ema import WeightAverage
from gan_refine.errors import OptionError
from gan_refine.interfaces import Denoiser, Images, PerSample, Sigma
from gan_refine.noise import edm_weight

# Names that the U-Nets of EDM teachers give to their halves.
PARTS = {"encoder": {"enc"}, "decoder": {"dec", "out_norm", "out_conv"}}


def denoising_loss(denoised: Images, clean: Images, sigma: Sigma) -> PerSample:
    """EDM's weighted squared error, a mean over pixels for each sample (eq. 2 and Table 1 of arXiv:2206.00364)."""
    error = (denoised - clean).square().flatten(1).mean(1)
    return edm_weight(sigma, sigma_data=0.5).flatten() * error


def train_only(denoiser: Denoiser, part: str) -> list[nn.Parameter]:
    """The parameters of `part` (all, encoder, decoder) of a U-Net; the others require no gradient afterwards.

    Raises OptionError for a denoiser without such a part.
    """
    assert isinstance(denoiser, nn.Module), "denoisers are torch modules"
    for name, parameter in denoiser.named_parameters():
        parameter.requires_grad_(part == "all" or not PARTS[part].isdisjoint(name.split(".")))
    chosen = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    if not chosen:
        raise OptionError(f"score_train={part} needs a U-Net with such a part, and this teacher has none; give all")
    return chosen


class ScoreAverage(nn.Module):
    """An average of the score model's weights over its steps, with a half-life in images that it learnt from.

    The half-life is at most a fifth of them all, so that the teacher that it started from is soon forgotten.
    """

    pending: torch.Tensor
    seen: torch.Tensor
    mark: torch.Tensor

    def __init__(self, score_model: Denoiser, halflife_images: int) -> None:
        super().__init__()
        self._average = WeightAverage(score_model, halflife_images, rampup_ratio=0.2)
        self.module = self._average.module  # registered: a checkpoint of the objective holds it
        self.register_buffer("pending", torch.zeros([], dtype=torch.int64))
        self.register_buffer("seen", torch.zeros([], dtype=torch.int64))
        self.register_buffer("mark", _touch(score_model).detach().clone())

    def note(self, score_model: Denoiser, images: int) -> None:
        """The score model is about to learn from so many images, more of the same step or the first of the next."""
        self._settle(score_model)
        self.pending += images

    def current(self, score_model: Denoiser) -> Denoiser:
        """The average over all steps up to now."""
        self._settle(score_model)
        return self.module

    def _settle(self, score_model: Denoiser) -> None:
        """Moves towards `score_model` by the share that the images noted are worth, if it has made its step since."""
        now = _touch(score_model).detach()
        if self.pending and not torch.equal(self.mark, now):
            self.seen += self.pending
            self._average.update(score_model, int(self.seen), int(self.pending))
            self.pending.zero_()
            self.mark.copy_(now)


def _touch(score_model: Denoiser) -> torch.Tensor:
    """One number of each parameter that learns: some of them change with each step."""
    return torch.stack([parameter.flatten()[0] for parameter in score_model.parameters() if parameter.requires_grad])
