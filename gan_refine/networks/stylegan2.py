"""StyleGAN2 (arXiv:1912.04958) with the parameter names and constructor arguments of StyleGAN2-ADA (arXiv:2006.06676) pickles.

The source of this module is embedded in pickles, so that they open in the published tools: it may import torch, numpy and only
those names of torch_utils that the published sources import.
"""

from __future__ import annotations  # embedded in pickles, it must load in older Pythons

import math

import torch
import torch.nn.functional as F

from torch_utils import misc, persistence
from torch_utils.ops import bias_act, conv2d_resample, fma, upfirdn2d

SQRT_HALF = math.sqrt(0.5)
FILTER = (1, 3, 3, 1)


def _unit_rms(x: torch.Tensor) -> torch.Tensor:
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def modulated_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    styles: torch.Tensor,
    noise: torch.Tensor | None = None,
    up: int = 1,
    padding: int = 0,
    resample_filter: torch.Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    fused: bool | None = None,
) -> torch.Tensor:
    """x [N, I, H, W] convolved with weight [O, I, k, k] scaled for each sample by styles [N, I] (eq. 1 and 3 of arXiv:1912.04958).

    `demodulate` brings the expected variance of each output channel back to one. `fused` scales the weights (a grouped
    convolution, or a product of matrices) instead of the activations, with the same result up to rounding; None chooses.
    """
    n = x.shape[0]
    out_channels, in_channels, kernel, _ = weight.shape
    misc.assert_shape(x, [n, in_channels, None, None])
    misc.assert_shape(styles, [n, in_channels])
    if fused is None:
        fused = _choose_grouped(x, weight)
    if x.dtype == torch.float16 and demodulate:  # the common scale cancels below; without this float16 overflows
        weight = weight / (math.sqrt(in_channels * kernel**2) * weight.abs().amax(dim=[1, 2, 3], keepdim=True))
        styles = styles / styles.abs().amax(dim=1, keepdim=True)
    scale = None
    if demodulate:
        scale = (styles.square() @ weight.square().sum(dim=[2, 3]).t() + 1e-8).rsqrt()  # [N, O]
    conv = {"f": resample_filter, "up": up, "padding": padding, "flip_weight": flip_weight}
    if fused:
        per_sample = weight[None] * styles.reshape(n, 1, -1, 1, 1)
        if scale is not None:
            per_sample = per_sample * scale.reshape(n, -1, 1, 1, 1)
        if kernel == up == 1 and not padding:
            rows = x.permute(0, 2, 3, 1)  # a product of matrices in either layout, without copies
            product = rows.reshape(n, -1, in_channels) @ per_sample.reshape(n, out_channels, -1).mT.to(x.dtype)
            x = product.reshape(*rows.shape[:3], out_channels).permute(0, 3, 1, 2)
            return x if noise is None else x + noise.to(x.dtype)
        merged = x.reshape(1, -1, *x.shape[2:])
        grouped = per_sample.reshape(-1, in_channels, kernel, kernel).to(x.dtype)
        merged = conv2d_resample.conv2d_resample(x=merged, w=grouped, groups=n, **conv)
        x = merged.reshape(n, out_channels, *merged.shape[2:])
        return x if noise is None else x + noise.to(x.dtype)
    x = x * styles.to(x.dtype).reshape(n, -1, 1, 1)
    x = conv2d_resample.conv2d_resample(x=x, w=weight.to(x.dtype), **conv)
    if scale is not None:
        scale = scale.to(x.dtype).reshape(n, -1, 1, 1)
        return x * scale if noise is None else fma.fma(x, scale, noise.to(x.dtype))
    return x if noise is None else x + noise.to(x.dtype)


