"""Real unpickling with the embedded source run, for files that the user trusts like a program (--trust-pickle).

Nothing else in the project executes anything from a file, and this is used only if the user asks for it.
"""

import copy
import hashlib
import importlib
import io
import pickle
import sys
import tempfile
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import torch

from gan_refine.errors import FileFormatError
from gan_refine.files import atomic_file
from gan_refine.foundation import persistence, public_persistence, public_torch_utils
from gan_refine.networks.edm_precond import PRECONDITIONINGS
from gan_refine.pickles.archives import written_by_torch
from gan_refine.pickles.reader import read_bytes, read_pickle
from gan_refine.pickles.records import PickleFile, error_text, printable
from gan_refine.pickles.unimportable import Unimportable, found_by_name, reconstructed, unimportable
from gan_refine.pickles.writer import PROTOCOL, write_networks

NETWORK_KEYS = ("G", "D", "G_ema", "ema")
_WANTED = "expected a pickle of torch modules"
_MODULE_PREFIX = "gan_refine_trusted_"


class EasyDict(dict):
    """Stands for dnnlib.util.EasyDict where that is not installed: a dict whose items are attributes too."""

    def __getattr__(self, name: str) -> object:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: object) -> None:
        self[name] = value


EasyDict.__module__ = "dnnlib.util"  # under which it is pickled


class Unbuilt:
    """A persistent object whose source cannot run here, such as an augment_pipe that imports a missing package.

    It is pickled again unchanged; using it as a network is an error that says why.
    """

    def __init__(self, meta: dict[str, object], reason: str) -> None:
        self.meta, self.reason = meta, reason

    def __reduce__(self) -> tuple:
        return persistence._reconstruct_persistent_obj, (self.meta,)


@dataclass(frozen=True, eq=False)
class TrustedFile:
    """What a file made when it was run. If that is a single module, it is found under every key."""

    path: Path
    root: object = field(repr=False)
    by_torch: bool = False  # written by torch.save
    unimportable: tuple[type[Unimportable], ...] = field(default=(), repr=False)

    def network(self, *keys: str) -> torch.nn.Module:
        """The first network of these keys that is there. Raises FileFormatError for none and for one that did not run."""
        found = self._held(*keys)
        if found is None:
            held = ", ".join(printable(key) for key in self.root) if isinstance(self.root, dict) else ""
            wanted = " or ".join(keys)
            raise FileFormatError(f"{self.path} has no network {wanted}; it holds {held or type(self.root).__name__}")
        reason = next((why for part in _parts(found) if (why := _why_not(part)) is not None), None)
        if reason is not None:
            raise FileFormatError(f"{self.path}: its {printable(keys[0])} cannot be used here: {reason}")
        if not isinstance(found, torch.nn.Module):
            raise FileFormatError(f"{self.path} holds a {type(found).__name__} under {keys[0]}, not a torch module")
        return found

    def optional(self, key: str) -> torch.nn.Module | None:
        """The network under `key`, or None where there is none that runs here."""
        found = self.root.get(key) if isinstance(self.root, dict) else None
        if not isinstance(found, torch.nn.Module) or any(_why_not(part) is not None for part in _parts(found)):
            return None
        return found

    def left_out(self) -> list[str]:
        """The keys of networks that cannot be used here, with the reason."""
        held = self.root if isinstance(self.root, dict) else {}
        broken = {key: held[key] for key in NETWORK_KEYS if held.get(key) is not None and self.optional(key) is None}
        return [f"{key} ({_why_not(value) or 'a part of it does not run'})" for key, value in broken.items()]

    def networks_only(self) -> PickleFile:
        """Its networks alone, pickled again and read by the inert reader. Raises FileFormatError if that does not know them."""
        keys = [key for key in NETWORK_KEYS if self.optional(key) is not None]
        networks = {key: self.network(key) for key in keys}
        if isinstance(self.root, torch.nn.Module):
            networks = {"ema" if type(self.root).__name__ in PRECONDITIONINGS else "G_ema": self.root}
        with tempfile.TemporaryDirectory() as folder:
            write_networks(Path(folder) / "networks.pkl", networks)
            try:
                return replace(read_pickle(Path(folder) / "networks.pkl"), path=self.path)
            except FileFormatError as error:
                reason = str(error).partition("networks.pkl ")[2]
                raise FileFormatError(f"{self.path}, with only its networks left, {reason}") from error

    def write(self, path: Path, networks: Mapping[str, torch.nn.Module]) -> None:
        """The file's objects with `networks` in place of those of the same key; sources stay as they were. Atomic."""
        copies = {key: copy.deepcopy(net).cpu().eval().requires_grad_(False) for key, net in networks.items()}
        if isinstance(self.root, dict):
            root: object = {key: copies.get(key, value) for key, value in self.root.items()}
        else:
            root = next(iter(copies.values()))
        with atomic_file(path, FileFormatError) as stream, public_persistence(), found_by_name(self.unimportable):
            if self.by_torch:
                torch.save(root, stream, pickle_module=_Pickling)
            else:
                pickle.dump(root, stream, protocol=PROTOCOL)

    def _held(self, *keys: str) -> object:
        if not isinstance(self.root, dict):
            return self.root if isinstance(self.root, torch.nn.Module | Unbuilt | Unimportable) else None
        return next((self.root[key] for key in keys if self.root.get(key) is not None), None)


