"""One thread for the whole suite and the processes it starts: for tiny networks a second thread costs more than it gives."""

import os
import signal

os.environ["OMP_NUM_THREADS"] = "1"
# Started by nohup, or in the background of a script, the suite would hand down "ignored", which no shell can trap.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis
import torch

# A change is judged by the same examples everywhere; make fuzz is what looks for new ones.
hypothesis.settings.register_profile("same_examples", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same_examples")
torch.set_num_threads(1)

# Modules with fixtures that several test files share; one that others import comes first.
pytest_plugins = [
    "tests.helpers.evaluate_runs",
    "tests.helpers.comparison_runs",
    "tests.helpers.export_runs",
    "tests.helpers.loss_terms",
    "tests.helpers.split_runs",
    "tests.helpers.train_runs",
    "tests.helpers.hazard_runs",
    "tests.helpers.wrapper_desk",
]
