"""What is in a network file, found without building a network: records of plain values for `inspect`."""

import hashlib
import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeGuard

from gan_refine.errors import FileFormatError
from gan_refine.networks import edm_precond, edm_unet, stylegan2
from gan_refine.networks.edm_precond import PRECONDITIONINGS
from gan_refine.pickles.archives import ZIP_START, written_by_torch
from gan_refine.pickles.arguments import plain_arguments
from gan_refine.pickles.contents import is_state, words
from gan_refine.pickles.network_files import one_step_sigma, read_networks
from gan_refine.pickles.reader import read_bytes
from gan_refine.pickles.records import (
    DAMAGE_ERRORS,
    TENSORFLOW_KEYS,
    TENSORFLOW_NETWORK,
    DamagedError,
    PersistentObject,
    PlainObject,
    TensorRecord,
    child_module,
    error_text,
    named_tensors,
    printable,
)
from gan_refine.pickles.state_dicts import StateDict
from gan_refine.pickles.survey import Survey, survey_pickle
from gan_refine.pickles.tensorflow import network_arrays

OWN_SOURCES = (stylegan2, edm_precond, edm_unet)
UNKNOWN = "unknown here"
MAX_ENTRIES = 50
_STATISTICS = ("dlatent_avg", "synthesis/noise")  # TensorFlow variables that are not trained


@dataclass(frozen=True)
class Kind:
    """A known kind of network: its class in files, what users call it, the option that takes it, how it is recognized."""

    class_name: str
    what: str
    option: str | None
    matches: Callable[[PersistentObject], bool] = lambda net: True


KINDS = [  # the first that matches; one line a family
    Kind("Generator", "StyleGAN3 generator, alias-free", None, lambda net: _has(net, "synthesis", "input")),
    Kind("Generator", "StyleGAN2 generator", "--gan", lambda net: _has(net, "synthesis", "b4", "conv1")),
    Kind("Discriminator", "StyleGAN2 discriminator", None, lambda net: _has(net, "b4")),
    *(Kind(name, f"EDM teacher, {name}", "--teacher", lambda net: _has(net, "model")) for name in PRECONDITIONINGS),
]
STATE_DICT_KINDS = {
    "stylegan2": ("StyleGAN2 generator", "--gan"),
    **{name: (f"EDM teacher, {name}", "--teacher") for name in PRECONDITIONINGS},
}


@dataclass(frozen=True)
class EmbeddedNetwork:
    """One network of a file. Counts are of numbers; those that a file does not tell apart are parameters."""

    key: str
    class_name: str
    what: str
    option: str | None
    model: str | None
    arguments: dict[str, object]
    resolution: int | None
    channels: int | None
    classes: int | None
    parameters: int
    buffers: int
    dtypes: dict[str, int]
    source_sha256: str | None
    problem: str | None


@dataclass(frozen=True)
class EmbeddedSource:
    """Source text inside a file, which was not run."""

    sha256: str
    lines: int
    classes: list[str]
    ours: bool


@dataclass(frozen=True)
class Description:
    """A file. `problem` says why it does not open safely, `incomplete` why the rest was not read; None if there is nothing to say.

    `called_names` are unknown names that opening the file elsewhere would call.
    """

    path: str
    bytes: int
    sha256: str
    format: str
    networks: list[EmbeddedNetwork]
    others: dict[str, str]
    sources: list[EmbeddedSource]
    known_names: list[str]
    unknown_names: list[str]
    called_names: list[str]
    problem: str | None
    incomplete: str | None


def describe(path: Path) -> Description:
    """What `path` holds. Raises FileFormatError only if it is not a file, or is too large to be read."""
    path = Path(path)
    data = read_bytes(path, "expected a network pickle or state dict")
    problem, read = None, None
    try:
        read = read_networks(path)
    except FileFormatError as error:
        problem = str(error)
    survey = Survey() if path.suffix.lower() == ".safetensors" else survey_pickle(data)
    networks = [_state_dict(read)] if isinstance(read, StateDict) else _networks(survey.root)
    try:
        sigma = None if read is None else one_step_sigma(read)
    except FileFormatError as error:
        problem, sigma = str(error), None
    if sigma is not None:
        networks = [_as_one_step(network, sigma) for network in networks]
    return Description(
        path=str(path),
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        format=_format(path, data, survey.root, isinstance(read, StateDict)),
        networks=networks,
        others={} if isinstance(read, StateDict) else _others(survey.root),
        sources=_sources(survey.persistent),
        known_names=sorted(survey.known_names),
        unknown_names=sorted(survey.unknown_names),
        called_names=sorted(survey.called_names),
        problem=problem,
        incomplete=survey.problem,
    )


