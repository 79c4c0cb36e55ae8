"""DarkIR as a library: `from darkir import DarkIR, NetworkConfig, load_network`; Restormer is the baseline beside it.

Names are imported on first use, so that `import darkir` needs no torch.
"""

import importlib

__all__ = ["DarkIR", "NetworkConfig", "Restormer", "RestormerConfig", "load_network"]
__version__ = "0.1.0"  # the one place: pyproject.toml reads it here

_HOME = {
    "DarkIR": "darkir.network",
    "NetworkConfig": "darkir.architectures",
    "Restormer": "darkir.restormer",
    "RestormerConfig": "darkir.architectures",
    "load_network": "darkir.weights",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'darkir' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
