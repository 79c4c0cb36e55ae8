"""Updates that come out as a test wants them."""

from engine.training.updates.update import NonFinite


class BrokenUpdate:
    """An update whose numbers are not finite: `what` names the one that is told."""

    def __init__(self, what):
        self.what = what

    def result(self):
        raise NonFinite(self.what)