def _choose_grouped(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """True for 1x1 kernels except on CUDA devices: what benchmarks/convolutions.py found faster.

    The rule looks at kernel and device only, so that the same seed gives the same bits. Graphs that are traced or compiled take
    the scaled form, because the grouped one fixes the batch size; so do empty batches, which have no groups.
    """
    compiler = getattr(torch, "compiler", None)  # absent in the older versions that published tools run on
    compiling = hasattr(compiler, "is_compiling") and compiler.is_compiling()
    if compiling or torch.jit.is_tracing() or 0 in x.shape:
        return False
    return weight.shape[-1] == 1 and x.device.type != "cuda"


@persistence.persistent_class
class FullyConnectedLayer(torch.nn.Module):
    """[N, in] -> [N, out] with weights kept at unit variance and scaled when used (equalized learning rate)."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str = "linear",
        lr_multiplier: float = 1,
        bias_init: float = 0,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.weight = torch.nn.Parameter(torch.randn([out_features, in_features]) / lr_multiplier)
        self.bias = torch.nn.Parameter(torch.full([out_features], float(bias_init))) if bias else None
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight.to(x.dtype) * self.weight_gain
        bias = None if self.bias is None else self.bias.to(x.dtype) * self.bias_gain
        if self.activation == "linear":
            return F.linear(x, weight, bias)
        return bias_act.bias_act(F.linear(x, weight), bias, act=self.activation)


@persistence.persistent_class
class Conv2dLayer(torch.nn.Module):
    """An unmodulated convolution with resampling, bias, activation, gain and clamp."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        bias: bool = True,
        activation: str = "linear",
        up: int = 1,
        down: int = 1,
        resample_filter: list[int] | tuple[int, ...] = FILTER,
        conv_clamp: float | None = None,
        channels_last: bool = False,
        trainable: bool = True,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.up = up
        self.down = down
        self.conv_clamp = conv_clamp
        self.register_buffer("resample_filter", upfirdn2d.setup_filter(list(resample_filter)))
        self.padding = kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        weight = torch.randn([out_channels, in_channels, kernel_size, kernel_size]).to(memory_format=layout)
        tensors = {"weight": weight, "bias": torch.zeros([out_channels]) if bias else None}
        for name, tensor in tensors.items():
            if trainable and tensor is not None:
                self.register_parameter(name, torch.nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)

    def forward(self, x: torch.Tensor, gain: float = 1) -> torch.Tensor:
        weight = (self.weight * self.weight_gain).to(x.dtype)
        x = conv2d_resample.conv2d_resample(
            x=x,
            w=weight,
            f=self.resample_filter,
            up=self.up,
            down=self.down,
            padding=self.padding,
            flip_weight=self.up == 1,
        )
        return _activate(x, self.bias, self.activation, gain, self.conv_clamp)


def _activate(x: torch.Tensor, bias: torch.Tensor | None, act: str, gain: float, clamp: float | None) -> torch.Tensor:
    """The layer's `gain` multiplies the activation's own gain and its clamp."""
    total = bias_act.activation_funcs[act].def_gain * gain
    limit = None if clamp is None else clamp * gain
    return bias_act.bias_act(x, None if bias is None else bias.to(x.dtype), act=act, gain=total, clamp=limit)


@persistence.persistent_class
class MappingNetwork(torch.nn.Module):
    """z [N, Z], c [N, C] -> ws [N, num_ws, W] (or [N, W] if num_ws is None); keeps the running mean of w for truncation."""

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        num_layers: int = 8,
        embed_features: int | None = None,
        layer_features: int | None = None,
        activation: str = "lrelu",
        lr_multiplier: float = 0.01,
        w_avg_beta: float | None = 0.995,
    ) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.num_ws = num_ws
        self.num_layers = num_layers
        self.w_avg_beta = w_avg_beta
        embed_features = (w_dim if embed_features is None else embed_features) if c_dim else 0
        hidden = w_dim if layer_features is None else layer_features
        widths = [z_dim + embed_features] + [hidden] * (num_layers - 1) + [w_dim]
        if c_dim:
            self.embed = FullyConnectedLayer(c_dim, embed_features)
        for index in range(num_layers):
            layer = FullyConnectedLayer(
                widths[index], widths[index + 1], activation=activation, lr_multiplier=lr_multiplier
            )
            setattr(self, f"fc{index}", layer)
        if num_ws is not None and w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros([w_dim]))

    def forward(
        self,
        z: torch.Tensor | None,
        c: torch.Tensor | None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        skip_w_avg_update: bool = False,
    ) -> torch.Tensor:
        parts = []
        if self.z_dim:
            misc.assert_shape(z, [None, self.z_dim])
            parts.append(_unit_rms(z.to(torch.float32)))
        if self.c_dim:
            misc.assert_shape(c, [None, self.c_dim])
            parts.append(_unit_rms(self.embed(c.to(torch.float32))))
        w = torch.cat(parts, dim=1)
        for index in range(self.num_layers):
            w = getattr(self, f"fc{index}")(w)
        if self.num_ws is None:
            return w
        if self.training and self.w_avg_beta is not None and not skip_w_avg_update:
            self.w_avg.copy_(w.detach().mean(dim=0).lerp(self.w_avg, self.w_avg_beta))
        ws = w[:, None].repeat(1, self.num_ws, 1)
        if truncation_psi == 1:
            return ws
        cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
        truncated = self.w_avg.lerp(ws[:, :cutoff], truncation_psi)
        return torch.cat([truncated, ws[:, cutoff:]], dim=1)


