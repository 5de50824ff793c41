"""StyleGAN2 networks of TensorFlow pickles, converted: variables and arguments are renamed, axes are reordered."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from gan_refine.networks.stylegan2 import Discriminator, Generator
from gan_refine.pickles.arguments import plain_arguments
from gan_refine.pickles.bounds import BoundedFactories
from gan_refine.pickles.records import MAX_NAME, TENSORFLOW_NETWORK, ArrayRecord, DamagedError, PlainObject, printable

OLDEST_VERSION = 4
MAX_COMPONENTS = 64  # published: mapping and synthesis

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Argument:
    """A static_kwarg: where it goes in our constructor ("a.b" is b in the dict a), and what it is when absent or None."""

    targets: tuple[str, ...]
    default: object = None
    none: object = None
    factor: int = 1


SIDES = ("resolution_w", "resolution_h")
# Arguments that decide how a network was called and trained, and nothing that its variables do not say.
OF_CALLS = (
    *("truncation_psi", "truncation_cutoff", "truncation_psi_val", "truncation_cutoff_val", "style_mixing_prob"),
    *("dlatent_avg_beta", "is_training", "is_validation", "is_template_graph", "return_dlatents", "randomize_noise"),
    *("mapping_func", "synthesis_func", "dtype", "fused_modconv", "force_clean_graph", "dlatent_broadcast"),
)
_SHARED = {
    "label_size": Argument(("c_dim",), 0),
    "resolution": Argument(("img_resolution",), 1024),
    "num_channels": Argument(("img_channels",), 3),
    "structure": Argument(()),  # how TensorFlow built its graph
    **{name: Argument(()) for name in SIDES},  # checked by `_check_square`
    **{name: Argument(()) for name in OF_CALLS},
}


def _widths(prefix: str) -> dict[str, Argument]:
    return {
        "fmap_base": Argument((f"{prefix}channel_base",), 16384, factor=2),
        "fmap_max": Argument((f"{prefix}channel_max",), 512),
        "num_fp16_res": Argument((f"{prefix}num_fp16_res",), 0),
        "conv_clamp": Argument((f"{prefix}conv_clamp",)),
    }


GENERATOR_ARGUMENTS = {
    **_SHARED,
    **_widths("synthesis_kwargs."),
    "latent_size": Argument(("z_dim",), 512),
    "dlatent_size": Argument(("w_dim",), 512),
    "mapping_layers": Argument(("mapping_kwargs.num_layers",), 8),
    "label_fmaps": Argument(("mapping_kwargs.embed_features",)),
    "mapping_fmaps": Argument(("mapping_kwargs.layer_features",)),
    "mapping_nonlinearity": Argument(("mapping_kwargs.activation",), "lrelu"),
    "mapping_lrmul": Argument(("mapping_kwargs.lr_multiplier",), 0.01),
    "w_avg_beta": Argument(("mapping_kwargs.w_avg_beta",), 0.995, none=1),  # None: the average never moves
    "architecture": Argument(("synthesis_kwargs.architecture",), "skip"),
    "resample_kernel": Argument(("synthesis_kwargs.resample_filter",), [1, 3, 3, 1]),
    "use_noise": Argument(("synthesis_kwargs.use_noise",), True),
    "nonlinearity": Argument(("synthesis_kwargs.activation",), "lrelu"),
}
DISCRIMINATOR_ARGUMENTS = {
    **_SHARED,
    **_widths(""),
    "architecture": Argument(("architecture",), "resnet"),
    "mapping_fmaps": Argument(("cmap_dim", "mapping_kwargs.embed_features", "mapping_kwargs.layer_features")),
    "mapping_layers": Argument(("mapping_kwargs.num_layers",), 0),
    "mapping_lrmul": Argument(("mapping_kwargs.lr_multiplier",), 0.1),
    "nonlinearity": Argument(
        ("block_kwargs.activation", "mapping_kwargs.activation", "epilogue_kwargs.activation"), "lrelu"
    ),
    "resample_kernel": Argument(("block_kwargs.resample_filter",), [1, 3, 3, 1]),
    "freeze_layers": Argument(("block_kwargs.freeze_layers",), 0),
    "mbstd_group_size": Argument(("epilogue_kwargs.mbstd_group_size",)),
    "mbstd_num_features": Argument(("epilogue_kwargs.mbstd_num_channels",), 1),
}


@dataclass(frozen=True)
class Source:
    """The TensorFlow variable that a parameter comes from, and how its numbers are brought into our order."""

    name: str
    convert: Callable[[np.ndarray], np.ndarray]


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _dense(array: np.ndarray) -> np.ndarray:
    return array.transpose()  # [in, out] -> [out, in]


def _conv(array: np.ndarray) -> np.ndarray:
    return array.transpose(3, 2, 0, 1)  # [h, w, in, out] -> [out, in, h, w]


def _up_conv(array: np.ndarray) -> np.ndarray:
    return _conv(array[::-1, ::-1])  # TensorFlow's transposed convolution turns its kernel


def _style_bias(array: np.ndarray) -> np.ndarray:
    return array + 1


def _first(array: np.ndarray) -> np.ndarray:
    return array[0]  # a batch of one


def _first_map(array: np.ndarray) -> np.ndarray:
    return array[0, 0]  # a batch of one with one channel


def convert_generator(graph: PlainObject, file_size: int) -> torch.nn.Module:
    """The generator in evaluation mode without gradients, of a file of `file_size` bytes.

    Raises DamagedError, which names what is unknown, missing or of another shape.
    """
    kwargs = _constructor_arguments(graph, GENERATOR_ARGUMENTS)
    arrays = network_arrays(graph)
    if _rename_levels(arrays, r"synthesis/ToRGB_lod(\d+)/(.*)", "synthesis/{0}x{0}/ToRGB/{1}", kwargs):
        kwargs["synthesis_kwargs"] = {**_dict(kwargs["synthesis_kwargs"]), "architecture": "orig"}
    if not _dict(kwargs["synthesis_kwargs"])["use_noise"]:  # the inputs exist there nonetheless
        arrays = {name: array for name, array in arrays.items() if not re.fullmatch(r"synthesis/noise\d+", name)}
    return _fill(Generator, kwargs, arrays, _generator_source, file_size)


def convert_discriminator(graph: PlainObject, file_size: int) -> torch.nn.Module:
    """As convert_generator, for the discriminator."""
    kwargs = _constructor_arguments(graph, DISCRIMINATOR_ARGUMENTS)
    arrays = network_arrays(graph)
    if _rename_levels(arrays, r"FromRGB_lod(\d+)/(.*)", "{0}x{0}/FromRGB/{1}", kwargs):
        kwargs["architecture"] = "orig"
    return _fill(Discriminator, kwargs, arrays, _discriminator_source, file_size)


def _dict(value: object) -> dict[str, object]:
    assert isinstance(value, dict), "_constructor_arguments made it"
    return value


def _constructor_arguments(graph: PlainObject, known: Mapping[str, Argument]) -> dict[str, object]:
    version = graph.state.get("version")
    if not isinstance(version, int) or version < OLDEST_VERSION:
        raise DamagedError(f"its version is {printable(version)}; known are those from {OLDEST_VERSION} on")
    given = plain_arguments(graph.state.get("static_kwargs"), "static_kwargs")
    if not isinstance(given, dict):
        raise DamagedError("its static_kwargs are not recorded")
    unknown = [str(name) for name in given if name not in known]
    if unknown:
        raise DamagedError(f"it has the unknown static_kwargs {', '.join(unknown[:4])}; known are {', '.join(known)}")
    _check_square(given, known["resolution"].default)
    result: dict[str, object] = {}
    for name, argument in known.items():
        value = given.get(name, argument.default)
        value = argument.none if value is None else value
        for target in argument.targets:
            outer, _, inner = target.rpartition(".")
            holder = result if not outer else _dict(result.setdefault(outer, {}))
            holder[inner] = value if argument.factor == 1 else argument.factor * _number(value, name)
    return result


def _check_square(given: Mapping[str, object], default: object) -> None:
    """Some forks state the width and the height too."""
    resolution = given.get("resolution", default)
    sides = [given[name] for name in SIDES if given.get(name) is not None]
    if any(side != resolution for side in sides):
        stated = " x ".join(printable(side) for side in sides)
        raise DamagedError(
            f"its images are {stated} at a resolution of {printable(resolution)}; only square ones are known"
        )


def _number(value: object, name: str) -> int:
    if not isinstance(value, int | float):
        raise DamagedError(f"its static_kwarg {name} is a {type(value).__name__}, not a number")
    return int(value)


def network_arrays(graph: PlainObject) -> Arrays:
    """Every variable of the network and its components, by its path."""
    found: Arrays = {}
    pending: list[tuple[str, object]] = [("", graph)]
    visited = 0
    while pending:
        prefix, current = pending.pop()
        visited += 1
        if visited > MAX_COMPONENTS:
            raise DamagedError(f"it has over {MAX_COMPONENTS} components")
        if not isinstance(current, PlainObject) or current.class_name != TENSORFLOW_NETWORK:
            raise DamagedError(f"its component {prefix} is not a network")
        for name, value in _named_arrays(current):
            if len(prefix) + len(name) > MAX_NAME:
                raise DamagedError(f"a variable's name is longer than {MAX_NAME} characters")
            if prefix + name in found:
                raise DamagedError(f"its variable {prefix}{name} occurs twice")
            found[prefix + name] = value
        components = current.state.get("components", {})
        if not isinstance(components, dict):
            raise DamagedError("its components are not a dict")
        pending += [(f"{prefix}{name}/", component) for name, component in components.items()]
    return found


def _named_arrays(graph: PlainObject) -> Iterator[tuple[str, np.ndarray]]:
    variables = graph.state.get("variables", [])
    for entry in variables if isinstance(variables, list | tuple) else [None]:
        if not isinstance(entry, tuple | list) or len(entry) != 2 or not isinstance(entry[0], str):
            raise DamagedError("its variables are not a list of names with arrays")
        name, value = entry
        if not isinstance(value, ArrayRecord | np.generic | float):
            raise DamagedError(f"its variable {name} is a {type(value).__name__}, not an array")
        array = value.array() if isinstance(value, ArrayRecord) else np.asarray(value)
        if array.dtype.kind != "f":
            raise DamagedError(f"its variable {name} is not of floating-point numbers")
        yield name, array


def _rename_levels(arrays: Arrays, pattern: str, template: str, kwargs: Mapping[str, object]) -> bool:
    """Gives variables that count levels of detail from the full resolution down the names of resolutions; True if any did."""
    found = {name: match for name in arrays if (match := re.fullmatch(pattern, name))}
    for name, match in found.items():
        resolution = _number(kwargs["img_resolution"], "resolution") >> min(int(match[1][:4]), 64)
        arrays[template.format(resolution, match[2])] = arrays.pop(name)
    return bool(found)


def _fill(
    cls: Callable[..., torch.nn.Module],
    kwargs: Mapping[str, object],
    arrays: Arrays,
    source_of: Callable[[str], Source],
    file_size: int,
) -> torch.nn.Module:
    """A PyTorch network with every parameter and buffer from its variable; every variable must be used."""
    numbers = sum(array.size for array in arrays.values())
    with BoundedFactories(min(numbers, file_size)):  # one array may be there under many names
        net = cls(**kwargs)
    targets = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    targets = {name: target for name, target in targets.items() if not name.endswith("resample_filter")}
    sources = {name: source_of(name) for name in targets}
    missing = [source.name for source in sources.values() if source.name not in arrays]
    unknown = sorted(arrays.keys() - {source.name for source in sources.values()})
    for what, names in (("lacks the variable", missing), ("has the unknown variable", unknown)):
        if names:
            raise DamagedError(f"it {what} {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}")
    with torch.no_grad():
        for name, target in targets.items():
            _copy(arrays[sources[name].name], sources[name], target)
    return net.eval().requires_grad_(False)


def _copy(array: np.ndarray, source: Source, target: torch.Tensor) -> None:
    try:
        converted = np.asarray(source.convert(array))
    except (ValueError, IndexError) as error:
        raise DamagedError(f"it has the variable {source.name} in the shape {list(array.shape)}") from error
    if converted.shape != tuple(target.shape):
        got, wanted = list(converted.shape), list(target.shape)
        raise DamagedError(f"it has the variable {source.name} in another shape (converted {got}, expected {wanted})")
    target.copy_(torch.from_numpy(np.array(converted, dtype=converted.dtype.newbyteorder("="))))


_MODULATED = {
    "weight": ("weight", _conv),
    "bias": ("bias", _same),
    "affine.weight": ("mod_weight", _dense),
    "affine.bias": ("mod_bias", _style_bias),
    "noise_strength": ("noise_strength", _same),
}
_PLAIN = {"weight": ("weight", _conv), "bias": ("bias", _same)}
_FULL = {"weight": ("weight", _dense), "bias": ("bias", _same)}
_GENERATOR_LAYERS = {"conv0": "Conv0_up", "conv1": "Conv1", "torgb": "ToRGB", "skip": "Skip"}
_DISCRIMINATOR_LAYERS = {"fromrgb": "FromRGB", "conv0": "Conv0", "conv1": "Conv1_down", "skip": "Skip", "conv": "Conv"}


def _generator_source(name: str) -> Source:
    """Of a parameter such as synthesis.b8.conv0.affine.weight or mapping.fc0.bias."""
    part, layer, rest = name.split(".", 2) if name.count(".") > 1 else (*name.split("."), "")
    if part == "mapping":
        return Source("dlatent_avg", _same) if layer == "w_avg" else _mapping_source(layer, rest, "mapping/", "Dense")
    resolution = int(layer.removeprefix("b"))
    inner, _, parameter = rest.partition(".")
    folder = f"synthesis/{resolution}x{resolution}"
    if inner == "const":
        return Source(f"{folder}/Const/const", _first)
    if parameter == "noise_const":  # noise0 at 4x4, then two for each resolution
        return Source(f"synthesis/noise{2 * int(math.log2(resolution)) - (5 if inner == 'conv0' else 4)}", _first_map)
    own, convert = _MODULATED[parameter]
    if parameter == "weight" and inner in ("conv0", "skip"):
        convert = _up_conv
    own_layer = "Conv" if (resolution, inner) == (4, "conv1") else _GENERATOR_LAYERS[inner]
    return Source(f"{folder}/{own_layer}/{own}", convert)


def _discriminator_source(name: str) -> Source:
    """Of a parameter such as b8.conv0.weight, b4.fc.bias or mapping.embed.weight."""
    part, layer, parameter = name.split(".")
    if part == "mapping":
        return _mapping_source(layer, parameter, "", "Mapping")
    resolution = int(part.removeprefix("b"))
    if layer in ("fc", "out"):
        own, convert = _FULL[parameter]
        return Source(f"{resolution}x{resolution}/Dense0/{own}" if layer == "fc" else f"Output/{own}", convert)
    own, convert = _PLAIN[parameter]
    return Source(f"{resolution}x{resolution}/{_DISCRIMINATOR_LAYERS[layer]}/{own}", convert)


def _mapping_source(layer: str, parameter: str, prefix: str, numbered: str) -> Source:
    own, convert = _FULL[parameter]
    own_layer = "LabelEmbed" if layer == "embed" else f"{numbered}{layer.removeprefix('fc')}"
    return Source(f"{prefix}{own_layer}/{own}", convert)
