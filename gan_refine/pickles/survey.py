"""What a pickle names and holds, even if it may not be opened: unknown names become placeholders that do nothing.

This uses the reader's interpreter under the same bounds. Like the reader it imports and calls nothing that the file names.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from gan_refine.pickles.allowlist import GLOBALS, STORAGE_GLOBALS
from gan_refine.pickles.archives import ZIP_START, read_archive
from gan_refine.pickles.machine import Budget, Global, GlobalTable, Machine, Operations, Workspace
from gan_refine.pickles.operations import OPERATIONS, run_pickle
from gan_refine.pickles.records import (
    DAMAGE_ERRORS,
    Blob,
    DamagedError,
    PersistentObject,
    PlainObject,
    error_text,
    printable,
)

LOAD_STORAGE = ("torch.storage", "_load_from_bytes")
COPYREG = ("copyreg", "_reconstructor")
Operation = Callable[[Machine], None]
PERSISTENT = ("torch_utils.persistence", "_reconstruct_persistent_obj")


@dataclass(eq=False)
class ForeignObject(PlainObject):
    """What an unknown name would have made."""


@dataclass(frozen=True, eq=False)
class Survey:
    """What was found until the end of the file, or until the `problem` that ended the reading."""

    root: object = field(repr=False)
    known_names: tuple[str, ...]
    unknown_names: tuple[str, ...]
    persistent: tuple[PersistentObject, ...] = field(repr=False)
    problem: str | None


def survey_pickle(data: bytes) -> Survey:
    """Every name in a pickle, or in a file of torch.save, and its object graph up to the first error; raises nothing."""
    workspace = Workspace(len(data), operations=LENIENT)
    names = _Names(workspace.budget)
    problem, root = None, None
    try:
        if data[: len(ZIP_START)] == ZIP_START:
            root = read_archive(memoryview(data), 0, names.table, workspace)
        else:
            root = run_pickle(Machine(memoryview(data), names.table, workspace))
    except (DamagedError, *DAMAGE_ERRORS) as error:
        problem = error_text(error)
    known = tuple(name for name, is_known in names.found.items() if is_known)
    unknown = tuple(name for name, is_known in names.found.items() if not is_known)
    return Survey(root, known, unknown, tuple(names.persistent), problem)


class _Names:
    """Tables that have an entry for every name, and record the names that a file looks up."""

    def __init__(self, budget: Budget) -> None:
        self.found: dict[str, bool] = {}
        self.persistent: list[PersistentObject] = []
        self.budget = budget
        storages = _Recording(STORAGE_GLOBALS, self)
        own: dict[tuple[str, str], Global] = {
            LOAD_STORAGE: Global(".".join(LOAD_STORAGE), call=partial(self._storage, storages)),
            PERSISTENT: Global(".".join(PERSISTENT), call=self._persistent),
            COPYREG: Global(".".join(COPYREG), call=_reconstructor),
        }
        self.table = _Recording({**GLOBALS, **own, **STORAGE_GLOBALS}, self)

    def note(self, name: str, known: bool) -> None:
        self.budget.spend(1 + len(name) // 64)
        shown = printable(name)
        self.found[shown] = known and self.found.get(shown, True)  # known in one place, unknown in another: unknown

    def _persistent(self, machine: Machine, args: tuple) -> PersistentObject:
        call = GLOBALS[PERSISTENT].call
        assert call is not None, "the allow-list has it"
        made = call(machine, args)
        assert isinstance(made, PersistentObject), "that is what it makes"
        self.persistent.append(made)
        return made

    def _storage(self, table: GlobalTable, machine: Machine, args: tuple) -> object:
        (blob,) = args
        if not isinstance(blob, Blob):
            raise DamagedError("a storage is not made from bytes")
        return read_archive(blob.view, blob.start, table, machine.workspace)


class _Recording(Mapping[tuple[str, str], Global]):
    """A table in which unknown names make placeholders."""

    def __init__(self, known: GlobalTable, names: _Names) -> None:
        self.known, self.names = known, names

    def __getitem__(self, key: tuple[str, str]) -> Global:
        found = self.known.get(key)
        name = ".".join(key)
        self.names.note(name, found is not None)
        return Global(name, value=ForeignObject(name)) if found is None else found

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.known)

    def __len__(self) -> int:
        return len(self.known)


def _reconstructor(machine: Machine, args: tuple) -> object:
    """copyreg._reconstructor(cls, base, state) of protocols 0 and 1."""
    if args and isinstance(args[0], ForeignObject):
        return ForeignObject(args[0].class_name)
    call = GLOBALS[COPYREG].call
    assert call is not None, "the allow-list has it"
    return call(machine, args)


def _build(machine: Machine) -> None:
    """BUILD: a placeholder takes any state, and keeps what look like attributes."""
    target = machine.stack[-2] if len(machine.stack) > 1 else None
    if not isinstance(target, ForeignObject):
        return OPERATIONS[ord("b")](machine)
    state = machine.pop()
    state = state[0] if isinstance(state, tuple) and len(state) == 2 else state
    target.state = state if isinstance(state, dict) else {}


def _call(code: str) -> Operation:
    """REDUCE and NEWOBJ: of a placeholder they make another, of anything else what the reader makes."""

    def operation(machine: Machine) -> None:
        called = machine.stack[-2] if len(machine.stack) > 1 else None
        if not isinstance(called, ForeignObject):
            return OPERATIONS[ord(code)](machine)
        machine.pop(), machine.pop()
        machine.stack.append(ForeignObject(called.class_name))

    return operation


def _fill(code: str, operands: int) -> Operation:
    """APPEND and its like: a placeholder drops the items. `operands` is their number, -1 for all since the mark."""

    def operation(machine: Machine) -> None:
        mark = machine.marks[-1] if machine.marks else 0
        place = (mark if operands < 0 else len(machine.stack) - operands) - 1
        if place < 0 or not isinstance(machine.stack[place], ForeignObject):
            return OPERATIONS[ord(code)](machine)
        if operands < 0:
            machine.pop_to_mark()
        else:
            del machine.stack[place + 1 :]

    return operation


def _object(machine: Machine) -> None:
    """OBJ: a class and its arguments since the mark."""
    machine.stack.append(ForeignObject(_name(next(iter(machine.pop_to_mark()), None))))


def _new_object(machine: Machine) -> None:
    """NEWOBJ_EX: class, arguments, keyword arguments."""
    machine.pop(), machine.pop()
    machine.stack.append(ForeignObject(_name(machine.pop())))


def _instance(machine: Machine) -> None:
    """INST: a class by name, its arguments since the mark."""
    OPERATIONS[ord("c")](machine)
    called = machine.pop()
    machine.pop_to_mark()
    machine.stack.append(ForeignObject(_name(called)))


def _persistent_id(machine: Machine) -> None:
    """BINPERSID: a storage in an archive, elsewhere of an unknown kind."""
    if machine.persistent_load is not None:
        return OPERATIONS[ord("Q")](machine)
    machine.pop()
    machine.stack.append(ForeignObject("persistent id"))


def _name(called: object) -> str:
    if isinstance(called, Global):
        return called.name
    return called.class_name if isinstance(called, ForeignObject) else "unknown"


LENIENT: Operations = {
    **OPERATIONS,
    ord("b"): _build,
    ord("R"): _call("R"),
    0x81: _call("\x81"),
    ord("a"): _fill("a", 1),
    ord("s"): _fill("s", 2),
    ord("e"): _fill("e", -1),
    ord("u"): _fill("u", -1),
    0x90: _fill("\x90", -1),
    ord("o"): _object,
    0x92: _new_object,
    ord("i"): _instance,
    ord("Q"): _persistent_id,
}
