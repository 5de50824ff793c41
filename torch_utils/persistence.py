"""Persistent classes: modules whose pickles carry their own source, in the format of the published StyleGAN and EDM pickles.

Writing follows that format (version 6). Reading never executes embedded source: an object is rebuilt only if its source equals
that of a class of this installation, now or formerly (FORMER_SOURCES); otherwise the error names the safe call to use.
"""

import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
from types import ModuleType
from typing import TypeVar

FORMAT_VERSION = 6

# SHA-256 of earlier sources of a module that pickles embed and whose state the present classes take unchanged.
FORMER_SOURCES = {
    "gan_refine.networks.stylegan2": {
        "76fb3a816044695e4e837b8362e0c248e26651e317a55c4ce480b4ac641f82e8",
        "b13c000de6634e2279a390cc123d35826342b2669561be27b4152143703998d3",
        "21275399af9a66682b937af6936fc52a8349e498b860924d047f0c8cb3c1d5c7",
    },
    "gan_refine.networks.edm_unet": {"7912d3c3f79f4465fe6b19c7df4c74e1be012d35f5369baaa562deb9b8d20bdc"},
}
# Modules of this installation's persistent classes, imported when a process opens a pickle before it has imported them. Only
# these are imported, never a module that a file names.
HOMES = ("gan_refine.networks.stylegan2", "gan_refine.networks.edm_precond", "gan_refine.networks.edm_unet")
_SOURCE_ATTRIBUTE = "__persistent_source__"

T = TypeVar("T", bound=type)

_classes: dict[str, list[type]] = {}  # class name -> the persistent classes of that name, filled by the decorator


class UntrustedPickleError(RuntimeError):
    """A persistent object with unknown embedded source; opening it would mean running that source."""


def persistent_class(cls: T) -> T:
    """Makes instances remember their constructor's arguments and pickle themselves with the source of their module.

    After it, `obj.init_args`, `obj.init_kwargs` hold copies of what the outermost constructor was called with.
    """
    if is_persistent(cls) and "_is_persistent" in vars(cls):
        return cls
    original_init = cls.__init__  # type: ignore[misc]

    @functools.wraps(original_init)
    def remembering_init(self, *args, **kwargs):
        if "_init_args" not in self.__dict__:  # the outermost class is first
            self.__dict__["_init_args"] = args
            self.__dict__["_init_kwargs"] = dict(kwargs)
        original_init(self, *args, **kwargs)

    cls.__init__ = remembering_init  # type: ignore[misc]
    cls.init_args = property(lambda self: self._init_args)  # type: ignore[attr-defined]
    cls.init_kwargs = property(lambda self: dict(self._init_kwargs))  # type: ignore[attr-defined]
    cls.__reduce__ = _reduce  # type: ignore[assignment]
    cls._is_persistent = True  # type: ignore[attr-defined]
    _classes.setdefault(cls.__name__, []).append(cls)
    return cls


def is_persistent(obj: object) -> bool:
    """True for persistent classes and their instances."""
    return getattr(obj if isinstance(obj, type) else type(obj), "_is_persistent", False)


def module_source(cls: type) -> str:
    """The source of the module that defines `cls`, as embedded in pickles: one string object, which pickles store once."""
    return _source_of(cls.__module__)


def record_source(module: ModuleType, source: str) -> None:
    """Makes `source` the text that pickles of `module`'s classes embed, for a module that was not imported from a file."""
    setattr(module, _SOURCE_ATTRIBUTE, source)


@functools.cache
def _source_of(module: str) -> str:
    found = sys.modules[module]
    return getattr(found, _SOURCE_ATTRIBUTE, None) or inspect.getsource(found)


def _reduce(self):
    meta = {
        "type": "class",
        "version": FORMAT_VERSION,
        "module_src": module_source(type(self)),
        "class_name": type(self).__name__,
        "state": dict(self.__dict__),
    }
    return _reconstruct_persistent_obj, (meta,)


def _reconstruct_persistent_obj(meta: dict) -> object:
    """Rebuilds one object; called by `pickle.load` and `copy.deepcopy`. Raises UntrustedPickleError for unknown source."""
    cls = known_class(meta["class_name"], meta["module_src"])
    if cls is None or meta["type"] != "class" or meta["version"] != FORMAT_VERSION:
        raise UntrustedPickleError(
            f"the pickle holds a {meta['class_name']!r} with unknown embedded source, which plain pickle.load would have to run; "
            "open it with gan_refine.generators.StyleGan2.load(path) or gan_refine.teachers.load_edm(path), which run nothing"
        )
    obj: object = object.__new__(cls)
    set_state = getattr(obj, "__setstate__", None)
    if set_state is not None:
        set_state(meta["state"])
    else:
        obj.__dict__.update(meta["state"])
    return obj


# The name in every pickle of this format; the module may have been imported by another one.
_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


def known_class(name: str, source: str) -> type | None:
    """The persistent class of that name whose module's source is, or formerly was, exactly `source`; else None."""
    found = _registered(name, source)
    if found is None and importlib.util.find_spec(HOMES[0].partition(".")[0]) is not None:
        for home in HOMES:
            importlib.import_module(home)
        found = _registered(name, source)
    return found


def _registered(name: str, source: str) -> type | None:
    digest = hashlib.sha256(source.encode()).hexdigest()
    return next(
        (
            cls
            for cls in _classes.get(name, [])
            if module_source(cls) == source or digest in FORMER_SOURCES.get(cls.__module__, ())
        ),
        None,
    )
