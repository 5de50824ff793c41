"""A pickle machine that makes only data: strings, numbers, containers and what an allow-list of constructors returns.

It has no operation that imports, calls or sets an attribute of anything that the file names: a name is looked up in a
table of our own constructors and is an error when it is not there. Work and memory are bounded: operations and copied
elements are charged to a budget, and byte strings are views of the file. Operations as in Python's pickletools.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from gan_refine.pickles.records import ArrayRecord, Blob, DamagedError, DtypeRecord, PlainObject, TensorRecord

MAX_NAME = 256  # bytes of a module's or class's name
MAX_INTEGER = 64  # bytes of an integer: larger ones cost quadratic time to print
_STOP = b"."[0]
_BYTE_ORDERS: Mapping[object, Literal["<", "|", "="]] = {"<": "<", "|": "|", "=": "="}
_PY2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}


@dataclass(eq=False)
class Budget:
    """What a file may still cost: operations executed plus elements copied."""

    left: int = 500_000  # an ADM of 560 tensors, the largest published network, takes about 100,000

    def spend(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise DamagedError("it takes more operations to read than any network pickle does")


@dataclass(frozen=True, eq=False)
class Global:
    """A name that files may hold: a `value` of ours, or a `call` that makes one from the file's arguments."""

    name: str
    value: object = None
    call: Callable[["Machine", tuple], object] | None = None


GlobalTable = Mapping[tuple[str, str], Global]


class Machine:
    """Runs one pickle in `data[position:end]`; afterwards `position` is behind its STOP."""

    def __init__(
        self,
        data: memoryview,
        table: GlobalTable,
        budget: Budget,
        position: int = 0,
        end: int | None = None,
        persistent_load: Callable[[object], object] | None = None,
    ) -> None:
        self.data = data
        self.table = table
        self.budget = budget
        self.position = position
        self.end = len(data) if end is None else end
        self.persistent_load = persistent_load
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}
        self.tensors: list[TensorRecord] = []

    def run(self) -> object:
        """The pickled value. Raises DamagedError for whatever is not plain data or not in the table."""
        while True:
            opcode = self.take(1)[0]
            self.budget.spend(1)
            if opcode == _STOP:
                return self.pop()
            operation = OPERATIONS.get(opcode)
            if operation is None:
                raise DamagedError(f"operation {bytes([opcode])!r} at byte {self.position - 1} is not allowed")
            operation(self)

    def take(self, length: int) -> memoryview:
        if length > self.end - self.position:
            raise DamagedError(f"it ends in the middle of something at byte {self.end}")
        view = self.data[self.position : self.position + length]
        self.position += length
        return view

    def number(self, layout: str) -> int:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def pop(self) -> object:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise DamagedError(f"an operation at byte {self.position - 1} lacks its operand")
        return self.stack.pop()

    def top(self, kind: type) -> object:
        top = self.stack[-1] if self.stack else None
        if not isinstance(top, kind):
            raise DamagedError(f"a {kind.__name__} is expected at byte {self.position - 1}, got a {type(top).__name__}")
        return top

    def pop_to_mark(self) -> list[object]:
        if not self.marks:
            raise DamagedError(f"an operation at byte {self.position - 1} lacks its mark")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def look_up(self, module: object, name: object) -> object:
        module = _PY2_MODULES.get(module, module) if isinstance(module, str) else module
        found = self.table.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if found is None:
            raise DamagedError(f"it names {str(module)[:80]}.{str(name)[:80]}, {_why_refused(module)}")
        return found if found.value is None else found.value


def _why_refused(module: object) -> str:
    if str(module).startswith("dnnlib.tflib"):
        return "so it is a TensorFlow pickle; convert it first with legacy.py of stylegan2-ada-pytorch"
    return "which no network pickle needs"


def is_key(value: object) -> bool:
    """True for what may be a key or a set's member. Hashing deeper values can take exponential time."""
    scalar = str | int | float | None
    return isinstance(value, scalar) or (isinstance(value, tuple) and all(isinstance(item, scalar) for item in value))


def fill(target: dict, pairs: list[tuple[object, object]]) -> None:
    for key, value in pairs:
        if not is_key(key):
            raise DamagedError(f"a {type(key).__name__} stands as a key")
        target[key] = value


