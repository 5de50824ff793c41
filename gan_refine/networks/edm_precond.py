"""Preconditioning of denoisers: EDM, VP, VE and iDDPM (Table 1 of arXiv:2206.00364).

Each maps noisy images [N, C, H, W] at noise level sigma [N] (or broadcastable to [N, 1, 1, 1]) to the denoised estimate
D(x; sigma) = c_skip x + c_out F(c_in x, c_noise), in float32. The source of this module is embedded in pickles: it may import
torch, numpy and torch_utils only.
"""

from __future__ import annotations  # embedded in pickles, it must load in older Pythons

import math

import torch

from torch_utils import persistence


def _make_unet(model_type: str, **kwargs) -> torch.nn.Module:
    from .edm_unet import MODELS  # here, not above: embedded in a pickle this module is loaded without its neighbours

    return MODELS[model_type](**kwargs)


class _Precond(torch.nn.Module):
    """What the four share: the call, labels, half precision. Subclasses give `coefficients` and `sigma` limits."""

    out_channels_factor = 1

    def __init__(
        self, img_resolution: int, img_channels: int, label_dim: int, use_fp16: bool, model_type: str, **model_kwargs
    ) -> None:
        super().__init__()
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.label_dim = label_dim
        self.use_fp16 = use_fp16
        self.model = _make_unet(
            model_type,
            img_resolution=img_resolution,
            in_channels=img_channels,
            out_channels=img_channels * self.out_channels_factor,
            label_dim=label_dim,
            **model_kwargs,
        )

    def coefficients(self, sigma: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """c_skip, c_out, c_in, c_noise for sigma [N, 1, 1, 1]."""
        raise NotImplementedError

    def forward(
        self,
        x: torch.Tensor,
        sigma: torch.Tensor,
        class_labels: torch.Tensor | None = None,
        force_fp32: bool = False,
        **model_kwargs,
    ) -> torch.Tensor:
        x = x.to(torch.float32)
        sigma = sigma.to(torch.float32).reshape(-1, 1, 1, 1)
        labels = None
        if self.label_dim:
            given = torch.zeros([1, self.label_dim], device=x.device) if class_labels is None else class_labels
            labels = given.to(torch.float32).reshape(-1, self.label_dim)
        dtype = torch.float16 if self.use_fp16 and not force_fp32 and x.device.type == "cuda" else torch.float32
        c_skip, c_out, c_in, c_noise = self.coefficients(sigma)
        raw = self.model((c_in * x).to(dtype), c_noise.flatten(), class_labels=labels, **model_kwargs)
        return c_skip * x + c_out * raw[:, : self.img_channels].to(torch.float32)

    def round_sigma(self, sigma) -> torch.Tensor:
        """The nearest noise levels that the network knows; every level for continuous ones."""
        return torch.as_tensor(sigma)


@persistence.persistent_class
class VPPrecond(_Precond):
    """Variance preserving (DDPM, arXiv:2011.13456)."""

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        beta_d: float = 19.9,
        beta_min: float = 0.1,
        M: int = 1000,
        epsilon_t: float = 1e-5,
        model_type: str = "SongUNet",
        **model_kwargs,
    ) -> None:
        super().__init__(img_resolution, img_channels, label_dim, use_fp16, model_type, **model_kwargs)
        self.beta_d = beta_d
        self.beta_min = beta_min
        self.M = M
        self.epsilon_t = epsilon_t
        self.sigma_min = float(self.sigma(epsilon_t))
        self.sigma_max = float(self.sigma(1))

    def coefficients(self, sigma: torch.Tensor) -> tuple[torch.Tensor, ...]:
        c_noise = (self.M - 1) * self.sigma_inv(sigma)
        return torch.ones_like(sigma), -sigma, 1 / (sigma**2 + 1).sqrt(), c_noise

    def sigma(self, t) -> torch.Tensor:
        t = torch.as_tensor(t)
        return ((0.5 * self.beta_d * t**2 + self.beta_min * t).exp() - 1).sqrt()

    def sigma_inv(self, sigma) -> torch.Tensor:
        sigma = torch.as_tensor(sigma)
        return ((self.beta_min**2 + 2 * self.beta_d * (sigma**2 + 1).log()).sqrt() - self.beta_min) / self.beta_d


