"""train_darkir_cv.py with a gradient of NaN in one update of process 1: python -m tests.helpers.bad_process UPDATE FLAGS"""

import os
import sys

import torch

import train_darkir_cv
from common import signals
from engine.training.updates import loop as updates
from engine.training.updates import update

BAD_UPDATE = int(sys.argv.pop(1)) if __name__ == "__main__" else -1
running = [-1]


def train_step(stepper, batches, number, *rest):
    running[0] = number
    return real_step(stepper, batches, number, *rest)


def make_gradients(learner, *rest):
    terms = real_gradients(learner, *rest)
    if running[0] == BAD_UPDATE and os.environ["RANK"] == "1":
        for parameter in learner.network.parameters():
            if parameter.grad is not None:
                parameter.grad.fill_(torch.nan)
    return terms


real_step, real_gradients = updates.train_step, update.make_gradients

if __name__ == "__main__":
    signals.install()
    updates.train_step, update.make_gradients = train_step, make_gradients
    sys.exit(train_darkir_cv.main())