def _line(machine: Machine) -> str:
    window = bytes(machine.data[machine.position : min(machine.position + MAX_NAME, machine.end)])
    length = window.find(b"\n")
    if length < 0:
        raise DamagedError(f"a name at byte {machine.position} has no end")
    machine.position += length + 1
    return window[:length].decode("utf-8")


def _value(value: object) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(value)


def _number(layout: str) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(machine.number(layout))


def _integer(layout: str) -> Callable[[Machine], None]:
    def operation(machine: Machine) -> None:
        length = machine.number(layout)
        if not 0 <= length <= MAX_INTEGER:
            raise DamagedError(f"an integer of {length} bytes at byte {machine.position}")
        machine.stack.append(int.from_bytes(machine.take(length), "little", signed=True))

    return operation


def _text(layout: str) -> Callable[[Machine], None]:
    def operation(machine: Machine) -> None:
        machine.stack.append(bytes(machine.take(_length(machine, layout))).decode("utf-8", "surrogatepass"))

    return operation


def _bytes(layout: str) -> Callable[[Machine], None]:
    def operation(machine: Machine) -> None:
        length = _length(machine, layout)
        start = machine.position
        machine.stack.append(Blob(start, machine.take(length)))

    return operation


def _length(machine: Machine, layout: str) -> int:
    length = machine.number(layout)
    if length < 0:
        raise DamagedError(f"a negative length at byte {machine.position}")
    return length


def _put(layout: str) -> Callable[[Machine], None]:
    def operation(machine: Machine) -> None:
        machine.memo[machine.number(layout)] = machine.top(object)

    return operation


def _get(layout: str) -> Callable[[Machine], None]:
    def operation(machine: Machine) -> None:
        index = machine.number(layout)
        if index not in machine.memo:
            raise DamagedError(f"it recalls value {index}, which it never stored")
        machine.stack.append(machine.memo[index])

    return operation


def _memoize(machine: Machine) -> None:
    machine.memo[len(machine.memo)] = machine.top(object)


def _tuple(length: int) -> Callable[[Machine], None]:
    def operation(machine: Machine) -> None:
        items = [machine.pop() for _ in range(length)]
        machine.stack.append(tuple(reversed(items)))

    return operation


def _append(machine: Machine) -> None:
    item = machine.pop()
    target = machine.top(list)
    assert isinstance(target, list), "top() checked it"
    target.append(item)


def _appends(machine: Machine) -> None:
    items = machine.pop_to_mark()
    target = machine.top(list)
    assert isinstance(target, list), "top() checked it"
    target.extend(items)


