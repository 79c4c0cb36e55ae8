"""The error of the network package: weights or network options that do not fit. Needs no torch."""


class ModelError(ValueError):
    """Weights or a network description that the user gave cannot be used; the message names the file and what to do."""
