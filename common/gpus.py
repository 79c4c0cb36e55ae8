"""Whether this process was given a GPU: by the variables of Slurm and CUDA, and by NVIDIA's device files. Needs no torch."""

from __future__ import annotations

import os
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
NOT_WANTED = ("", "-1", "NoDevFiles")  # the last is what Slurm writes for a job without a GPU
# Slurm's lists of GPUs (0 is the first one), and the start of the names of its counts ("2", "a100:2").
SLURM_LISTS, SLURM_COUNTS = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS"), "SLURM_GPUS"
DEVICE_FILES = "/dev/nvidia[0-9]*"


def granted_gpu() -> str | None:
    """What says that there is a GPU for this process, such as "SLURM_JOB_GPUS=0"; None without one, and where none is wanted.

    CUDA_VISIBLE_DEVICES decides where it is set: empty or -1, the user wants none.
    """
    visible = os.environ.get(VISIBLE)
    if visible is not None:
        return None if visible.split(",")[0].strip() in NOT_WANTED else f"{VISIBLE}={visible}"
    for name in SLURM_LISTS:
        if os.environ.get(name):
            return f"{name}={os.environ[name]}"
    for name, value in sorted(os.environ.items()):
        if name.startswith(SLURM_COUNTS) and any(
            part.split(":")[-1].strip() not in ("", "0") for part in value.split(",")
        ):
            return f"{name}={value}"
    return next((str(path) for path in _device_files() if _can_be_opened(path)), None)


def _device_files() -> list[Path]:
    place = Path(DEVICE_FILES)
    return sorted(place.parent.glob(place.name))


def _can_be_opened(path: Path) -> bool:
    """Whether the device is for this process: Slurm's control groups show those of other jobs, and let nobody open them."""
    try:
        os.close(os.open(path, os.O_RDWR))
    except PermissionError:
        return False
    except OSError:
        return True  # it is there, and broken: that must be told
    return True
