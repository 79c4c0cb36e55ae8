"""Runs a script of the toolkit with a pause after every update in a job's first life, so that there is time to stop it.

python tests/slurm/slow.py SCRIPT ARGUMENTS...   SLOW_SECONDS: length of the pause
"""

import os
import runpy
import sys
import time
from pathlib import Path

if sys.argv[1] == "-":  # a few lines of a wrapper, on standard input
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from common import signals

signals.install()

if Path(sys.argv[1]).name == "train_darkir_cv.py" and "SLURM_RESTART_COUNT" not in os.environ:
    from engine.training.updates import loop as updates

    update = updates.train_step

    def slow_update(*arguments):
        result = update(*arguments)
        time.sleep(float(os.environ["SLOW_SECONDS"]))
        return result

    updates.train_step = slow_update

sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