@persistence.persistent_class
class SynthesisLayer(torch.nn.Module):
    """Modulated convolution, noise, bias, activation. `noise_mode` is 'random', 'const' (a fixed buffer) or 'none'."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        kernel_size: int = 3,
        up: int = 1,
        use_noise: bool = True,
        activation: str = "lrelu",
        resample_filter: list[int] | tuple[int, ...] = FILTER,
        conv_clamp: float | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.up = up
        self.use_noise = use_noise
        self.activation = activation
        self.conv_clamp = conv_clamp
        self.padding = kernel_size // 2
        self.register_buffer("resample_filter", upfirdn2d.setup_filter(list(resample_filter)))
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        weight = torch.randn([out_channels, in_channels, kernel_size, kernel_size])
        self.weight = torch.nn.Parameter(weight.to(memory_format=layout))
        if use_noise:
            self.register_buffer("noise_const", torch.randn([resolution, resolution]))
            self.noise_strength = torch.nn.Parameter(torch.zeros([]))
        self.bias = torch.nn.Parameter(torch.zeros([out_channels]))

    def forward(
        self,
        x: torch.Tensor,
        w: torch.Tensor,
        noise_mode: str = "random",
        fused_modconv: bool | None = None,
        gain: float = 1,
    ) -> torch.Tensor:
        if noise_mode not in ("random", "const", "none"):
            raise ValueError(f"noise_mode is 'random', 'const' or 'none', got {noise_mode!r}")
        noise = None
        if self.use_noise and noise_mode == "random":
            noise = torch.randn([len(x), 1, self.resolution, self.resolution], device=x.device) * self.noise_strength
        if self.use_noise and noise_mode == "const":
            noise = self.noise_const * self.noise_strength
        x = modulated_conv2d(
            x,
            self.weight,
            self.affine(w),
            noise=noise,
            up=self.up,
            padding=self.padding,
            resample_filter=self.resample_filter,
            flip_weight=self.up == 1,
            fused=fused_modconv,
        )
        return _activate(x, self.bias, self.activation, gain, self.conv_clamp)


@persistence.persistent_class
class ToRGBLayer(torch.nn.Module):
    """Modulated 1x1 convolution to image channels, without demodulation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        kernel_size: int = 1,
        conv_clamp: float | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        weight = torch.randn([out_channels, in_channels, kernel_size, kernel_size])
        self.weight = torch.nn.Parameter(weight.to(memory_format=layout))
        self.bias = torch.nn.Parameter(torch.zeros([out_channels]))
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)

    def forward(self, x: torch.Tensor, w: torch.Tensor, fused_modconv: bool | None = None) -> torch.Tensor:
        styles = self.affine(w) * self.weight_gain
        x = modulated_conv2d(x, self.weight, styles, demodulate=False, fused=fused_modconv)
        return _activate(x, self.bias, "linear", 1, self.conv_clamp)


def _layout_of_features(channels_last: bool, dtype: torch.dtype, device: torch.device) -> torch.memory_format:
    """On a CPU the layout stays what the convolutions make of it."""
    if channels_last and dtype == torch.float16:
        return torch.channels_last
    return torch.preserve_format if device.type == "cpu" else torch.contiguous_format