def _set_item(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    target = machine.top(dict)
    assert isinstance(target, dict), "top() checked it"
    fill(target, [(key, value)])


def _set_items(machine: Machine) -> None:
    items = machine.pop_to_mark()
    target = machine.top(dict)
    assert isinstance(target, dict), "top() checked it"
    if len(items) % 2:
        raise DamagedError(f"a key without its value at byte {machine.position - 1}")
    fill(target, list(zip(items[::2], items[1::2], strict=True)))


def _add_items(machine: Machine) -> None:
    items = machine.pop_to_mark()
    target = machine.top(set)
    assert isinstance(target, set), "top() checked it"
    target.update(members(items))


def members(items: list[object]) -> list[object]:
    if not all(is_key(item) for item in items):
        raise DamagedError("a set holds something else than strings and numbers")
    return items


def _protocol(machine: Machine) -> None:
    version = machine.number("<B")
    if version > 5:
        raise DamagedError(f"its protocol is {version}; known are those up to 5")


def _global(machine: Machine) -> None:
    module = _line(machine)
    machine.stack.append(machine.look_up(module, _line(machine)))


def _stack_global(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.stack.append(machine.look_up(module, name))


def _reduce(machine: Machine) -> None:
    """REDUCE and NEWOBJ alike: the constructor of ours that the name stands for, with the file's arguments."""
    arguments, function = machine.pop(), machine.pop()
    if not isinstance(function, Global) or function.call is None or not isinstance(arguments, tuple):
        raise DamagedError(f"a call of something else than a known constructor at byte {machine.position - 1}")
    machine.budget.spend(len(arguments))
    machine.stack.append(function.call(machine, arguments))


def _build(machine: Machine) -> None:
    state, target = machine.pop(), machine.top(object)
    if isinstance(target, PlainObject) and isinstance(state, dict):
        target.state = state
    elif isinstance(target, DtypeRecord) and isinstance(state, tuple):
        complete_dtype(target, state)
    elif isinstance(target, ArrayRecord) and isinstance(state, tuple):
        complete_array(target, state)
    elif not (isinstance(target, dict) and isinstance(state, dict)):  # attributes of a dict mean nothing here
        raise DamagedError(f"a {type(target).__name__} is given a {type(state).__name__} as its state")


def complete_dtype(target: DtypeRecord, state: tuple) -> None:
    if len(state) < 2 or state[1] not in _BYTE_ORDERS or any(part is not None for part in state[2:5]):
        raise DamagedError("a numpy type is structured or of the other byte order")
    target.byte_order = _BYTE_ORDERS[state[1]]


def complete_array(target: ArrayRecord, state: tuple) -> None:
    _, shape, dtype, fortran, data = state
    if not isinstance(dtype, DtypeRecord) or not isinstance(data, Blob):
        raise DamagedError("a numpy array is not of plain numbers")
    set_array(target, dtype, shape, bool(fortran), data)


def set_array(target: ArrayRecord, dtype: DtypeRecord, shape: object, fortran: bool, data: Blob) -> None:
    if not isinstance(shape, tuple) or len(shape) > 32 or not all(isinstance(n, int) and 0 <= n < 2**62 for n in shape):
        raise DamagedError("a numpy array has no proper shape")
    declared = dtype.dtype().itemsize
    for length in shape:
        declared *= length
    if declared != len(data.view):
        raise DamagedError(f"a numpy array of {declared} bytes is declared where {len(data.view)} are present")
    target.dtype, target.shape, target.fortran, target.data = dtype.dtype(), shape, fortran, data.view


def _persistent_id(machine: Machine) -> None:
    if machine.persistent_load is None:
        raise DamagedError(f"operation b'Q' at byte {machine.position - 1} is not allowed")
    machine.stack.append(machine.persistent_load(machine.pop()))


def _frame(machine: Machine) -> None:
    if _length(machine, "<Q") > machine.end - machine.position:
        raise DamagedError(f"it ends in the middle of something at byte {machine.end}")


OPERATIONS: Mapping[int, Callable[[Machine], None]] = {
    ord(code): operation
    for code, operation in {
        "\x80": _protocol,
        "\x95": _frame,
        "0": lambda machine: machine.pop(),
        "1": lambda machine: machine.pop_to_mark(),
        "2": lambda machine: machine.stack.append(machine.top(object)),
        "(": lambda machine: machine.marks.append(len(machine.stack)),
        "N": _value(None),
        "\x88": _value(True),
        "\x89": _value(False),
        ")": _value(()),
        "]": lambda machine: machine.stack.append([]),
        "}": lambda machine: machine.stack.append({}),
        "\x8f": lambda machine: machine.stack.append(set()),
        "J": _number("<i"),
        "K": _number("<B"),
        "M": _number("<H"),
        "G": lambda machine: machine.stack.append(struct.unpack(">d", machine.take(8))[0]),
        "\x8a": _integer("<B"),
        "\x8b": _integer("<i"),
        "\x8c": _text("<B"),
        "X": _text("<I"),
        "\x8d": _text("<Q"),
        "C": _bytes("<B"),
        "B": _bytes("<I"),
        "\x8e": _bytes("<Q"),
        "\x96": _bytes("<Q"),
        "q": _put("<B"),
        "r": _put("<I"),
        "\x94": _memoize,
        "h": _get("<B"),
        "j": _get("<I"),
        "\x85": _tuple(1),
        "\x86": _tuple(2),
        "\x87": _tuple(3),
        "t": lambda machine: machine.stack.append(tuple(machine.pop_to_mark())),
        "a": _append,
        "e": _appends,
        "s": _set_item,
        "u": _set_items,
        "\x90": _add_items,
        "\x91": lambda machine: machine.stack.append(frozenset(members(machine.pop_to_mark()))),
        "c": _global,
        "\x93": _stack_global,
        "R": _reduce,
        "\x81": _reduce,
        "b": _build,
        "Q": _persistent_id,
    }.items()
}
