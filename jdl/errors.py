"""The error of the project."""


class Error(Exception):
    """Bad input: what is wrong and what to do. The command line exits with `code`."""

    code = 2
