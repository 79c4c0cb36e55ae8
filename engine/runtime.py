"""The machine that a run gets: device, number format, versions."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import platform
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import PIL
import torch

from common.errors import InputError
from common.gpus import granted_gpu
from common.memory import host_free_bytes

# Of glibc's malloc.h, and mallopt(3): the largest block that is kept, and how much may lie free before it is given back.
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
KEPT_BLOCK, OLD_GLIBC_BLOCK = 2**30, 2**25  # the second is the most that older versions take
NEVER = -1
# Names of what torch holds code for: sm_90, sm_90a, compute_120.
CUDA_CODE = re.compile(r"(?P<kind>sm|compute)_(?P<major>\d+)(?P<minor>\d)[af]?")
NO_GPU_ADVICE = (
    "docs/install.md says which torch a driver and a card need; --device cpu (wrappers: DEVICE=cpu) goes without"
)


def choose_device(name: str) -> torch.device:
    """`--device auto|cuda|cpu|cuda:N` -> the device; cuda:N is from now on the one that torch takes where none is named, as for a
    CUDA graph and the question for bfloat16. InputError when it names one that is not there or cannot be used.

    auto is a GPU wherever this process was given one: it is the CPU only where there is none, never because torch cannot use it.
    """
    flag = f"--device {name}"
    if name == "auto":
        name = "cuda" if _cuda_is_there() else "cpu"
        if name == "cpu" and (granted := granted_gpu()):
            raise InputError(f"{flag}: there is a GPU ({granted}), but {why_no_cuda()}; {NO_GPU_ADVICE}")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name}: not a device; use auto, cuda, cpu or cuda:N") from error
    if device.type not in ("cuda", "cpu"):
        raise InputError(f"--device {name}: only cuda and cpu are supported")
    if device.type == "cuda":
        count = torch.cuda.device_count() if _cuda_is_there() else 0
        if count == 0:
            raise InputError(f"{flag}: {why_no_cuda()}; {NO_GPU_ADVICE}")
        if (device.index or 0) >= count:
            raise InputError(f"{flag}: this machine has {count} CUDA devices; use --device auto or cpu")
        _refuse_card_without_code(device, flag)
        if device.index is not None:  # else each of several processes would first take the same one
            torch.cuda.set_device(device)
    return device


def _cuda_is_there() -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of the driver, which `why_no_cuda` tells
        return torch.cuda.is_available()


def is_built_for_gpus() -> bool:
    """Whether this torch is a build for CUDA (or AMD's HIP, which torch calls cuda as well)."""
    return torch.version.cuda is not None or torch.version.hip is not None


def why_no_cuda() -> str:
    """Why torch has no CUDA device: how it was built, or what its own start of CUDA says."""
    if not is_built_for_gpus():
        return f"torch {torch.__version__} was built without CUDA"
    try:
        torch.cuda.init()
    # What a driver can do wrong has no common class; its words are what is asked for.
    except Exception as error:  # noqa: BLE001
        # Without what it asks for ("Please update ..."), which depends on what the user may change.
        said = " ".join(str(error).split()).partition(" Please ")[0].strip(" .")
        return f"torch {torch.__version__} cannot use a GPU here: {said or type(error).__name__}"
    return f"torch {torch.__version__} finds no CUDA device"


def _refuse_card_without_code(device: torch.device, flag: str) -> None:
    """InputError when torch was built without code for this card: its first kernel would fail, hours of preparation later."""
    built = [CUDA_CODE.fullmatch(name) for name in torch.cuda.get_arch_list()]
    if torch.version.hip is not None or not built or None in built:
        return  # AMD's names, or such as nobody knew when this was written
    card = torch.cuda.get_device_capability(device)
    for code in built:
        assert code is not None
        major, minor = int(code["major"]), int(code["minor"])
        # Machine code runs on cards of its generation from its own version on, the intermediate one (compute_) on all newer ones.
        if (code["kind"] == "compute" and (major, minor) <= card) or (major == card[0] and minor <= card[1]):
            return
    raise InputError(
        f"{flag}: the {torch.cuda.get_device_name(device)} has compute capability {card[0]}.{card[1]}, and torch "
        f"{torch.__version__} has code for {', '.join(torch.cuda.get_arch_list())} only; {NO_GPU_ADVICE}"
    )


def keep_freed_memory(device: torch.device) -> None:
    """On the CPU: what tensors free stays with this process, for the tensors to come. glibc only, nothing on CUDA.

    By default glibc gives large blocks back at once, and the system clears every page of the next ones again: on photos of
    512 x 512 more than a third of the time of an inference.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    if not mallopt(M_MMAP_THRESHOLD, KEPT_BLOCK):
        mallopt(M_MMAP_THRESHOLD, OLD_GLIBC_BLOCK)
    mallopt(M_TRIM_THRESHOLD, NEVER)


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether float32 products and convolutions on CUDA may round their factors to TF32's 10 bits, inside; then as before."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = allowed
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def score_exactly() -> None:
    """For the whole process: float32 is float32. What restores or scores must not depend on the card; training says `tf32`."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


@dataclass(frozen=True)
class Precision:
    """The number format of the network's forward pass; losses, spectrum and metrics stay in float32 whatever it is."""

    device_type: str
    dtype: torch.dtype | None

    def autocast(self) -> contextlib.AbstractContextManager:
        """Context for the network's forward pass."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device_type, dtype=self.dtype)

    @property
    def needs_scaler(self) -> bool:
        """float16 gradients underflow without loss scaling; bfloat16 has float32's range."""
        return self.dtype is torch.float16

    @property
    def name(self) -> str:
        """ "float32", "bfloat16" or "float16"."""
        return "float32" if self.dtype is None else str(self.dtype).removeprefix("torch.")

    def describe(self) -> str:
        return self.name if self.dtype is None else f"mixed, {self.name}"


def choose_precision(device: torch.device, mixed: bool, amp_dtype: str) -> Precision:
    """`--mixed_precision` and `--amp_dtype auto|bf16|fp16`: auto takes bfloat16 where the device has it, else float16."""
    if not mixed:
        return Precision(device.type, None)
    if amp_dtype == "auto":
        has_bf16 = device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
        amp_dtype = "bf16" if has_bf16 else "fp16"
    return Precision(device.type, {"bf16": torch.bfloat16, "fp16": torch.float16}[amp_dtype])


def free_bytes(device: torch.device) -> int:
    """Bytes that a device can still give. CUDA: what the driver has left and what torch holds unused; CPU: host_free_bytes."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return host_free_bytes()


def describe_computing(precision: Precision, device: torch.device) -> str:
    """Number format and device, a phrase that ends a log line; a line more where that format is slow on that device."""
    if device.type == "cuda":
        return f"{precision.describe()}, {device} ({torch.cuda.get_device_name(device)})"
    text = f"{precision.describe()}, cpu ({torch.get_num_threads()} threads)"
    if precision.dtype is None or platform.machine() != "x86_64" or "AVX512" in torch.backends.cpu.get_cpu_capability():
        return text
    # Measured: python -m bench.bench_losses on a CPU with AVX2.
    slow = "16 bit is about ten times as slow as float32 on a CPU without AVX-512"
    return f"{text}\n⚠️  {slow}: leave --mixed_precision out (MIXED_PRECISION=0)"


def versions() -> dict[str, str]:
    """Versions of everything that can change a result, as plain strings."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": _torchvision_version(),
        "numpy": numpy.__version__,
        "pillow": PIL.__version__,
    }


def _torchvision_version() -> str:
    """torchvision.__version__, which has a build (+cu130) that the package's metadata lack; importing it takes two seconds."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return "not installed"
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    found = re.search(r"__version__ = ['\"]([^'\"]+)", text)
    assert found is not None, text  # torchvision's build writes that line
    return found[1]


def created_with() -> dict[str, Any]:
    """How a file came about: the command and the versions."""
    return {"argv": list(sys.argv), "versions": versions()}
