"""Networks built from the inert object graph: its arguments and structure decide which, weights are copied by name."""

from collections.abc import Callable, Mapping

import torch

from gan_refine.errors import FileFormatError
from gan_refine.finite import require_finite_module
from gan_refine.networks.edm_precond import PRECONDITIONINGS
from gan_refine.networks.edm_unet import MODELS
from gan_refine.networks.stylegan2 import Discriminator, Generator
from gan_refine.pickles.arguments import plain_arguments
from gan_refine.pickles.bounds import BoundedFactories
from gan_refine.pickles.contents import why_no_network, words
from gan_refine.pickles.records import (
    DAMAGE_ERRORS,
    DamagedError,
    PersistentObject,
    PickleFile,
    PlainObject,
    TensorRecord,
    child_module,
    error_text,
    named_tensors,
    printable,
)
from gan_refine.pickles.state_dicts import StateDict
from gan_refine.pickles.tensorflow import convert_discriminator, convert_generator

NetworkFile = PickleFile | StateDict
DEFAULT_NETWORK = "G_ema"  # the generator's weight average, in a GAN's file
GENERATORS: dict[str, Callable[..., torch.nn.Module]] = {"stylegan2": Generator}
KNOWN_CLASSES = (*GENERATORS, *PRECONDITIONINGS)
TENSORFLOW_GENERATORS = ("G_ema", "G")
TEACHER_KEYS = ("ema", "G_ema")
EMPTY = "torch.nn.modules.container.Sequential"  # what `write_gan` writes where a file needs a D and has none
_GENERATOR_ARGUMENTS = (
    "z_dim",
    "c_dim",
    "w_dim",
    "img_resolution",
    "img_channels",
    "mapping_kwargs",
    "synthesis_kwargs",
)
_DISCRIMINATOR_ARGUMENTS = ("c_dim", "img_resolution", "img_channels")
_PRECOND_ARGUMENTS = ("img_resolution", "img_channels", "label_dim", "use_fp16")
_FUSION_ONLY = "fused_modconv_default"  # an argument of StyleGAN3's edition that changes speed and no value


def build_generator(file: NetworkFile, which: str = DEFAULT_NETWORK) -> torch.nn.Module:
    """The StyleGAN2 generator under key `which`: float32 weights of the file, evaluation mode, no gradients.

    Raises FileFormatError for files without it, for other networks, and for weights that do not fit by name and shape.
    """
    if isinstance(file, StateDict):
        return _only_network(file, which, "generator")
    if file.tensorflow():
        return _tensorflow_generator(file, which)
    networks = file.networks()
    teacher = next((key for key in TEACHER_KEYS if _is_teacher(networks.get(key))), None)
    if teacher is not None:
        use = "pass it as --teacher, or make a generator of it with --gan=one-step:FILE"
        raise FileFormatError(f"{file.path} is an EDM teacher ({networks[teacher].class_name}); {use}")
    if which not in networks:
        raise FileFormatError(why_no_network(file, which, "expected a StyleGAN2 pickle"))
    graph = networks[which]
    if graph.class_name != "Generator":
        name = printable(graph.class_name)
        raise FileFormatError(f"{file.path}: {which} is of class {name}; expected a StyleGAN2 Generator, such as G_ema")
    return _build_safely(file, which, lambda: _generator(file, graph))


def build_teacher(file: NetworkFile) -> torch.nn.Module:
    """The EDM network under 'ema', or 'G_ema' as one-step training states name it, in float32 and evaluation mode, frozen.

    Raises FileFormatError for files without it, for other networks, and for weights that do not fit by name and shape.
    """
    if isinstance(file, StateDict):
        return _only_network(file, "ema", "teacher")
    networks = file.networks()
    key = next((key for key in TEACHER_KEYS if _is_teacher(networks.get(key))), "ema")
    held = networks or file.tensorflow()
    generator = next((name for name in ("G_ema", "G", "D") if name in held), None)
    if generator is not None and key not in networks:
        raise FileFormatError(f"{file.path} is a GAN (it holds {generator}); pass it as --gan")
    if key not in networks:
        raise FileFormatError(why_no_network(file, key, "expected an EDM network pickle"))
    graph = networks[key]
    if not _is_teacher(graph):
        known = ", ".join(PRECONDITIONINGS)
        raise FileFormatError(f"{file.path}: {key} is of class {printable(graph.class_name)}; known are {known}")
    return _build_safely(file, key, lambda: _teacher(file, graph))


def _is_teacher(graph: PersistentObject | None) -> bool:
    return graph is not None and graph.class_name in PRECONDITIONINGS


