"""The clock of a command: what it is at, for how long, and how much is left. No silence is longer than EVERY seconds."""

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from tqdm import tqdm

from gan_refine.foundation import distributed

EVERY = 30.0  # seconds without a line at most
SLACK = 30.0  # seconds of work from which the clock trusts its own measurement more than the plan
LONG = 60.0  # seconds of work that is announced before it starts
OTHER = "report and checkpoints"  # what is in no plan
WARMUP, LEARNING = "warm-up", "learning"  # the phases of the loop


@dataclass(frozen=True)
class Phase:
    """So many images, and the expected seconds of one."""

    images: int
    seconds: float

    @property
    def total(self) -> float:
        return self.images * self.seconds


class Clock:
    """Counts the images done in each phase, and tells it with the time passed and the time left."""

    def __init__(
        self, say: Callable[[str], None], phases: Mapping[str, Phase], now: Callable[[], float] = time.monotonic
    ) -> None:
        self.say, self.phases, self.now = say, dict(phases), now
        self.started = self.told = now()
        self.earlier = 0.0  # seconds of the processes before, if a run was resumed
        self.done: Counter[str] = Counter()
        self.done_earlier = 0.0  # expected seconds of what they did
        self.phase = OTHER
        self._parts: dict[str, float] = {}
        self._entered = self.started

    @property
    def seconds(self) -> float:
        return self.earlier + self.now() - self.started

    @property
    def parts(self) -> dict[str, float]:
        """Seconds spent in each phase, those of earlier processes included."""
        return self._parts | {self.phase: self._parts.get(self.phase, 0.0) + self.now() - self._entered}

    def go_on(self, seconds: float, done: Mapping[str, int], parts: Mapping[str, float]) -> None:
        """Goes on after `seconds` of earlier processes, which have done so many images of each phase in these parts of them."""
        self._parts |= {name: self._parts.get(name, 0.0) + before for name, before in parts.items()}
        self.earlier, before = seconds, self._expected()
        self.reach(done)
        self.done_earlier = self._expected() - before

    def reach(self, done: Mapping[str, int]) -> None:
        """So many images of these phases are done."""
        self.done = Counter({**self.done, **done})

    def enter(self, phase: str, images: int | None = None) -> Callable[[int], None]:
        """The next `images`, by default all, are of this phase, which is told first if they will take long. Returns `count`."""
        self._parts, self._entered, self.phase = self.parts, self.now(), phase
        planned = self.phases.get(phase, Phase(0, 0.0))
        images = planned.images if images is None else images
        expected = images * planned.seconds * self._pace()
        if expected >= LONG:
            self.tell(f"{phase}: {images} images, about {duration(expected)}")
        return self.count

    def count(self, images: int) -> None:
        """Each process has done so many more images of the phase."""
        self.done[self.phase] += images * distributed.get_world_size()
        self.beat()

    def left(self) -> float | None:
        """Seconds that the rest will take: as expected, corrected by how long everything so far took."""
        if not self.phases:
            return None
        total = sum(phase.total for phase in self.phases.values())
        return max(total - self._expected(), 0) * self._pace()

    def _expected(self) -> float:
        return sum(min(self.done[name], phase.images) * phase.seconds for name, phase in self.phases.items())

    def _pace(self) -> float:
        """Seconds taken for each expected one; near 1 while little is known."""
        return (self.now() - self.started + SLACK) / (self._expected() - self.done_earlier + SLACK)

    def tell(self, text: str) -> None:
        """One line with the times."""
        self.told, left = self.now(), self.left()
        rest = "" if left is None else f", about {duration(left)} left"
        self.say(f"{text}  ({self.seconds:.0f} s{rest})")

    def beat(self) -> None:
        """Says what is going on, if nothing was told for long."""
        if self.now() - self.told >= EVERY:
            done, planned = self.done[self.phase], self.phases.get(self.phase)
            known = f": {done} of {planned.images} images" if planned else f": {done} images" if done else ""
            self.tell(self.phase + known)

    @contextlib.contextmanager
    def running(self) -> Iterator["Clock"]:
        """Inside, it also tells what a single long step keeps it from."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(1):
                with contextlib.suppress(OSError):  # of a full disk the run itself tells
                    self.beat()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            ended.set()
            thread.join()


def say(text: str) -> None:
    """Text on standard error, once for all processes."""
    if distributed.is_rank0():
        tqdm.write(text, file=sys.stderr)


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever is short."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
