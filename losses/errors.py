"""The error of the loss package: a term that was asked for and cannot be built. Needs no torch."""


class LossError(ValueError):
    """A requested loss term cannot be had; the message names the flag and what to do."""
