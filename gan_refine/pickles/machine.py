"""The state of an inert pickle interpreter: it makes only data, and bounds the time and memory that a file may cost.

Nothing here imports, calls or sets an attribute of anything that the file names: a name is looked up in a table of this
package's constructors, and is an error if it is not there. Operations and copied elements are charged to a budget, and byte
strings are views of the file. operations.py holds the operations.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gan_refine.pickles.records import (
    Blob,
    DamagedError,
    EncodedBytes,
    PersistentObject,
    PlainObject,
    TensorRecord,
    printable,
)

MAX_KEY = 64  # entries of a tuple that is a key: every use hashes all of them
_FIRST_WINDOW = 256
_PY2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}


@dataclass(eq=False)
class Budget:
    """What a file may still cost: operations executed plus elements copied."""

    left: int = 300_000  # an ADM of 560 tensors, the largest published network, takes about 100,000

    def spend(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise DamagedError("it takes more operations to read than any network pickle does")


@dataclass(eq=False)
class Workspace:
    """What the nested pickles of one file of `size` bytes share: the budget, the tensors found, bytes that were decoded."""

    size: int
    budget: Budget = field(default_factory=Budget)
    tensors: list[TensorRecord] = field(default_factory=list)
    encoded: list[EncodedBytes] = field(default_factory=list)
    decoded: list[bytes] = field(default_factory=list)
    operations: "Operations | None" = None  # in place of those in operations.py
    is_archive: bool = False  # of torch.save, whose bytes are not written again

    def __post_init__(self) -> None:
        self.end = self.size

    def keep(self, data: bytes, text: "LocatedText") -> Blob:
        """The decoded bytes of a text in the file; PickleFile.data has them after the file's own bytes and earlier ones."""
        start, self.end = self.end, self.end + len(data)
        self.encoded.append(EncodedBytes(start, len(data), text.first, text.last, text.opcode))
        self.decoded.append(data)
        return Blob(start, memoryview(data))


class LocatedText(str):
    """A text of protocol 0 to 2 that remembers which bytes of the file hold it: there, bytes travel as text."""

    first: int = 0
    last: int = 0
    opcode: str = "X"
    blob: Blob | None = None


@dataclass(frozen=True, eq=False)
class Global:
    """A name that files may hold: it stands for a `value`, or for a `call` that makes one from the file's arguments."""

    name: str
    value: object = None
    call: Callable[["Machine", tuple], object] | None = None


GlobalTable = Mapping[tuple[str, str], Global]


class Machine:
    """One pickle in `data`, which starts at byte `base` of the file; `position` is the next byte of `data`."""

    def __init__(
        self,
        data: memoryview,
        table: GlobalTable,
        workspace: Workspace,
        base: int = 0,
        persistent_load: Callable[[object], object] | None = None,
    ) -> None:
        self.data = data
        self.table = table
        self.workspace = workspace
        self.budget = workspace.budget
        self.base = base
        self.position = 0
        self.protocol = 0
        self.persistent_load = persistent_load
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    @property
    def place(self) -> int:
        """The byte of the file at which `position` is."""
        return self.base + self.position

    def take(self, length: int) -> memoryview:
        if length > len(self.data) - self.position:
            raise DamagedError(f"it is cut off at byte {self.base + len(self.data)}")
        view = self.data[self.position : self.position + length]
        self.position += length
        return view

    def line(self, limit: int) -> bytes:
        """The bytes before the next line feed, at most `limit`; the position moves behind it."""
        present = min(limit + 1, len(self.data) - self.position)
        size, length = 0, -1
        while length < 0 and size < present:  # in windows that double: the cost stays proportional to the line
            size = min(2 * size or _FIRST_WINDOW, present)
            window = bytes(self.data[self.position : self.position + size])
            length = window.find(b"\n")
        if length < 0:
            raise DamagedError(f"a line at byte {self.place} does not end")
        self.position += length + 1
        return window[:length]

    def number(self, layout: str) -> int:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def pop(self) -> object:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise DamagedError(f"an operation at byte {self.place - 1} lacks its operand")
        return self.stack.pop()

    def top(self, kind: type) -> object:
        top = self.stack[-1] if self.stack else None
        if not isinstance(top, kind):
            raise DamagedError(f"a {kind.__name__} is expected at byte {self.place - 1}, got a {type(top).__name__}")
        return top

    def pop_to_mark(self) -> list[object]:
        if not self.marks:
            raise DamagedError(f"an operation at byte {self.place - 1} lacks its mark")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def look_up(self, module: object, name: object) -> object:
        module = _PY2_MODULES.get(module, module) if isinstance(module, str) else module
        found = self.table.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if found is None:
            raise DamagedError(
                f"it names {printable(module)[:80]}.{printable(name)[:80]}, which no network pickle needs"
            )
        return found if found.value is None else found.value


Operations = Mapping[int, Callable[[Machine], None]]
_BY_IDENTITY = TensorRecord | PlainObject | PersistentObject | Global  # an optimizer's keys are its parameters


def is_key(value: object) -> bool:
    """True for what may be a key or a set's member. Hashing deeper values can take exponential time."""
    scalar = str | int | float | None
    if isinstance(value, tuple):
        return len(value) <= MAX_KEY and all(isinstance(item, scalar) for item in value)
    return isinstance(value, scalar | _BY_IDENTITY)


def fill(target: dict, pairs: list[tuple[object, object]]) -> None:
    for key, value in pairs:
        if not is_key(key):
            raise DamagedError(f"a {type(key).__name__} is used as a key")
        target[key] = value


def members(items: list[object]) -> list[object]:
    if not all(is_key(item) for item in items):
        raise DamagedError("a set holds something other than strings and numbers")
    return items
