"""The error of the data package: rows or images that cannot be used. Needs no torch."""


class DataError(ValueError):
    """Input data is wrong; the message names file and line (one line for each fault) and what to do."""
