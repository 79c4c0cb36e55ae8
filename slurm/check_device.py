"""Whether --device can be had, by the scripts' own rules: before a wrapper works, or queues jobs, for hours. Exit codes as theirs.

python slurm/check_device.py DEVICE             in the job that will train: the device must be there, where a GPU was granted
python slurm/check_device.py DEVICE --submit    before jobs are queued that ask for a GPU: the build must have CUDA
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.start import check_machine

check_machine()

from common.errors import InputError
from common.exits import DONE, guarded
from common.gpus import granted_gpu


@guarded
def main(argv: list[str] | None = None) -> int:
    """Check; see the module's docstring."""
    device, *where = sys.argv[1:] if argv is None else argv
    if device == "auto" and not where and granted_gpu() is None:
        return DONE  # without torch, whose import takes seconds
    from engine.runtime import choose_device, is_built_for_gpus

    if not where:
        choose_device(device)
    elif not is_built_for_gpus():
        import torch

        raise InputError(
            f"the jobs would ask for a GPU, but torch {torch.__version__} was built without CUDA: docs/install.md says which "
            "torch a driver and a card need; DEVICE=cpu goes without"
        )
    return DONE


if __name__ == "__main__":
    sys.exit(main())
