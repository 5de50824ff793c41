"""Objects of classes that cannot be imported here, in files that the user trusts: kept, and pickled again as they were."""

import copyreg
import sys
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class _Kind(type):
    """The class of such classes. Calling one, as REDUCE does, is remembered apart from making an instance of it, as NEWOBJ does."""

    def __call__(cls, *args: object, **kwargs: object) -> "Unimportable":
        made: Unimportable = cls.__new__(cls, *args, **kwargs)  # type: ignore[call-overload]
        made.was_called = True
        return made


class Unimportable(metaclass=_Kind):
    """An object whose class, or a result whose function, cannot be imported for a `reason`."""

    reason = ""
    was_called = False

    def __new__(cls, *args: object, **kwargs: object) -> "Unimportable":
        made = object.__new__(cls)
        made.arguments, made.keywords = args, kwargs
        made.state, made.items, made.pairs = None, [], []
        return made

    arguments: tuple[object, ...]
    keywords: dict[str, object]
    state: object
    items: list[object]
    pairs: list[tuple[object, object]]

    def __setstate__(self, state: object) -> None:
        self.state = state

    def append(self, item: object) -> None:
        self.items.append(item)

    def extend(self, items: Iterable[object]) -> None:
        self.items.extend(items)

    def __setitem__(self, key: object, value: object) -> None:
        self.pairs.append((key, value))

    def __reduce_ex__(self, protocol: object) -> tuple:
        cls, rest = type(self), (self.state, iter(self.items), iter(self.pairs))
        if self.was_called:
            return cls, self.arguments, *rest
        if self.keywords:
            return copyreg.__newobj_ex__, (cls, self.arguments, self.keywords), *rest  # type: ignore[attr-defined]
        return copyreg.__newobj__, (cls, *self.arguments), *rest  # type: ignore[attr-defined]


def unimportable(module: str, name: str, reason: str) -> type[Unimportable]:
    """What stands for the class or function `name` of `module`."""
    inner = name.rpartition(".")[2]
    attributes = {"__module__": module, "__qualname__": name, "reason": reason}
    return _Kind(inner, (Unimportable,), attributes)  # type: ignore[return-value]


def reconstructed(cls: type, base: type, state: object) -> object:
    """copyreg._reconstructor of pickle protocols 0 and 1, for classes that cannot be imported too."""
    if not issubclass(cls, Unimportable):
        return copyreg._reconstructor(cls, base, state)  # type: ignore[attr-defined]
    made = cls.__new__(cls)
    if isinstance(state, dict):
        made.pairs = list(state.items())
    elif isinstance(state, list):
        made.items = list(state)
    return made


@contextmanager
def found_by_name(classes: Iterable[type[Unimportable]]) -> Iterator[None]:
    """Inside, pickling finds these classes under their names; afterwards the names mean what they did before."""
    before, undo = dict(sys.modules), []
    try:
        for cls in classes:
            *outer, inner = cls.__qualname__.split(".")
            holder: object = _module(cls.__module__)
            for part in outer:
                if not hasattr(holder, part):
                    setattr(holder, part, types.SimpleNamespace())
                    undo.append((holder, part))
                holder = getattr(holder, part)
            setattr(holder, inner, cls)
            undo.append((holder, inner))
        yield
    finally:
        for holder, name in reversed(undo):
            delattr(holder, name)
        for name in sys.modules.keys() - before.keys():
            if isinstance(sys.modules[name], _Empty):
                del sys.modules[name]


class _Empty(types.ModuleType):
    """A module that exists while its classes are pickled."""


def _module(name: str) -> types.ModuleType:
    """The module of that name, with all above it; empty ones where they are missing."""
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        above = ".".join(parts[:length])
        sys.modules.setdefault(above, _Empty(above))
    return sys.modules[name]