def build_discriminator(file: NetworkFile) -> torch.nn.Module | None:
    """The StyleGAN2 discriminator under 'D', or None if the file has none of that class: float32 weights, no gradients.

    Raises FileFormatError for weights that do not fit by name and shape.
    """
    if isinstance(file, StateDict):
        return None
    if file.tensorflow():
        return _build_safely(file, "D", lambda: convert_discriminator(file.tensorflow()["D"], len(file.data)))
    graph = file.networks().get("D")
    if graph is None or not _is_discriminator(graph):
        return None
    return _build_safely(file, "D", lambda: _discriminator(file, graph))


def foreign_discriminator(file: NetworkFile) -> str | None:
    """What the file holds under 'D', in words, if that is no StyleGAN2 discriminator; else None."""
    root = file.root if isinstance(file, PickleFile) and isinstance(file.root, dict) else {}
    found = root.get("D")
    if found is None or _is_discriminator(found):
        return None
    return None if isinstance(found, PlainObject) and found.class_name == EMPTY else words(found)


def _is_discriminator(found: object) -> bool:
    if not isinstance(found, PersistentObject) or found.class_name != "Discriminator":
        return False
    try:
        return child_module(found, "b4") is not None
    except DamagedError:
        return False


def _tensorflow_generator(file: PickleFile, which: str) -> torch.nn.Module:
    if which not in TENSORFLOW_GENERATORS:
        allowed = ", ".join(TENSORFLOW_GENERATORS)
        raise FileFormatError(f"{file.path} has no generator {which!r}; choose one of {allowed}")
    return _build_safely(file, which, lambda: convert_generator(file.tensorflow()[which], len(file.data)))


def _only_network(file: StateDict, which: str, kind: str) -> torch.nn.Module:
    classes = dict(GENERATORS if kind == "generator" else PRECONDITIONINGS)
    if file.class_name not in classes:
        option = "teacher" if file.class_name in PRECONDITIONINGS else "gan"
        advice = (
            f"pass it as --{option}" if file.class_name in KNOWN_CLASSES else f"known are {', '.join(KNOWN_CLASSES)}"
        )
        raise FileFormatError(f"{file.json_path}: class {printable(file.class_name)!r} is not a {kind}; {advice}")
    if which not in ("G_ema", "ema"):
        raise FileFormatError(f"{file.path} holds one network and none called {which!r}; leave the choice out")
    return _build_safely(file, which, lambda: _from_state_dict(file, classes[file.class_name]))


def _from_state_dict(file: StateDict, cls: Callable[..., torch.nn.Module]) -> torch.nn.Module:
    kwargs = plain_arguments(file.init_kwargs, "init_kwargs")
    if not isinstance(kwargs, dict):
        raise DamagedError("its init_kwargs are not a dict")
    with BoundedFactories(sum(tensor.numel() for tensor in file.tensors.values())):
        module = cls(**kwargs)
    _copy(file.tensors, file.tensors.__getitem__, module)
    return module.eval().requires_grad_(False)


def _discriminator(file: PickleFile, graph: PersistentObject) -> torch.nn.Module:
    kwargs = _constructor_arguments(graph, _DISCRIMINATOR_ARGUMENTS)
    conv = child_module(graph, f"b{kwargs.get('img_resolution')}", "conv0")
    if conv is not None and "conv_clamp" in conv.state:  # the editions' defaults differ
        kwargs.setdefault("conv_clamp", plain_arguments(conv.state["conv_clamp"], "conv_clamp"))
    return _construct(file, graph, Discriminator, kwargs)


