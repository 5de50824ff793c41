"""The folders that lie beside this package in a checkout and inside it in a wheel, and the modules of one of them, torch_utils.

Network pickles fix the name `torch_utils`, and clones of StyleGAN and EDM have another package of that name. This project
therefore imports its own from here, `from gan_refine.foundation import distributed`, which no folder on the path can replace.
Each file is loaded once, by whichever name it is imported. The public name `torch_utils` belongs to the package that the path
has; where it has no other, the name leads to the modules of this one.
"""

import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # at run time they are submodules of this one, found by __path__
    from torch_utils import custom_ops, distributed, kernel_build, misc, ops, persistence

__all__ = [
    "beside_package",
    "custom_ops",
    "distributed",
    "kernel_build",
    "misc",
    "ops",
    "persistence",
    "public_persistence",
    "public_torch_utils",
]

PUBLIC = "torch_utils"


def beside_package(name: str) -> Path:
    """The project's folder `name`: beside this package in a checkout, in its folder `bundled` when installed from a wheel."""
    package = Path(__file__).parent
    bundled = package / "bundled" / name
    return bundled if bundled.is_dir() else package.parent / name


__path__ = [str(beside_package(PUBLIC))]


class PublicNameFinder(MetaPathFinder, Loader):
    """Leads imports of `torch_utils` to the modules of this package, unless the path has another torch_utils."""

    def find_spec(
        self, fullname: str, path: Iterable[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top, _, inner = fullname.partition(".")
        if top != PUBLIC:
            return None
        if not inner:
            other = self._found_by_others(fullname)
            return other if other and not _is_ours(other.submodule_search_locations) else ModuleSpec(fullname, self)
        if not _is_ours(path) or importlib.util.find_spec(f"{__name__}.{inner}") is None:
            return None
        return ModuleSpec(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        """Puts the module of this package in the place of the empty one that the import system made."""
        sys.modules[module.__name__] = import_module(__name__ + module.__name__.removeprefix(PUBLIC))

    def _found_by_others(self, fullname: str) -> ModuleSpec | None:
        later = sys.meta_path[sys.meta_path.index(self) + 1 :]  # the earlier ones did not find it
        specs = (finder.find_spec(fullname, None) for finder in later)
        return next((spec for spec in specs if spec is not None), None)


@contextmanager
def public_torch_utils() -> Iterator[None]:
    """Inside, `torch_utils` means the modules of this package; afterwards the name means what it did before.

    For modules whose text is embedded in pickles, and must therefore import `torch_utils`.
    """
    before = _public_modules()
    for name in before:
        del sys.modules[name]
    sys.modules[PUBLIC] = sys.modules[__name__]
    try:
        yield
    finally:
        for name in _public_modules():
            del sys.modules[name]
        sys.modules.update(before)


@contextmanager
def public_persistence() -> Iterator[None]:
    """Inside, `torch_utils.persistence` means the module of this package, and every other name keeps its meaning.

    For pickling persistent objects, whose function pickle looks up by that name, and for running a source embedded in a file
    that the user trusts: its classes must be persistent in the sense of this project, the rest of torch_utils may be another's.
    """
    module = import_module(f"{__name__}.persistence")
    package: MutableMapping[str, ModuleType] = vars(sys.modules[PUBLIC]) if PUBLIC in sys.modules else {}
    with _entry(sys.modules, f"{PUBLIC}.persistence", module), _entry(package, "persistence", module):
        yield


@contextmanager
def _entry(table: MutableMapping[str, ModuleType], key: str, value: ModuleType) -> Iterator[None]:
    before = {key: table[key]} if key in table else {}
    table[key] = value
    try:
        yield
    finally:
        table.pop(key, None)
        table.update(before)


def _public_modules() -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == PUBLIC}


def _is_ours(folders: Iterable[str] | None) -> bool:
    """Whether one of the folders is the project's torch_utils or lies in it."""
    ours = Path(os.path.realpath(__path__[0]))
    return any(Path(os.path.realpath(folder)).is_relative_to(ours) for folder in folders or ())


def _adopt_public_modules() -> None:
    """Takes over what was imported from the same folder by the public name before."""
    public = _public_modules()
    if not _is_ours(getattr(public.get(PUBLIC), "__path__", None)):
        return
    for name, module in public.items():
        parent, _, child = name.rpartition(".")
        if parent:
            sys.modules[__name__ + name.removeprefix(PUBLIC)] = module
        if parent == PUBLIC:
            globals()[child] = module


_adopt_public_modules()
sys.meta_path.insert(0, PublicNameFinder())
