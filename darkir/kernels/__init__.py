"""DarkIR's operations as fused Triton kernels, forward and backward: `from darkir.kernels import TRITON`.

The kernels are right under Triton's interpreter and compile for an H100; their speed is not measured on a GPU. Triton is
imported with the first use of TRITON: nothing else in the package needs it.
"""

import importlib

__all__ = ["TRITON"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'darkir.kernels' has no attribute {name!r}")
    return getattr(importlib.import_module("darkir.kernels.fused"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
