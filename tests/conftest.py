"""One thread for the whole suite: for tiny networks a second thread costs more than it gives."""

import torch

torch.set_num_threads(1)