def _build_safely(file: NetworkFile, which: str, build: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    try:
        with torch.random.fork_rng(devices=[]):  # initial weights are overwritten: the caller's random state stays
            return require_finite_module(build(), f"{file.path}, {which}")
    except DamagedError as error:
        raise FileFormatError(f"{file.path}: {which} cannot be built: {printable(error)}") from error
    except DAMAGE_ERRORS as error:
        raise FileFormatError(
            f"{file.path}: {which} does not fit the network it names ({error_text(error)})"
        ) from error


def _generator(file: PickleFile, graph: PersistentObject) -> torch.nn.Module:
    if child_module(graph, "synthesis", "input") is not None:
        raise DamagedError("it is StyleGAN3's alias-free Generator; this program refines StyleGAN2 generators")
    first = child_module(graph, "synthesis", "b4", "conv1")
    if first is None or child_module(graph, "mapping") is None:
        raise DamagedError("it is a Generator of another family than StyleGAN2 (no mapping or no synthesis.b4)")
    kwargs = _constructor_arguments(graph, _GENERATOR_ARGUMENTS)
    synthesis = {key: kwargs.pop(key) for key in list(kwargs) if key not in _GENERATOR_ARGUMENTS}  # StyleGAN3's edition
    nested = kwargs.get("synthesis_kwargs") or {}
    if not isinstance(nested, dict):
        raise DamagedError("synthesis_kwargs is not a dict")
    combined = _structure(graph) | synthesis | nested
    combined.pop(_FUSION_ONLY, None)
    return _construct(file, graph, Generator, kwargs | {"synthesis_kwargs": combined})


def _structure(graph: PersistentObject) -> dict[str, object]:
    """Arguments whose defaults differ between editions of StyleGAN, read from this network's blocks instead of assumed."""
    synthesis = child_module(graph, "synthesis")
    assert synthesis is not None, "the caller found synthesis.b4"
    names = [name for name in _table(synthesis, "_modules") if name.startswith("b")]
    blocks = [block for block in (child_module(synthesis, name) for name in names) if block is not None]
    first, conv = child_module(synthesis, "b4"), child_module(synthesis, "b4", "conv1")
    assert first is not None and conv is not None, "the caller found synthesis.b4.conv1"
    found: dict[str, object] = {"num_fp16_res": sum(block.state.get("use_fp16") is True for block in blocks)}
    for key, holder in (("architecture", first), ("conv_clamp", conv), ("use_noise", conv), ("activation", conv)):
        if key in holder.state:
            found[key] = plain_arguments(holder.state[key], key)
    return found


def _teacher(file: PickleFile, graph: PersistentObject) -> torch.nn.Module:
    kwargs = _constructor_arguments(graph, _PRECOND_ARGUMENTS)
    model = child_module(graph, "model")
    if model is None or model.class_name not in MODELS:
        name = "nothing" if model is None else model.class_name
        raise DamagedError(f"its model is {name}; known are {', '.join(MODELS)}")
    kwargs["model_type"] = model.class_name
    return _construct(file, graph, PRECONDITIONINGS[graph.class_name], kwargs)


def _construct(
    file: PickleFile, graph: PersistentObject, cls: Callable[..., torch.nn.Module], kwargs: Mapping[str, object]
) -> torch.nn.Module:
    records = named_tensors(graph)
    numbers = sum(record.numel() for record in records.values())
    with BoundedFactories(min(numbers, len(file.data))):  # tensors may overlap, so that they seem to be more
        module = cls(**kwargs)
    copy_weights(file, records, module)
    return module.eval().requires_grad_(False)


def copy_weights(file: PickleFile, records: Mapping[str, TensorRecord], module: torch.nn.Module) -> None:
    """Fills every parameter and buffer; DamagedError names those that are missing, unknown or of another shape."""
    _copy(records, lambda name: file.tensor(records[name]), module)


def _copy(
    held: Mapping[str, TensorRecord] | Mapping[str, torch.Tensor],
    tensor: Callable[[str], torch.Tensor],
    module: torch.nn.Module,
) -> None:
    own = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    shared = [name for name in own if name in held]
    problems = {
        "lacks": [name for name in own if name not in held],
        "has the unknown": [name for name in held if name not in own],
        "has in another shape": [name for name in shared if own[name].shape != held[name].shape],
        "has complex numbers in": [name for name in shared if held[name].dtype.is_complex],
    }
    for what, names in problems.items():
        if names:
            raise DamagedError(f"it {what} {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}")
    with torch.no_grad():
        for name, target in own.items():
            target.copy_(tensor(name))


def _constructor_arguments(graph: PersistentObject, names: tuple[str, ...]) -> dict[str, object]:
    """The remembered arguments by name; positional ones are named by their place."""
    args = plain_arguments(graph.state.get("_init_args", ()), "_init_args")
    kwargs = plain_arguments(graph.state.get("_init_kwargs", {}), "_init_kwargs")
    if not isinstance(args, list) or not isinstance(kwargs, dict) or not all(isinstance(key, str) for key in kwargs):
        raise DamagedError("its constructor's arguments are not recorded")
    if len(args) > len(names):
        raise DamagedError(f"its constructor got {len(args)} positional arguments; known are {', '.join(names)}")
    return dict(zip(names, args, strict=False)) | kwargs


def _table(module: PersistentObject | PlainObject, name: str) -> dict[str, object]:
    table = module.state.get(name)
    return {key: value for key, value in table.items() if isinstance(key, str)} if isinstance(table, dict) else {}