def _as_one_step(network: EmbeddedNetwork, sigma: float) -> EmbeddedNetwork:
    """A teacher that is also a one-step generator, because its file states the noise level `sigma`."""
    if network.option != "--teacher":
        return network
    return replace(network, what=f"{network.what}, one-step generator at sigma {sigma:g}", option="--gan, --teacher")


def _format(path: Path, data: bytes, root: object, is_state_dict: bool) -> str:
    if is_state_dict or path.suffix.lower() == ".safetensors":
        return f"state dict, {path.suffix}"
    if _tensorflow(root):
        return "TensorFlow pickle"
    protocol = f", protocol {data[1]}" if data[:1] == b"\x80" and len(data) > 1 else ""
    if written_by_torch(data):
        return "zip file of torch.save" if data.startswith(ZIP_START) else "file of torch.save before 1.6"
    return f"pickle{protocol}" if data[:1] == b"\x80" or data[-1:] == b"." else "no network file"


def _networks(root: object) -> list[EmbeddedNetwork]:
    if _tensorflow(root):
        return [_tensorflow_network(key, net) for key, net in zip(TENSORFLOW_KEYS, root, strict=True)]
    held = root if isinstance(root, dict) else {"(alone)": root}
    found = [(printable(key), value) for key, value in held.items() if _is_network(value)]
    return [_network(key, value) for key, value in found[:MAX_ENTRIES]]


def _is_network(value: object) -> TypeGuard[PersistentObject | PlainObject]:
    return isinstance(value, PersistentObject | PlainObject) and "_modules" in value.state


def _tensorflow(root: object) -> TypeGuard[tuple[PlainObject, ...]]:
    if not isinstance(root, tuple) or len(root) != len(TENSORFLOW_KEYS):
        return False
    return all(isinstance(net, PlainObject) and net.class_name == TENSORFLOW_NETWORK for net in root)


def _network(key: str, graph: PersistentObject | PlainObject) -> EmbeddedNetwork:
    kind = _kind(graph) if isinstance(graph, PersistentObject) else None
    model = child_module(graph, "model") if kind is not None and kind.option == "--teacher" else None
    arguments, problem = _arguments(graph)
    tensors: dict[str, TensorRecord] = {}
    try:
        tensors = named_tensors(graph)
    except DamagedError as error:
        problem = printable(error)
    numbers = dict.fromkeys((True, False), 0)
    for record in tensors.values():
        numbers[record.is_parameter] += record.numel()
    return EmbeddedNetwork(
        key=key,
        class_name=printable(graph.class_name),
        what=UNKNOWN if kind is None else kind.what,
        option=None if kind is None else kind.option,
        model=None if model is None else printable(model.class_name),
        arguments=arguments,
        resolution=_integer(arguments, graph, "img_resolution"),
        channels=_integer(arguments, graph, "img_channels"),
        classes=_integer(arguments, graph, "label_dim" if model is not None else "c_dim"),
        parameters=numbers[True],
        buffers=numbers[False],
        dtypes=_dtypes((str(record.dtype).removeprefix("torch."), record.numel()) for record in tensors.values()),
        source_sha256=_digest(graph.module_src) if isinstance(graph, PersistentObject) else None,
        problem=problem,
    )


def _kind(graph: PersistentObject) -> Kind | None:
    try:
        return next((kind for kind in KINDS if kind.class_name == graph.class_name and kind.matches(graph)), None)
    except DamagedError:
        return None


def _has(graph: PersistentObject, *names: str) -> bool:
    return child_module(graph, *names) is not None


def _arguments(graph: PersistentObject | PlainObject) -> tuple[dict[str, object], str | None]:
    """Positional and keyword arguments that a persistent object remembers, and what is wrong with them."""
    try:
        args = plain_arguments(graph.state.get("_init_args", ()), "_init_args")
        kwargs = plain_arguments(graph.state.get("_init_kwargs", {}), "_init_kwargs")
    except DamagedError as error:
        return {}, printable(error)
    except DAMAGE_ERRORS as error:
        return {}, f"its arguments are damaged ({type(error).__name__})"
    positional = {"args": args} if args else {}
    return _table(positional | kwargs if isinstance(kwargs, dict) else positional), None


