"""Names that are unknown here, read as placeholders that do nothing: nothing they name is imported or called.

Networks that a program needs are built from known names; whatever else a file holds may be of any class.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from gan_refine.pickles.allowlist import GLOBALS, STORAGE_GLOBALS
from gan_refine.pickles.archives import read_archive
from gan_refine.pickles.machine import Budget, Global, GlobalTable, Machine, Operations
from gan_refine.pickles.operations import OPERATIONS
from gan_refine.pickles.records import Blob, DamagedError, PersistentObject, PlainObject, printable

LOAD_STORAGE = ("torch.storage", "_load_from_bytes")
COPYREG = ("copyreg", "_reconstructor")
PERSISTENT = ("torch_utils.persistence", "_reconstruct_persistent_obj")
MAX_NAME = 512  # characters
OWN_STATE = "__setstate__"  # as an attribute of an object, it is called with the object's next state
Operation = Callable[[Machine], None]


@dataclass(eq=False)
class ForeignObject(PlainObject):
    """What an unknown name would have made."""


class Names:
    """The names that a file looks up, and those of them that it calls. `table` has an entry for every name.

    Instances without arguments are data, as modules and optimizers are pickled; every other use of an unknown name is a call.
    """

    def __init__(self, budget: Budget) -> None:
        self.found: dict[str, bool] = {}  # whether it is known
        self.called: dict[str, None] = {}
        self.persistent: list[PersistentObject] = []
        self.budget = budget
        storages = _Recording(STORAGE_GLOBALS, self)
        own: dict[tuple[str, str], Global] = {
            LOAD_STORAGE: Global(".".join(LOAD_STORAGE), call=partial(self._storage, storages)),
            PERSISTENT: Global(".".join(PERSISTENT), call=self._persistent),
            COPYREG: Global(".".join(COPYREG), call=self._reconstructor),
        }
        self.table = _Recording({**GLOBALS, **own, **STORAGE_GLOBALS}, self)
        self.operations: Operations = {
            **OPERATIONS,
            ord("b"): self._build,
            ord("R"): self._call,
            0x81: self._new,
            ord("a"): _fill("a", 1),
            ord("s"): _fill("s", 2),
            ord("e"): _fill("e", -1),
            ord("u"): _fill("u", -1),
            0x90: _fill("\x90", -1),
            ord("o"): self._object,
            0x92: self._new_with_keywords,
            ord("i"): self._instance,
            ord("Q"): self._persistent_id,
        }

    def known(self, is_known: bool) -> tuple[str, ...]:
        """The names that are known here, or those that are not."""
        return tuple(name for name, known in self.found.items() if known is is_known)

    def note(self, name: str, known: bool) -> None:
        self.budget.spend(1 + len(name) // 64)
        if not known and (len(name) > MAX_NAME or not name.isprintable()):
            raise DamagedError(f"it names {printable(name)}, which is no name of a class")
        self.found[name] = known and self.found.get(name, True)  # known in one place, unknown in another: unknown

    def _made(self, name: str, called: bool = True) -> ForeignObject:
        if called:
            self.called[name] = None
        return ForeignObject(name)

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

    def _reconstructor(self, machine: Machine, args: tuple) -> object:
        """copyreg._reconstructor(cls, base, state) of protocols 0 and 1."""
        if args and isinstance(args[0], ForeignObject):
            return self._made(args[0].class_name, called=False)
        call = GLOBALS[COPYREG].call
        assert call is not None, "the allow-list has it"
        return call(machine, args)

    def _build(self, machine: Machine) -> None:
        """BUILD: a placeholder takes any state, and keeps what look like attributes."""
        target = machine.stack[-2] if len(machine.stack) > 1 else None
        if not isinstance(target, ForeignObject):
            return OPERATIONS[ord("b")](machine)
        state = machine.pop()
        state = state[0] if isinstance(state, tuple) and len(state) == 2 else state
        attributes = state if isinstance(state, dict) else {}
        if OWN_STATE in attributes or OWN_STATE in target.state:
            self.called[f"{target.class_name}.{OWN_STATE}"] = None
        target.state = attributes

    def _call(self, machine: Machine) -> None:
        """REDUCE: of a placeholder it makes another, of anything else what the reader makes."""
        called = machine.stack[-2] if len(machine.stack) > 1 else None
        if not isinstance(called, ForeignObject):
            return OPERATIONS[ord("R")](machine)
        machine.pop(), machine.pop()
        machine.stack.append(self._made(called.class_name))

    def _new(self, machine: Machine) -> None:
        """NEWOBJ: an instance of a class, by its __new__ with arguments."""
        called = machine.stack[-2] if len(machine.stack) > 1 else None
        if not isinstance(called, ForeignObject):
            return OPERATIONS[0x81](machine)
        arguments = machine.pop()
        machine.pop()
        machine.stack.append(self._made(called.class_name, called=arguments != ()))

    def _object(self, machine: Machine) -> None:
        """OBJ: a class and its arguments since the mark."""
        machine.stack.append(self._made(_name(next(iter(machine.pop_to_mark()), None))))

    def _new_with_keywords(self, machine: Machine) -> None:
        """NEWOBJ_EX: class, arguments, keyword arguments."""
        machine.pop(), machine.pop()
        machine.stack.append(self._made(_name(machine.pop())))

    def _instance(self, machine: Machine) -> None:
        """INST: a class by name, its arguments since the mark."""
        OPERATIONS[ord("c")](machine)
        called = machine.pop()
        machine.pop_to_mark()
        machine.stack.append(self._made(_name(called)))

    def _persistent_id(self, machine: Machine) -> None:
        """BINPERSID: a storage in an archive, elsewhere of an unknown kind."""
        if machine.persistent_load is not None:
            return OPERATIONS[ord("Q")](machine)
        machine.pop()
        machine.stack.append(self._made("persistent id"))


class _Recording(Mapping[tuple[str, str], Global]):
    """A table in which unknown names make placeholders."""

    def __init__(self, known: GlobalTable, names: Names) -> None:
        self.known_globals, self.names = known, names

    def __getitem__(self, key: tuple[str, str]) -> Global:
        found = self.known_globals.get(key)
        name = ".".join(key)
        self.names.note(name, found is not None)
        return Global(name, value=ForeignObject(name)) if found is None else found

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.known_globals)

    def __len__(self) -> int:
        return len(self.known_globals)


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


def _name(called: object) -> str:
    if isinstance(called, Global):
        return called.name
    return called.class_name if isinstance(called, ForeignObject) else "unknown"
