"""The one family of errors that users see: what was got, what is allowed, what to do."""


class UserError(Exception):
    """A mistake that the user can correct. Its message is one line; commands print it and exit with code 2."""


class OptionError(UserError):
    """An option that is unknown, malformed or out of range."""


class ValueNotAllowedError(OptionError):
    """A value of the option `name` that is out of range; `allowed` says what is."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(f"--{name.replace('_', '-')}={value} is not allowed; give {allowed}")
        self.name, self.value, self.allowed = name, value, allowed


class FileFormatError(UserError):
    """A file that is missing, damaged, of another format or not safe to open."""


class MismatchError(UserError):
    """Two inputs that cannot work together."""


class DownloadError(UserError):
    """A file that cannot be downloaded, is not the expected one, or does not fit into the cache."""


class UserNotice(UserWarning):
    """What the user should know although the program goes on. Its message is one line; commands print it on standard error."""


def first_line(error: BaseException) -> str:
    """The first line of a library exception's message; the name of its type if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class NonFiniteError(UserError):
    """Gradients are not finite for many steps in a row, or images or figures are not. The message names what is not."""
