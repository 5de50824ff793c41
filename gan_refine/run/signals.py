"""SIGTERM and SIGINT as a request to stop at the next place where the run can be saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequested(Exception):
    """Raised where work may be dropped at once because it changes nothing, such as an evaluation."""


class Signals:
    """While installed, the first signal only sets `received`; a second one ends the program as if there were no handler."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._raises = False

    @contextmanager
    def installed(self) -> Iterator["Signals"]:
        """Handlers inside the block; those from before after it."""
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def raising(self, alone: bool = True) -> Iterator[None]:
        """Inside, a signal raises StopRequested, if this process is alone: several would leave each other waiting."""
        self._raises = alone
        try:
            if alone and self.received:
                raise StopRequested(self.received)
            yield
        finally:
            self._raises = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        for other in SIGNALS:
            signal.signal(other, signal.SIG_DFL if other == signal.SIGTERM else signal.default_int_handler)
        if self._raises:
            raise StopRequested(self.received)