def run_pickle_file(path: Path) -> TrustedFile:
    """Unpickles `path`, RUNNING whatever its author put there; tensors come to the CPU.

    For files that the user has said to trust and no others. Raises FileFormatError where that fails.
    """
    path = Path(path)
    data = read_bytes(path, _WANTED)
    _provide_dnnlib()
    missing: dict[tuple[str, str], type[Unimportable]] = {}
    try:
        root, by_torch = _load(data, missing)
    except Exception as error:  # the file's own code runs: it can raise anything
        _fail(path, error)
    return TrustedFile(path, root, by_torch, tuple(missing.values()))


def _load(data: bytes, missing: dict[tuple[str, str], type[Unimportable]]) -> tuple[object, bool]:
    """What the bytes make, and whether torch.save wrote them; names that cannot be imported are added to `missing`."""

    class Unpickler(_Unpickler):
        def find_class(self, module: str, name: str) -> object:
            try:
                return super().find_class(module, name)
            except Exception as error:  # importing a module runs it
                reason = f"{module}.{name} cannot be imported ({error_text(error)}); install it or add it to PYTHONPATH"
                return missing.setdefault((module, name), unimportable(module, name, reason))

    class Pickling(_Pickling):
        pass

    Pickling.Unpickler = Unpickler
    if written_by_torch(data):
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=False, pickle_module=Pickling)
        return loaded, True
    return Unpickler(io.BytesIO(data)).load(), False


def _provide_dnnlib() -> None:
    """A dnnlib with EasyDict, which sources and pickles name, unless there is one that has it."""
    try:
        if hasattr(importlib.import_module("dnnlib.util"), "EasyDict"):
            return
    except Exception:  # another program's module of this name runs, and may fail in any way
        pass
    package, util = types.ModuleType("dnnlib"), types.ModuleType("dnnlib.util")
    for module in (package, util):
        module.__dict__["EasyDict"] = EasyDict
    package.__dict__["util"] = util
    sys.modules |= {"dnnlib": package, "dnnlib.util": util}


def _fail(path: Path, error: Exception) -> NoReturn:
    advice = "; install it, or make it importable with PYTHONPATH" if isinstance(error, ImportError) else ""
    raise FileFormatError(f"{path} cannot be unpickled ({error_text(error)}){advice}; {_WANTED}") from error


class _Unpickler(pickle.Unpickler):
    """Python's own, except for persistent objects, for storages, which come to the CPU, and for names that moved."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("torch_utils.persistence", "_reconstruct_persistent_obj"):
            return _rebuild
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _storage
        if (module, name) in (("copyreg", "_reconstructor"), ("copy_reg", "_reconstructor")):
            return reconstructed
        try:
            return super().find_class(module, name)
        except ImportError:
            if module.startswith("numpy._core") or module.startswith("numpy.core"):  # numpy 2 and 1 of the same thing
                other = "numpy.core" if module.startswith("numpy._core") else "numpy._core"
                return super().find_class(other + module.partition("core")[2], name)
            raise


class _Pickling:
    """What torch.save and torch.load want of a pickle module."""

    Unpickler: type[pickle.Unpickler] = _Unpickler
    Pickler = pickle.Pickler
    load, loads, dump, dumps = pickle.load, pickle.loads, pickle.dump, pickle.dumps


def _storage(data: bytes) -> object:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)


def _rebuild(meta: dict[str, object]) -> object:
    """The persistent object, with its source run once for each text."""
    name, source = meta.get("class_name"), meta.get("module_src")
    if not isinstance(name, str) or not isinstance(source, str):
        raise FileFormatError("a persistent object lacks its class_name or module_src")
    if persistence.known_class(name, source) is None:
        try:
            _run(source)
        except Exception as error:  # whatever the file's own code raises
            return Unbuilt(meta, error_text(error))
        if persistence.known_class(name, source) is None:
            return Unbuilt(meta, f"it has no persistent class {printable(name)}")
    return persistence._reconstruct_persistent_obj(meta)


def _run(source: str) -> None:
    """Runs the source of a module, so that torch_utils.persistence registers its persistent classes.

    What else it imports of torch_utils is the package on the path, where there is one that has it, and else this project's.
    """
    name = _MODULE_PREFIX + hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    try:
        with public_persistence():
            _execute(name, source)
    except (ImportError, AttributeError):  # a torch_utils of the path that lacks what the source needs
        with public_torch_utils():
            _execute(name, source)


def _execute(name: str, source: str) -> None:
    module = types.ModuleType(name)
    persistence.record_source(module, source)
    sys.modules[name] = module
    try:
        exec(compile(source, f"<{name}>", "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise


def _why_not(part: object) -> str | None:
    """Why an object of a file cannot be used here; None for one that can."""
    return part.reason if isinstance(part, Unbuilt | Unimportable) else None


def _parts(net: object) -> list[object]:
    """A module with all that is inside it, walked without its own methods."""
    found: dict[int, object] = {}
    pending = [net]
    while pending:
        current = pending.pop()
        if id(current) not in found:
            found[id(current)] = current
            pending += vars(current).get("_modules", {}).values() if isinstance(current, torch.nn.Module) else []
    return list(found.values())
