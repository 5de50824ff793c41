"""The U-Nets of EDM teachers: DDPM++ / NCSN++ (Song et al., arXiv:2011.13456) and ADM (Dhariwal and Nichol, arXiv:2105.05233).

Parameter names, constructor arguments and initial scales follow the published EDM checkpoints (arXiv:2206.00364, appendix F),
so that their state dicts load. The source of this module is embedded in pickles: it may import torch, numpy and torch_utils only.
"""

from __future__ import annotations  # embedded in pickles, it must load in older Pythons

import math

import torch
import torch.nn.functional as F

from torch_utils import persistence

SQRT_HALF = math.sqrt(0.5)


def _uniform(shape: list[int], bound: float) -> torch.Tensor:
    return bound * (2 * torch.rand(shape) - 1)


def _init_bound(mode: str, fan_in: int, fan_out: int) -> float:
    """Half-width of the uniform distribution that gives Glorot ('xavier') or He ('kaiming') variance."""
    bounds = {"xavier_uniform": math.sqrt(6 / (fan_in + fan_out)), "kaiming_uniform": math.sqrt(3 / fan_in)}
    return bounds[mode]


@persistence.persistent_class
class Linear(torch.nn.Module):
    """y = x W^T + b, with W and b drawn uniformly at a chosen fraction of the He or Glorot width."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        init_mode: str = "kaiming_uniform",
        init_weight: float = 1.0,
        init_bias: float = 0.0,
    ) -> None:
        super().__init__()
        bound = _init_bound(init_mode, in_features, out_features)
        self.in_features = in_features
        self.out_features = out_features
        self.weight = torch.nn.Parameter(_uniform([out_features, in_features], bound * init_weight))
        self.bias = torch.nn.Parameter(_uniform([out_features], bound * init_bias)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


@persistence.persistent_class
class Conv2d(torch.nn.Module):
    """A k x k convolution, optionally preceded by resampling by 2 with a separable FIR filter.

    `kernel=0` resamples only and has no parameters. `fused_resample` commutes filter and convolution where that saves memory;
    it pads once instead of twice, so the two forms differ at the borders and checkpoints fix which is meant.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        bias: bool = True,
        up: bool = False,
        down: bool = False,
        resample_filter: list[int] | tuple[int, ...] = (1, 1),
        fused_resample: bool = False,
        init_mode: str = "kaiming_uniform",
        init_weight: float = 1.0,
        init_bias: float = 0.0,
    ) -> None:
        assert not (up and down), "a convolution resamples one way"
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.up = up
        self.down = down
        self.fused_resample = fused_resample
        self.weight = self.bias = None
        if kernel:
            bound = _init_bound(init_mode, in_channels * kernel**2, out_channels * kernel**2)
            shape = [out_channels, in_channels, kernel, kernel]
            self.weight = torch.nn.Parameter(_uniform(shape, bound * init_weight))
            self.bias = torch.nn.Parameter(_uniform([out_channels], bound * init_bias)) if bias else None
        taps = torch.as_tensor(resample_filter, dtype=torch.float32)
        kernel2d = torch.outer(taps, taps)[None, None] / taps.sum() ** 2
        self.register_buffer("resample_filter", kernel2d if up or down else None)
        self.is_box = list(resample_filter) == [1, 1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = None if self.weight is None else self.weight.to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        conv_pad = 0 if weight is None else weight.shape[-1] // 2
        if self.resample_filter is None:
            return x if weight is None else F.conv2d(x, weight, bias, padding=conv_pad)
        fir_pad = (self.resample_filter.shape[-1] - 1) // 2
        if not self.fused_resample or weight is None:
            x = self._upsample(x, fir_pad) if self.up else self._downsample(x, fir_pad)
            return x if weight is None else F.conv2d(x, weight, bias, padding=conv_pad)
        if self.up:
            x = self._upsample(x, max(fir_pad - conv_pad, 0))
            return F.conv2d(x, weight, bias, padding=max(conv_pad - fir_pad, 0))
        x = self._downsample(F.conv2d(x, weight, padding=conv_pad + fir_pad), 0)
        return x if bias is None else x + bias[:, None, None]

    def _upsample(self, x: torch.Tensor, padding: int) -> torch.Tensor:
        if self.is_box and padding == 0:  # the box filter repeats pixels
            return F.interpolate(x, scale_factor=2, mode="nearest")
        taps = 4 * self.resample_filter.to(x.dtype)  # 4: zeros inserted by the stride carry no energy
        return F.conv_transpose2d(x, taps.expand(x.shape[1], -1, -1, -1), stride=2, padding=padding, groups=x.shape[1])

    def _downsample(self, x: torch.Tensor, padding: int) -> torch.Tensor:
        if self.is_box and padding == 0:
            return F.avg_pool2d(x, 2)
        taps = self.resample_filter.to(x.dtype).expand(x.shape[1], -1, -1, -1)
        return F.conv2d(x, taps, stride=2, padding=padding, groups=x.shape[1])


@persistence.persistent_class
class GroupNorm(torch.nn.Module):
    """Group normalisation with at least `min_channels_per_group` channels in each of at most `num_groups` groups."""

    def __init__(
        self, num_channels: int, num_groups: int = 32, min_channels_per_group: int = 4, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.num_groups = min(num_groups, num_channels // min_channels_per_group)
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(num_channels))
        self.bias = torch.nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


@persistence.persistent_class
class UNetBlock(torch.nn.Module):
    """Residual block [N, C, H, W], [N, E] -> [N, C', H', W'], conditioned on an embedding, with optional self-attention.

    `adaptive_scale` modulates the second norm by (1 + scale) and shift (ADM); otherwise the embedding is added before it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        up: bool = False,
        down: bool = False,
        attention: bool = False,
        num_heads: int | None = None,
        channels_per_head: int = 64,
        dropout: float = 0.0,
        skip_scale: float = 1.0,
        eps: float = 1e-5,
        resample_filter: list[int] | tuple[int, ...] = (1, 1),
        resample_proj: bool = False,
        adaptive_scale: bool = True,
        init: dict | None = None,
        init_zero: dict | None = None,
        init_attn: dict | None = None,
    ) -> None:
        super().__init__()
        init = init or {}
        init_zero = init_zero or {"init_weight": 0}
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.dropout = dropout
        self.skip_scale = skip_scale
        self.adaptive_scale = adaptive_scale
        self.num_heads = (num_heads or out_channels // channels_per_head) if attention else 0

        resample = {"up": up, "down": down, "resample_filter": resample_filter}
        self.norm0 = GroupNorm(in_channels, eps=eps)
        self.conv0 = Conv2d(in_channels, out_channels, kernel=3, **resample, **init)
        self.affine = Linear(emb_channels, out_channels * (2 if adaptive_scale else 1), **init)
        self.norm1 = GroupNorm(out_channels, eps=eps)
        self.conv1 = Conv2d(out_channels, out_channels, kernel=3, **init_zero)
        self.skip = None
        if out_channels != in_channels or up or down:
            kernel = 1 if resample_proj or out_channels != in_channels else 0
            self.skip = Conv2d(in_channels, out_channels, kernel=kernel, **resample, **init)
        if self.num_heads:
            self.norm2 = GroupNorm(out_channels, eps=eps)
            self.qkv = Conv2d(out_channels, out_channels * 3, kernel=1, **(init if init_attn is None else init_attn))
            self.proj = Conv2d(out_channels, out_channels, kernel=1, **init_zero)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        hidden = self.conv0(F.silu(self.norm0(x)))
        params = self.affine(emb)[:, :, None, None].to(x.dtype)
        if self.adaptive_scale:
            scale, shift = params.chunk(2, dim=1)
            hidden = F.silu(torch.addcmul(shift, self.norm1(hidden), scale + 1))
        else:
            hidden = F.silu(self.norm1(hidden + params))
        hidden = self.conv1(F.dropout(hidden, self.dropout, self.training))
        x = (hidden + (x if self.skip is None else self.skip(x))) * self.skip_scale
        if self.num_heads:
            x = (self._attend(self.norm2(x)) + x) * self.skip_scale
        return x

    def _attend(self, normalized: torch.Tensor) -> torch.Tensor:
        n, c, h, w = normalized.shape
        # Published channel order: head, channel within the head, then (q, k, v) innermost.
        qkv = self.qkv(normalized).reshape(n, self.num_heads, c // self.num_heads, 3, h * w)
        q, k, v = (part.transpose(2, 3) for part in qkv.unbind(3))  # each [N, heads, pixels, channels]
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(2, 3).reshape(n, c, h, w))


@persistence.persistent_class
class PositionalEmbedding(torch.nn.Module):
    """[N] -> [N, C]: cosines then sines of the input at geometrically spaced frequencies from 1 to 1 / max_positions."""

    def __init__(self, num_channels: int, max_positions: int = 10000, endpoint: bool = False) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.max_positions = max_positions
        self.endpoint = endpoint

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = self.num_channels // 2
        steps = torch.arange(half, dtype=torch.float32, device=x.device) / (half - (1 if self.endpoint else 0))
        phases = torch.outer(x, ((1 / self.max_positions) ** steps).to(x.dtype))
        return torch.cat([phases.cos(), phases.sin()], dim=1)


@persistence.persistent_class
class FourierEmbedding(torch.nn.Module):
    """[N] -> [N, C]: cosines then sines of the input at fixed random frequencies."""

    def __init__(self, num_channels: int, scale: float = 16) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.randn(num_channels // 2) * scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        phases = torch.outer(x, (2 * math.pi * self.freqs).to(x.dtype))
        return torch.cat([phases.cos(), phases.sin()], dim=1)


def _drop_labels(labels: torch.Tensor, rate: float, training: bool) -> torch.Tensor:
    """Whole label rows zeroed at the given rate while training, so that the network also learns the unconditional case."""
    if not (training and rate):
        return labels
    keep = torch.rand([len(labels), 1], device=labels.device) >= rate
    return labels * keep.to(labels.dtype)


@persistence.persistent_class
class SongUNet(torch.nn.Module):
    """DDPM++ ('positional', 'standard', filter [1, 1]) and NCSN++ ('fourier', 'residual', filter [1, 3, 3, 1]).

    Maps noisy images [N, C, H, W], noise labels [N], class labels [N, K] or None and augmentation labels [N, A] or None to
    [N, C', H, W]. Table 8 of arXiv:2206.00364 lists the differences between the two.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: list[int] | tuple[int, ...] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: list[int] | tuple[int, ...] = (16,),
        dropout: float = 0.10,
        label_dropout: float = 0,
        embedding_type: str = "positional",
        channel_mult_noise: int = 1,
        encoder_type: str = "standard",
        decoder_type: str = "standard",
        resample_filter: list[int] | tuple[int, ...] = (1, 1),
    ) -> None:
        super().__init__()
        self.label_dropout = label_dropout
        emb_channels = model_channels * channel_mult_emb
        noise_channels = model_channels * channel_mult_noise
        self._init = {"init_mode": "xavier_uniform"}
        self._init_zero = {"init_mode": "xavier_uniform", "init_weight": 1e-5}
        self._block_kwargs = {
            "emb_channels": emb_channels,
            "num_heads": 1,
            "dropout": dropout,
            "skip_scale": SQRT_HALF,
            "eps": 1e-6,
            "resample_filter": resample_filter,
            "resample_proj": True,
            "adaptive_scale": False,
            "init": self._init,
            "init_zero": self._init_zero,
            "init_attn": {"init_mode": "xavier_uniform", "init_weight": math.sqrt(0.2)},
        }
        embeddings = {
            "positional": lambda: PositionalEmbedding(noise_channels, endpoint=True),
            "fourier": lambda: FourierEmbedding(noise_channels),
        }
        self.map_noise = embeddings[embedding_type]()
        self.map_label = Linear(label_dim, noise_channels, **self._init) if label_dim else None
        self.map_augment = Linear(augment_dim, noise_channels, bias=False, **self._init) if augment_dim else None
        self.map_layer0 = Linear(noise_channels, emb_channels, **self._init)
        self.map_layer1 = Linear(emb_channels, emb_channels, **self._init)

        widths = [model_channels * mult for mult in channel_mult]
        shape = (img_resolution, widths, num_blocks, list(attn_resolutions))
        self.enc = torch.nn.ModuleDict()
        skips = self._build_encoder(shape, in_channels, model_channels, encoder_type, resample_filter)
        self.dec = torch.nn.ModuleDict()
        self._build_decoder(shape, skips, out_channels, decoder_type, resample_filter)

    def _build_encoder(
        self, shape: tuple, in_channels: int, model_channels: int, encoder_type: str, resample_filter
    ) -> list[int]:
        """Fills `enc`; returns the channel count of every skip connection in the order of the encoder."""
        img_resolution, widths, num_blocks, attn_resolutions = shape
        width, aux_width, skips = in_channels, in_channels, []
        for level, level_width in enumerate(widths):
            name = f"{img_resolution >> level}x{img_resolution >> level}"
            if level == 0:
                self.enc[f"{name}_conv"] = Conv2d(width, model_channels, kernel=3, **self._init)
                width = model_channels  # whatever the first multiplier: the first block widens
            else:
                self.enc[f"{name}_down"] = UNetBlock(width, width, down=True, **self._block_kwargs)
                resample = {"down": True, "resample_filter": resample_filter}
                if encoder_type == "skip":
                    self.enc[f"{name}_aux_down"] = Conv2d(aux_width, aux_width, kernel=0, **resample)
                    self.enc[f"{name}_aux_skip"] = Conv2d(aux_width, width, kernel=1, **self._init)
                if encoder_type == "residual":
                    aux = Conv2d(aux_width, width, kernel=3, fused_resample=True, **resample, **self._init)
                    self.enc[f"{name}_aux_residual"] = aux
                    aux_width = width
            skips.append(width)
            attention = (img_resolution >> level) in attn_resolutions
            for index in range(num_blocks):
                block = UNetBlock(width, level_width, attention=attention, **self._block_kwargs)
                self.enc[f"{name}_block{index}"] = block
                width = level_width
                skips.append(width)
        return skips

    def _build_decoder(
        self, shape: tuple, skips: list[int], out_channels: int, decoder_type: str, resample_filter
    ) -> None:
        img_resolution, widths, num_blocks, attn_resolutions = shape
        width = skips[-1]
        for level, level_width in reversed(list(enumerate(widths))):
            name = f"{img_resolution >> level}x{img_resolution >> level}"
            if level == len(widths) - 1:
                self.dec[f"{name}_in0"] = UNetBlock(width, width, attention=True, **self._block_kwargs)
                self.dec[f"{name}_in1"] = UNetBlock(width, width, **self._block_kwargs)
            else:
                self.dec[f"{name}_up"] = UNetBlock(width, width, up=True, **self._block_kwargs)
            for index in range(num_blocks + 1):
                attention = index == num_blocks and (img_resolution >> level) in attn_resolutions
                block = UNetBlock(width + skips.pop(), level_width, attention=attention, **self._block_kwargs)
                self.dec[f"{name}_block{index}"] = block
                width = level_width
            if decoder_type == "skip" or level == 0:
                if decoder_type == "skip" and level < len(widths) - 1:
                    aux_up = Conv2d(out_channels, out_channels, kernel=0, up=True, resample_filter=resample_filter)
                    self.dec[f"{name}_aux_up"] = aux_up
                self.dec[f"{name}_aux_norm"] = GroupNorm(width, eps=1e-6)
                self.dec[f"{name}_aux_conv"] = Conv2d(width, out_channels, kernel=3, **self._init_zero)

    def forward(
        self,
        x: torch.Tensor,
        noise_labels: torch.Tensor,
        class_labels: torch.Tensor | None = None,
        augment_labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        emb = self._embed(noise_labels, class_labels, augment_labels)
        return self._decode(*self._encode(x, emb), emb)

    def _embed(self, noise_labels, class_labels, augment_labels) -> torch.Tensor:
        cos, sin = self.map_noise(noise_labels).chunk(2, dim=1)
        emb = torch.cat([sin, cos], dim=1)  # the published weights expect sines first here
        if self.map_label is not None:
            labels = _drop_labels(class_labels, self.label_dropout, self.training)
            emb = emb + self.map_label(labels * math.sqrt(self.map_label.in_features))
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))

    def _encode(self, x: torch.Tensor, emb: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        aux = x
        skips: list[torch.Tensor] = []
        for name, module in self.enc.items():
            if name.endswith("_aux_down"):
                aux = module(aux)
            elif name.endswith("_aux_skip"):
                x = skips[-1] = x + module(aux)
            elif name.endswith("_aux_residual"):
                x = skips[-1] = aux = (x + module(aux)) * SQRT_HALF
            else:
                x = module(x, emb) if isinstance(module, UNetBlock) else module(x)
                skips.append(x)
        return x, skips

    def _decode(self, x: torch.Tensor, skips: list[torch.Tensor], emb: torch.Tensor) -> torch.Tensor:
        out = normed = None
        for name, module in self.dec.items():
            if name.endswith("_aux_up"):
                out = module(out)
            elif name.endswith("_aux_norm"):
                normed = module(x)
            elif name.endswith("_aux_conv"):
                image = module(F.silu(normed))
                out = image if out is None else out + image
            else:
                if x.shape[1] != module.in_channels:
                    x = torch.cat([x, skips.pop()], dim=1)
                x = module(x, emb)
        return out


@persistence.persistent_class
class DhariwalUNet(torch.nn.Module):
    """ADM. Arguments, inputs and outputs as for SongUNet; blocks have adaptive scales and 64-channel attention heads."""

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: list[int] | tuple[int, ...] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: list[int] | tuple[int, ...] = (32, 16, 8),
        dropout: float = 0.10,
        label_dropout: float = 0,
    ) -> None:
        super().__init__()
        self.label_dropout = label_dropout
        emb_channels = model_channels * channel_mult_emb
        third = math.sqrt(1 / 3)
        init = {"init_mode": "kaiming_uniform", "init_weight": third, "init_bias": third}
        init_zero = {"init_mode": "kaiming_uniform", "init_weight": 0, "init_bias": 0}
        block_kwargs = {
            "emb_channels": emb_channels,
            "channels_per_head": 64,
            "dropout": dropout,
            "init": init,
            "init_zero": init_zero,
        }
        self.map_noise = PositionalEmbedding(model_channels)
        self.map_augment = Linear(augment_dim, model_channels, bias=False, **init_zero) if augment_dim else None
        self.map_layer0 = Linear(model_channels, emb_channels, **init)
        self.map_layer1 = Linear(emb_channels, emb_channels, **init)
        self.map_label = Linear(label_dim, emb_channels, bias=False) if label_dim else None
        if self.map_label is not None:
            torch.nn.init.normal_(self.map_label.weight)  # a one-hot label picks one column: unit variance an entry

        widths = [model_channels * mult for mult in channel_mult]
        # Name, width and attention of each level, from the finest.
        levels = [
            (f"{img_resolution >> i}x{img_resolution >> i}", w, (img_resolution >> i) in list(attn_resolutions))
            for i, w in enumerate(widths)
        ]
        self.enc = torch.nn.ModuleDict()
        width, skips = in_channels, []
        for level, (name, level_width, attention) in enumerate(levels):
            if level == 0:
                self.enc[f"{name}_conv"] = Conv2d(width, level_width, kernel=3, **init)
                width = level_width
            else:
                self.enc[f"{name}_down"] = UNetBlock(width, width, down=True, **block_kwargs)
            skips.append(width)
            for index in range(num_blocks):
                self.enc[f"{name}_block{index}"] = UNetBlock(width, level_width, attention=attention, **block_kwargs)
                width = level_width
                skips.append(width)
        self.dec = torch.nn.ModuleDict()
        self._build_decoder(levels, skips, num_blocks, block_kwargs)
        self.out_norm = GroupNorm(widths[0])
        self.out_conv = Conv2d(widths[0], out_channels, kernel=3, **init_zero)

    def _build_decoder(
        self, levels: list[tuple[str, int, bool]], skips: list[int], num_blocks: int, block: dict
    ) -> None:
        """Fills `dec` from the coarsest level up, taking the encoder's widths from the end of `skips`."""
        width = skips[-1]
        for level, (name, level_width, attention) in reversed(list(enumerate(levels))):
            if level == len(levels) - 1:
                self.dec[f"{name}_in0"] = UNetBlock(width, width, attention=True, **block)
                self.dec[f"{name}_in1"] = UNetBlock(width, width, **block)
            else:
                self.dec[f"{name}_up"] = UNetBlock(width, width, up=True, **block)
            for index in range(num_blocks + 1):
                joined = UNetBlock(width + skips.pop(), level_width, attention=attention, **block)
                self.dec[f"{name}_block{index}"] = joined
                width = level_width

    def forward(
        self,
        x: torch.Tensor,
        noise_labels: torch.Tensor,
        class_labels: torch.Tensor | None = None,
        augment_labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        emb = self.map_noise(noise_labels)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels)
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        if self.map_label is not None:
            emb = emb + self.map_label(_drop_labels(class_labels, self.label_dropout, self.training))
        emb = F.silu(emb)
        skips = []
        for module in self.enc.values():
            x = module(x, emb) if isinstance(module, UNetBlock) else module(x)
            skips.append(x)
        for module in self.dec.values():
            if x.shape[1] != module.in_channels:
                x = torch.cat([x, skips.pop()], dim=1)
            x = module(x, emb)
        return self.out_conv(F.silu(self.out_norm(x)))


MODELS = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}
