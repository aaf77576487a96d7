"""The error that every wrong input raises."""


class InputError(ValueError):
    """A file, key or value that the user gave is wrong; the message says what would be right."""
