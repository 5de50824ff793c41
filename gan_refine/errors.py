"""The one family of errors that users see: what was got, what is allowed, what to do."""


class UserError(Exception):
    """A mistake that the user can mend. Its message is one line; commands print it and exit with code 2."""


class OptionError(UserError):
    """An option that is unknown, malformed or out of range."""


class FileFormatError(UserError):
    """A file that is missing, damaged, of another format or not safe to open."""


class MismatchError(UserError):
    """Two inputs that cannot work together."""


class DownloadError(UserError):
    """A file that cannot be fetched, is not the expected one, or has no room in the cache."""


def first_line(error: BaseException) -> str:
    """What an exception of a library says, cut to one line; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class NonFiniteError(UserError):
    """Training gives numbers that are not finite, again and again. The message names the network and the noise levels."""
