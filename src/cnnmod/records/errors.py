"""first_line: an error in one line."""


def first_line(error: BaseException) -> str:
    """Return the first line of the message of an error, or the name of its class if it has no message.

    Examples:
        >>> first_line(ValueError("one, two")), first_line(KeyboardInterrupt())
        ('one, two', 'KeyboardInterrupt')
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