def _integer(arguments: dict[str, object], graph: PersistentObject | PlainObject, name: str) -> int | None:
    """An attribute of the network, or the argument of that name."""
    for table in (graph.state, arguments):
        value = table.get(name)
        if type(value) is int and abs(value) < 1 << 31:
            return value
    return None


def _dtypes(numbers: Iterable[tuple[str, int]]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for name, count in numbers:
        found[name] += count
    return dict(found)


def _tensorflow_network(key: str, graph: PlainObject) -> EmbeddedNetwork:
    problem, arguments, arrays = None, {}, {}
    try:
        arrays = network_arrays(graph)
        arguments = _table(plain_arguments(graph.state.get("static_kwargs"), "static_kwargs"))
    except (DamagedError, *DAMAGE_ERRORS) as error:
        problem = error_text(error)
    statistics = sum(array.size for name, array in arrays.items() if name.startswith(_STATISTICS))
    is_discriminator = key == "D"
    return EmbeddedNetwork(
        key=key,
        class_name=TENSORFLOW_NETWORK,
        what=f"StyleGAN2 {'discriminator' if is_discriminator else 'generator'} of TensorFlow",
        option=None if is_discriminator else "--gan",
        model=None,
        arguments=arguments,
        resolution=_integer(arguments, graph, "resolution"),
        channels=_integer(arguments, graph, "num_channels"),
        classes=_integer(arguments, graph, "label_size"),
        parameters=sum(array.size for array in arrays.values()) - statistics,
        buffers=statistics,
        dtypes=_dtypes((array.dtype.name, array.size) for array in arrays.values()),
        source_sha256=None,
        problem=problem,
    )


def _state_dict(file: StateDict) -> EmbeddedNetwork:
    what, option = STATE_DICT_KINDS.get(file.class_name, (UNKNOWN, None))
    arguments, problem = {}, None
    try:
        arguments = _table(plain_arguments(file.init_kwargs, "init_kwargs"))
    except DamagedError as error:
        problem = printable(error)
    table = PlainObject(file.class_name)
    return EmbeddedNetwork(
        key="(alone)",
        class_name=printable(file.class_name),
        what=what,
        option=option,
        model=printable(arguments["model_type"]) if "model_type" in arguments else None,
        arguments=arguments,
        resolution=_integer(arguments, table, "img_resolution"),
        channels=_integer(arguments, table, "img_channels"),
        classes=_integer(arguments, table, "label_dim" if option == "--teacher" else "c_dim"),
        parameters=sum(tensor.numel() for tensor in file.tensors.values()),
        buffers=0,
        dtypes=_dtypes((str(tensor.dtype).removeprefix("torch."), tensor.numel()) for tensor in file.tensors.values()),
        source_sha256=None,
        problem=problem,
    )


def _table(arguments: object) -> dict[str, object]:
    if not isinstance(arguments, dict):
        raise DamagedError("its arguments are not a dict")
    return {printable(name): _json(value) for name, value in arguments.items()}


def _json(value: object) -> object:
    """The value, with words for the numbers that JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, list):
        return [_json(item) for item in value]
    return _table(value) if isinstance(value, dict) else value


def _others(root: object) -> dict[str, str]:
    """Entries other than networks, in a few words each."""
    if not isinstance(root, dict) or is_state(root):
        return {}
    held = [(printable(key), value) for key, value in root.items() if not _is_network(value)]
    return {key: words(value) for key, value in held[:MAX_ENTRIES]}


def _sources(objects: Iterable[PersistentObject]) -> list[EmbeddedSource]:
    """Each distinct text once, with the classes that objects take from it."""
    classes: dict[str, dict[str, None]] = {}
    for held in objects:
        classes.setdefault(held.module_src, {})[printable(held.class_name)] = None
    own = {inspect.getsource(module) for module in OWN_SOURCES}
    return [
        EmbeddedSource(_digest(source), source.count("\n") + 1, sorted(names)[:MAX_ENTRIES], source in own)
        for source, names in classes.items()
    ]


def _digest(source: str) -> str:
    return hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
