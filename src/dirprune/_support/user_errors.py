"""Distinguishing user errors from bugs of dirprune."""

import dis

_RAISE = dis.opmap["RAISE_VARARGS"]


def is_user_error(error: BaseException) -> bool:
    """Return whether an exception is a user error.

    dirprune checks its inputs and raises ValueError, TypeError or ImportError with a message for
    the user. Bugs raise the same types, for example in a failed unpacking or a call of torch. So
    the exception must come from a ``raise`` statement of dirprune. An OSError is always treated
    as a user error, because it is about the user's files.

    Args:
        error: The caught exception, with its traceback.

    Example:
        >>> from dirprune import SparsityPlan
        >>> try:
        ...     SparsityPlan(2.0, steps=10)
        ... except ValueError as error:
        ...     is_user_error(error)
        True
        >>> try:
        ...     int("one")
        ... except ValueError as error:
        ...     is_user_error(error)
        False
    """
    if isinstance(error, OSError):
        return True
    if not isinstance(error, (ValueError, TypeError, ImportError)):
        return False
    entry = error.__traceback__
    while entry is not None and entry.tb_next is not None:
        entry = entry.tb_next
    if entry is None:
        return False
    module = entry.tb_frame.f_globals.get("__name__", "")
    raised = entry.tb_frame.f_code.co_code[entry.tb_lasti] == _RAISE
    return raised and module.partition(".")[0] == "dirprune"
