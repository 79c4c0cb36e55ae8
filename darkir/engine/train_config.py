"""The options of training: how the weights are updated, and when a run ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from darkir.options import require

NOT_NEGATIVE = (
    "warmup_epochs",
    "weight_decay",
    "grad_clip",
    "early_stopping_patience",
    "save_every",
    "skip_bad_batches",
    "seed",
)


@dataclass(frozen=True)
class TrainConfig:
    """How the weights are updated, and when a run ends."""

    epochs: int = field(default=100, metadata={"help": "passes over the training pairs"})
    batch_size: int = field(default=8, metadata={"help": "pairs in a batch"})
    lr: float = field(default=1e-4, metadata={"help": "peak learning rate of AdamW; a cosine takes it down to 1 %"})
    warmup_epochs: int = field(default=5, metadata={"help": "epochs of linear warm-up, cut to 10 % of all updates"})
    weight_decay: float = field(default=1e-4, metadata={"help": "AdamW weight decay of the convolution kernels"})
    grad_clip: float = field(default=1.0, metadata={"help": "largest 2-norm of the gradient (0: no clipping)"})
    accumulate_steps: int = field(default=1, metadata={"help": "batches whose mean gradient makes one update"})
    ema_decay: float = field(
        default=0.999, metadata={"help": "decay of the weight average that is validated and kept (0: off)"}
    )
    early_stopping_patience: int = field(
        default=15, metadata={"help": "epochs without a better validation PSNR before the run ends (0: never)"}
    )
    mixed_precision: bool = field(default=False, metadata={"help": "run the network in 16 bit where that is safe"})
    amp_dtype: Literal["auto", "bf16", "fp16"] = field(
        default="auto",
        metadata={"help": "16-bit format: auto takes bf16 where the device has it, else fp16 with loss scaling"},
    )
    compile: bool = field(default=False, metadata={"help": "compile the network with torch.compile"})
    checkpoint_activations: bool = field(
        default=False,
        metadata={"help": "compute a block's features again for the gradient: less memory, more time, the same result"},
    )
    seed: int = field(default=42, metadata={"help": "seed of weights, order, crops and augmentation"})
    save_every: int = field(default=10, metadata={"help": "epochs between kept checkpoint_epoch_N.pt files (0: none)"})
    checkpoint_every_steps: int | None = field(
        default=None,
        metadata={
            "help": "updates between saves of checkpoint_last.pt inside an epoch; default: about every two minutes"
        },
    )
    skip_bad_batches: int = field(
        default=0,
        metadata={"help": "updates with a non-finite loss or gradient that a run may leave out before it stops"},
    )

    def __post_init__(self):
        for name in ("epochs", "batch_size", "accumulate_steps"):
            require(getattr(self, name) >= 1, f"--{name} {getattr(self, name)}: must be at least 1")
        for name in NOT_NEGATIVE:
            require(getattr(self, name) >= 0, f"--{name} {getattr(self, name)}: must not be negative")
        require(self.seed < 2**63, f"--seed {self.seed}: must be below 2**63")
        every = self.checkpoint_every_steps
        require(every is None or every >= 1, f"--checkpoint_every_steps {every}: must be at least 1")
        require(self.lr > 0, f"--lr {self.lr}: must be above 0")
        require(0 <= self.ema_decay < 1, f"--ema_decay {self.ema_decay}: must be in [0, 1)")
