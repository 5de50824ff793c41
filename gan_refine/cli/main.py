"""How every command of the project ends: user errors in one line with exit code 2, an interruption with 130, lost peers with 1."""

import contextlib
import errno
import os
import sys
import warnings
from collections.abc import Iterator
from typing import TextIO, cast

import click

from gan_refine.errors import UserError, UserNotice

GONE = {errno.EPIPE, errno.ECONNRESET, errno.EIO, errno.EBADF}  # what writing to a closed pipe or terminal ends in

LONGEST = 800  # characters of a message, which may quote what was given


def run_command(command: click.Command) -> int:
    """Runs `command` on the process's arguments; returns the exit code. Only bugs end in a traceback."""
    with lasting_output(), _notices():
        try:
            command(standalone_mode=False)
            sys.stdout.flush()
        except UserError as error:
            return _complain(str(error))
        except click.ClickException as error:
            return _complain(error.format_message())
        except (click.exceptions.Abort, KeyboardInterrupt):
            print("interrupted", file=sys.stderr)
            return 130
        except RuntimeError as error:
            from gan_refine.foundation import distributed

            if not isinstance(error, distributed.PeerLostError):
                raise
            return _complain(str(error), code=1)
        except OSError as error:
            if error.errno is None:
                raise
            what = "standard output" if error.filename is None else error.filename
            return _complain(
                f"{what} cannot be used ({error.strerror}); choose another place, or change its permissions"
            )
        return 0


def _complain(message: str, code: int = 2) -> int:
    rank = os.environ.get("RANK", "0")  # torchrun's
    where = "" if rank == "0" else f" (process {rank})"
    line = " ".join(message.split())
    print(f"error{where}: {line if len(line) <= LONGEST else line[:LONGEST] + '...'}", file=sys.stderr)
    return code


@contextlib.contextmanager
def _notices() -> Iterator[None]:
    """Inside, a UserNotice is one line on standard error, however often it comes; other warnings are as they were."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where, **options) -> None:
            if issubclass(category, UserNotice):
                print("warning: " + " ".join(str(message).split()), file=sys.stderr)
            else:
                usual(message, category, *where, **options)

        warnings.showwarning = show
        warnings.simplefilter("always", UserNotice)
        yield


class LastingStream:
    """A text stream that ends no run: what its encoding lacks is escaped, and what nobody reads any more is dropped.

    A full disk under standard output remains an error, because results would be lost; nothing under `progress` is one.
    """

    def __init__(self, stream: object, progress: bool) -> None:
        self.stream = cast(TextIO, stream)
        self.progress = progress
        self.is_open = True

    def write(self, text: str) -> int:
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        shown = text.encode(encoding, "backslashreplace").decode(encoding)
        if self.is_open:
            with self._ended():
                self.stream.write(shown)
        return len(text)

    def flush(self) -> None:
        if self.is_open:
            with self._ended():
                self.stream.flush()

    @contextlib.contextmanager
    def _ended(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self.progress and error.errno not in GONE:
                raise
            self.is_open = False

    def close_quietly(self) -> None:
        """Python flushes its streams at exit, which would fail again: nobody reads the rest."""
        with contextlib.suppress(OSError):
            self.flush()
        if not self.is_open:
            with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self.stream.fileno())

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Inside, standard output and error are LastingStreams, also where the process was started without them."""
    before = sys.stdout, sys.stderr
    streams = [stream or open(os.devnull, "w") for stream in before]  # noqa: SIM115 - for the rest of the process
    out, err = LastingStream(streams[0], progress=False), LastingStream(streams[1], progress=True)
    sys.stdout, sys.stderr = out, err  # type: ignore[assignment]
    try:
        yield
    finally:
        out.close_quietly()
        err.close_quietly()
        sys.stdout, sys.stderr = before
