"""The one class of a user's mistake. It is the only module that every room may import from another."""


class UserError(ValueError):
    """What was asked for cannot be. The message names the file, row or key, its value and the remedy.

    The entry point prints the message alone. Any other exception keeps its traceback.
    """