@persistence.persistent_class
class VEPrecond(_Precond):
    """Variance exploding (SMLD, arXiv:2011.13456)."""

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        sigma_min: float = 0.02,
        sigma_max: float = 100,
        model_type: str = "SongUNet",
        **model_kwargs,
    ) -> None:
        super().__init__(img_resolution, img_channels, label_dim, use_fp16, model_type, **model_kwargs)
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    def coefficients(self, sigma: torch.Tensor) -> tuple[torch.Tensor, ...]:
        one = torch.ones_like(sigma)
        return one, sigma, one, (0.5 * sigma).log()


@persistence.persistent_class
class iDDPMPrecond(_Precond):  # noqa: N801 - the name is fixed by files in circulation
    """Improved DDPM (arXiv:2102.09672): M discrete levels on a cosine schedule; predicted variances are not used."""

    out_channels_factor = 2

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        C_1: float = 0.001,
        C_2: float = 0.008,
        M: int = 1000,
        model_type: str = "DhariwalUNet",
        **model_kwargs,
    ) -> None:
        super().__init__(img_resolution, img_channels, label_dim, use_fp16, model_type, **model_kwargs)
        self.C_1 = C_1
        self.C_2 = C_2
        self.M = M
        levels = torch.zeros(M + 1)
        for j in range(M, 0, -1):  # u_j, Table 1 and appendix C.3.4 of arXiv:2206.00364
            ratio = max(float(self.alpha_bar(j - 1) / self.alpha_bar(j)), C_1)
            levels[j - 1] = ((levels[j] ** 2 + 1) / ratio - 1).sqrt()
        self.register_buffer("u", levels)
        self.sigma_min = float(levels[M - 1])
        self.sigma_max = float(levels[0])

    def coefficients(self, sigma: torch.Tensor) -> tuple[torch.Tensor, ...]:
        c_noise = self.M - 1 - self.round_sigma(sigma, return_index=True).to(torch.float32)
        return torch.ones_like(sigma), -sigma, 1 / (sigma**2 + 1).sqrt(), c_noise

    def alpha_bar(self, j) -> torch.Tensor:
        return (0.5 * math.pi * torch.as_tensor(j) / self.M / (self.C_2 + 1)).sin() ** 2

    def round_sigma(self, sigma, return_index: bool = False) -> torch.Tensor:
        sigma = torch.as_tensor(sigma)
        flat = sigma.to(self.u.device, torch.float32).reshape(-1, 1)
        index = (flat - self.u).abs().argmin(dim=1)
        result = index if return_index else self.u[index].to(sigma.dtype)
        return result.reshape(sigma.shape).to(sigma.device)


@persistence.persistent_class
class EDMPrecond(_Precond):
    """EDM's own: unit variance in and out at every noise level."""

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        sigma_min: float = 0,
        sigma_max: float = float("inf"),
        sigma_data: float = 0.5,
        model_type: str = "DhariwalUNet",
        **model_kwargs,
    ) -> None:
        super().__init__(img_resolution, img_channels, label_dim, use_fp16, model_type, **model_kwargs)
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self.sigma_data = sigma_data

    def coefficients(self, sigma: torch.Tensor) -> tuple[torch.Tensor, ...]:
        variance = sigma**2 + self.sigma_data**2
        c_out = sigma * self.sigma_data / variance.sqrt()
        return self.sigma_data**2 / variance, c_out, 1 / variance.sqrt(), sigma.log() / 4


PRECONDITIONINGS = {cls.__name__: cls for cls in (EDMPrecond, VPPrecond, VEPrecond, iDDPMPrecond)}