@persistence.persistent_class
class SynthesisBlock(torch.nn.Module):
    """One resolution: features and image of half the size in, of this size out."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        img_channels: int,
        is_last: bool,
        architecture: str = "skip",
        resample_filter: list[int] | tuple[int, ...] = FILTER,
        conv_clamp: float | None = None,
        use_fp16: bool = False,
        fp16_channels_last: bool = False,
        **layer_kwargs,
    ) -> None:
        if architecture not in ("orig", "skip", "resnet"):
            raise ValueError(f"architecture is 'orig', 'skip' or 'resnet', got {architecture!r}")
        super().__init__()
        self.in_channels = in_channels
        self.w_dim = w_dim
        self.resolution = resolution
        self.architecture = architecture
        self.use_fp16 = use_fp16
        self.channels_last = use_fp16 and fp16_channels_last
        self.register_buffer("resample_filter", upfirdn2d.setup_filter(list(resample_filter)))
        common = {"conv_clamp": conv_clamp, "channels_last": self.channels_last}
        layer = {"w_dim": w_dim, "resolution": resolution, **common, **layer_kwargs}
        if in_channels == 0:
            self.const = torch.nn.Parameter(torch.randn([out_channels, resolution, resolution]))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, up=2, resample_filter=resample_filter, **layer)
        self.conv1 = SynthesisLayer(out_channels, out_channels, **layer)
        self.num_conv = 1 if in_channels == 0 else 2
        self.num_torgb = 0
        if is_last or architecture == "skip":
            self.torgb = ToRGBLayer(out_channels, img_channels, w_dim=w_dim, **common)
            self.num_torgb = 1
        if in_channels and architecture == "resnet":
            self.skip = Conv2dLayer(
                in_channels, out_channels, kernel_size=1, bias=False, up=2, resample_filter=resample_filter, **common
            )

    def forward(
        self,
        x: torch.Tensor | None,
        img: torch.Tensor | None,
        ws: torch.Tensor,
        force_fp32: bool = False,
        fused_modconv: bool | None = None,
        **layer_kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        misc.assert_shape(ws, [None, self.num_conv + self.num_torgb, self.w_dim])
        styles = iter(ws.unbind(dim=1))
        dtype = torch.float16 if self.use_fp16 and not force_fp32 and ws.device.type == "cuda" else torch.float32
        layout = _layout_of_features(self.channels_last, dtype, ws.device)
        layer = {"fused_modconv": fused_modconv, **layer_kwargs}
        if self.in_channels == 0:
            x = self.const.to(dtype, memory_format=torch.contiguous_format)[None].repeat(ws.shape[0], 1, 1, 1)
        else:
            x = x.to(dtype, memory_format=layout)
        if self.in_channels == 0:
            x = self.conv1(x, next(styles), **layer)
        elif self.architecture == "resnet":
            shortcut = self.skip(x, gain=SQRT_HALF)
            x = self.conv1(self.conv0(x, next(styles), **layer), next(styles), gain=SQRT_HALF, **layer)
            x = shortcut + x
        else:
            x = self.conv1(self.conv0(x, next(styles), **layer), next(styles), **layer)
        if img is not None:
            img = upfirdn2d.upsample2d(img, self.resample_filter)
        if self.num_torgb:
            rgb = self.torgb(x, next(styles), fused_modconv=fused_modconv)
            rgb = rgb.to(torch.float32, memory_format=torch.contiguous_format)
            img = rgb if img is None else img + rgb
        return x, img


@persistence.persistent_class
class SynthesisNetwork(torch.nn.Module):
    """ws [N, num_ws, W] -> images [N, C, R, R]; blocks b4, b8, ... bR, the last `num_fp16_res` in float16 on GPUs."""

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        **block_kwargs,
    ) -> None:
        super().__init__()
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.block_resolutions = _powers_of_two(4, img_resolution)
        first_fp16 = max(2 ** (int(math.log2(img_resolution)) + 1 - num_fp16_res), 8)
        self.num_ws = 0
        in_channels = 0
        for resolution in self.block_resolutions:
            out_channels = min(channel_base // resolution, channel_max)
            is_last = resolution == img_resolution
            block = SynthesisBlock(
                in_channels,
                out_channels,
                w_dim=w_dim,
                resolution=resolution,
                img_channels=img_channels,
                is_last=is_last,
                use_fp16=resolution >= first_fp16,
                **block_kwargs,
            )
            self.num_ws += block.num_conv + (block.num_torgb if is_last else 0)
            setattr(self, f"b{resolution}", block)
            in_channels = out_channels

    def forward(self, ws: torch.Tensor, **block_kwargs) -> torch.Tensor:
        misc.assert_shape(ws, [None, self.num_ws, self.w_dim])
        x = img = None
        first = 0
        for resolution in self.block_resolutions:
            block = getattr(self, f"b{resolution}")
            # A block's ToRGB shares its w with the next block's first convolution.
            own = ws.to(torch.float32).narrow(1, first, block.num_conv + block.num_torgb)
            x, img = block(x, img, own, **block_kwargs)
            first += block.num_conv
        return img


def _powers_of_two(first: int, last: int) -> list[int]:
    if last < first or last & (last - 1):
        raise ValueError(f"img_resolution is a power of two of at least {first}, got {last}")
    return [2**k for k in range(int(math.log2(first)), int(math.log2(last)) + 1)]


@persistence.persistent_class
class Generator(torch.nn.Module):
    """z [N, Z], c [N, C] -> images [N, channels, R, R], in [-1, 1] up to overshoot."""

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        mapping_kwargs: dict | None = None,
        synthesis_kwargs: dict | None = None,
    ) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.synthesis = SynthesisNetwork(w_dim, img_resolution, img_channels, **(synthesis_kwargs or {}))
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, num_ws=self.num_ws, **(mapping_kwargs or {}))

    def forward(
        self,
        z: torch.Tensor,
        c: torch.Tensor | None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        **synthesis_kwargs,
    ) -> torch.Tensor:
        ws = self.mapping(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)
        return self.synthesis(ws, **synthesis_kwargs)


@persistence.persistent_class
class DiscriminatorBlock(torch.nn.Module):
    """One resolution of the discriminator: features and image in, features (and image, for 'skip') of half the size out."""

    def __init__(
        self,
        in_channels: int,
        tmp_channels: int,
        out_channels: int,
        resolution: int,
        img_channels: int,
        first_layer_idx: int = 0,
        architecture: str = "resnet",
        activation: str = "lrelu",
        resample_filter: list[int] | tuple[int, ...] = FILTER,
        conv_clamp: float | None = None,
        use_fp16: bool = False,
        fp16_channels_last: bool = False,
        freeze_layers: int = 0,
    ) -> None:
        if architecture not in ("orig", "skip", "resnet"):
            raise ValueError(f"architecture is 'orig', 'skip' or 'resnet', got {architecture!r}")
        super().__init__()
        self.in_channels = in_channels
        self.resolution = resolution
        self.img_channels = img_channels
        self.architecture = architecture
        self.use_fp16 = use_fp16
        self.channels_last = use_fp16 and fp16_channels_last
        self.register_buffer("resample_filter", upfirdn2d.setup_filter(list(resample_filter)))
        self.num_layers = 0

        def layer(*args, **kwargs) -> Conv2dLayer:
            trainable = first_layer_idx + self.num_layers >= freeze_layers  # Freeze-D, arXiv:2002.10964
            self.num_layers += 1
            common = {"conv_clamp": conv_clamp, "channels_last": self.channels_last, "resample_filter": resample_filter}
            return Conv2dLayer(*args, trainable=trainable, **common, **kwargs)

        if in_channels == 0 or architecture == "skip":
            self.fromrgb = layer(img_channels, tmp_channels, kernel_size=1, activation=activation)
        self.conv0 = layer(tmp_channels, tmp_channels, kernel_size=3, activation=activation)
        self.conv1 = layer(tmp_channels, out_channels, kernel_size=3, activation=activation, down=2)
        if architecture == "resnet":
            self.skip = layer(tmp_channels, out_channels, kernel_size=1, bias=False, down=2)

    def forward(
        self, x: torch.Tensor | None, img: torch.Tensor | None, force_fp32: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        device = (img if x is None else x).device
        dtype = torch.float16 if self.use_fp16 and not force_fp32 and device.type == "cuda" else torch.float32
        layout = _layout_of_features(self.channels_last, dtype, device)
        if x is not None:
            x = x.to(dtype, memory_format=layout)
        if self.in_channels == 0 or self.architecture == "skip":
            img = img.to(dtype, memory_format=layout)
            rgb = self.fromrgb(img)
            x = rgb if x is None else x + rgb
            img = upfirdn2d.downsample2d(img, self.resample_filter) if self.architecture == "skip" else None
        if self.architecture == "resnet":
            shortcut = self.skip(x, gain=SQRT_HALF)
            return shortcut + self.conv1(self.conv0(x), gain=SQRT_HALF), img
        return self.conv1(self.conv0(x)), img


@persistence.persistent_class
class MinibatchStdLayer(torch.nn.Module):
    """Appends channels with the mean standard deviation over groups of the batch (arXiv:1710.10196, section 3)."""

    def __init__(self, group_size: int | None, num_channels: int = 1) -> None:
        super().__init__()
        self.group_size = group_size
        self.num_channels = num_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        group = n if self.group_size is None else min(self.group_size, n)
        # Sample i belongs to group i mod (n / group): groups are strided, not consecutive.
        y = x.reshape(group, -1, self.num_channels, c // self.num_channels, h, w)
        y = y - y.mean(dim=0)
        deviation = (y.square().mean(dim=0) + 1e-8).sqrt().mean(dim=[2, 3, 4])  # [n / group, num_channels]
        extra = deviation.reshape(-1, self.num_channels, 1, 1).repeat(group, 1, h, w)
        return torch.cat([x, extra], dim=1)


@persistence.persistent_class
class DiscriminatorEpilogue(torch.nn.Module):
    """The last 4x4 features to one logit a sample, projected on the mapped label if there is one."""

    def __init__(
        self,
        in_channels: int,
        cmap_dim: int,
        resolution: int,
        img_channels: int,
        architecture: str = "resnet",
        mbstd_group_size: int | None = 4,
        mbstd_num_channels: int = 1,
        activation: str = "lrelu",
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.cmap_dim = cmap_dim
        self.architecture = architecture
        if architecture == "skip":
            self.fromrgb = Conv2dLayer(img_channels, in_channels, kernel_size=1, activation=activation)
        self.mbstd = MinibatchStdLayer(mbstd_group_size, mbstd_num_channels) if mbstd_num_channels else None
        self.conv = Conv2dLayer(
            in_channels + mbstd_num_channels, in_channels, kernel_size=3, activation=activation, conv_clamp=conv_clamp
        )
        self.fc = FullyConnectedLayer(in_channels * resolution**2, in_channels, activation=activation)
        self.out = FullyConnectedLayer(in_channels, cmap_dim or 1)

    def forward(self, x: torch.Tensor, img: torch.Tensor | None, cmap: torch.Tensor | None) -> torch.Tensor:
        x = x.to(torch.float32, memory_format=_layout_of_features(False, torch.float32, x.device))
        if self.architecture == "skip":
            x = x + self.fromrgb(img.to(torch.float32))
        if self.mbstd is not None:
            x = self.mbstd(x)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        if self.cmap_dim:
            x = (x * cmap).sum(dim=1, keepdim=True) / math.sqrt(self.cmap_dim)
        return x


@persistence.persistent_class
class Discriminator(torch.nn.Module):
    """Images [N, C, R, R], c [N, K] -> logits [N, 1], positive for images that look real."""

    def __init__(
        self,
        c_dim: int,
        img_resolution: int,
        img_channels: int,
        architecture: str = "resnet",
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        conv_clamp: float | None = None,
        cmap_dim: int | None = None,
        block_kwargs: dict | None = None,
        mapping_kwargs: dict | None = None,
        epilogue_kwargs: dict | None = None,
    ) -> None:
        super().__init__()
        self.c_dim = c_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        resolutions = _powers_of_two(4, img_resolution)[::-1]
        self.block_resolutions = resolutions[:-1]
        width = {r: min(channel_base // r, channel_max) for r in resolutions}
        first_fp16 = max(2 ** (int(math.log2(img_resolution)) + 1 - num_fp16_res), 8)
        cmap_dim = (width[4] if cmap_dim is None else cmap_dim) if c_dim else 0
        common = {"img_channels": img_channels, "architecture": architecture, "conv_clamp": conv_clamp}
        layers = 0
        for resolution in self.block_resolutions:
            block = DiscriminatorBlock(
                width[resolution] if resolution < img_resolution else 0,
                width[resolution],
                width[resolution // 2],
                resolution=resolution,
                first_layer_idx=layers,
                use_fp16=resolution >= first_fp16,
                **(block_kwargs or {}),
                **common,
            )
            setattr(self, f"b{resolution}", block)
            layers += block.num_layers
        if c_dim:
            self.mapping = MappingNetwork(
                z_dim=0, c_dim=c_dim, w_dim=cmap_dim, num_ws=None, w_avg_beta=None, **(mapping_kwargs or {})
            )
        self.b4 = DiscriminatorEpilogue(width[4], cmap_dim=cmap_dim, resolution=4, **(epilogue_kwargs or {}), **common)

    def forward(self, img: torch.Tensor, c: torch.Tensor | None, **block_kwargs) -> torch.Tensor:
        x = None
        for resolution in self.block_resolutions:
            x, img = getattr(self, f"b{resolution}")(x, img, **block_kwargs)
        return self.b4(x, img, self.mapping(None, c) if self.c_dim else None)
