"""How updates are run: as they are written, or compiled as one graph and then captured as one CUDA graph.

Compiling takes a minute or two and pays over a long run: `--compile auto` decides from the time of a real update. What the compiler
made is compared with the plain form before it is used, and what fails costs a log line, never the run.
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch

from engine.distributed import World
from engine.runtime import Precision, tf32
from engine.training.run import Run
from engine.training.updates.learner import Learner
from engine.training.updates.update import Batch, Forward, LossTerms, Started, make_gradients, update_weights
from losses.objective import Objective

EAGER, COMPILED, CAPTURED = "eager", "compiled", "compiled and captured"
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
# For the decision alone: a compiled update takes at most half the time of a plain one (a prototype on an H200: a third of the
# published network's, which the plain form is near), and compiling took 60 to 130 s there.
SAVED_SHARE, COMPILE_SECONDS = 0.5, 130.0
# How far compiled terms and gradients may be from the plain ones, relative 2-norm: rounding in float32, and in 16 bit, where the
# compiler rounds less often. Not a matter of quality: wrong code is off by far more.
TOLERANCE = {True: 1e-3, False: 0.1}
WARM_UP = 3  # updates before one is captured: libraries make their plans, the allocator finds its sizes


class Stepper:
    """Starts the updates of one learner, one after the other."""

    def __init__(
        self,
        learner: Learner,
        objective: Objective,
        precision: Precision,
        world: World,
        grad_clip: float,
        allow_tf32: bool = True,
        forward: Forward | None = None,
        warn: Callable[[str], None] = warnings.warn,
    ):
        """forward: a compiled form of `LossTerms` for the same parts; None: the plain form. warn: told what does not work."""
        self.learner, self.world, self.grad_clip = learner, world, grad_clip
        self.allow_tf32, self.warn = allow_tf32, warn
        self.names = list(objective.weights)
        self.plain = cast(Forward, LossTerms(learner.network, objective, precision))
        self.forward = self.plain if forward is None else forward
        self.device = learner.share.device
        # The processes' exchange is left out of a graph: NCCL's own watchdog and a capture get into each other's way.
        captures = forward is not None and self.device.type == "cuda" and world.size == 1
        self.captured = CapturedUpdate(self.device) if captures else None

    @property
    def mode(self) -> str:
        """For history.json: what the next update will be."""
        if self.captured is not None:
            return CAPTURED
        return EAGER if self.forward is self.plain else COMPILED

    def on_device(self, batch: dict) -> Batch:
        """Source and target of a batch of the feed; bytes travel, floats are made where they are used."""
        src, tar = (batch[name].to(self.device, non_blocking=True) for name in ("src", "tar"))
        return src, tar

    def run(self, batches: list[Batch]) -> torch.Tensor:
        """One update; its numbers, as `update_weights` gives them."""
        if self.captured is not None:
            try:
                return self.captured.replay(self, batches)
            except CaptureFailed as error:
                self.captured = None
                self.warn(f"⚠️  updates cannot be captured as a CUDA graph ({error}); going on compiled only")
        return self.update(batches)

    def update(self, batches: list[Batch]) -> torch.Tensor:
        """`update_weights` with what this one knows. Parameters that begin to learn make the compiler work again: should it fail
        then, the plain form goes on."""
        parts = (batches, self.grad_clip, self.world)
        try:
            return update_weights(self.learner, self.forward, *parts)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - as in make_stepper
            if self.forward is self.plain:
                raise
            self.forward, self.captured = self.plain, None
            self.warn(f"⚠️  the compiled update failed ({first_line(error)}); going on without the compiler")
            return update_weights(self.learner, self.forward, *parts)

    def recapture(self) -> None:
        """Other parameters learn from now on: a captured graph is of no more use."""
        if self.captured is not None:
            self.captured = CapturedUpdate(self.device)


def train_step(stepper: Stepper, batches: list[dict], update: int, lr: float, stop: bool = False) -> Started:
    """Start optimizer update number `update` (from 0) from the mean gradient of `batches`; `stop`: this process wishes to.

    Raises torch.OutOfMemoryError. What is not finite comes out when the numbers are read.
    """
    stepper.learner.prepare(update, lr)
    on_device = [stepper.on_device(batch) for batch in batches]
    with tf32(stepper.allow_tf32):
        numbers = stepper.run(on_device)
    world, scaler = stepper.world, stepper.learner.scaler
    scale = scaler.scale(numbers.new_ones(1))  # now: it may be another when the numbers are read
    broken = numbers.new_zeros(world.size)
    broken[world.rank] = numbers[-1]
    numbers = torch.cat([numbers[:-1], scale, numbers.new_full((1,), float(stop)), broken])
    return Started(stepper.names, world.mean(numbers), scaler.is_enabled())


def first_line(error: Exception) -> str:
    """What an error is, for a log line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"


class CaptureFailed(RuntimeError):
    """No CUDA graph could be made of an update; nothing was changed."""


class CapturedUpdate:
    """An update as one CUDA graph: the host says one word instead of a thousand.

    Its first calls are updates like any other, on a stream of their own as a capture needs it. Source: PyTorch's notes on CUDA
    graphs, whole-network capture. It keeps no stepper: in a circle of the two, the graph's memory would outlive the run.
    """

    def __init__(self, device: torch.device):
        self.device, self.calls = device, 0
        self.stream = torch.cuda.Stream(device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.batches: list[Batch] = []
        self.numbers: torch.Tensor | None = None

    def replay(self, stepper: Stepper, batches: list[Batch]) -> torch.Tensor:
        """The numbers of one update of `stepper`, each time the same one. Raises CaptureFailed and torch.OutOfMemoryError."""
        if self.graph is None and self.calls < WARM_UP:
            self.calls += 1
            return self._beside(stepper, batches)
        if self.graph is None:
            self.graph = self._captured(stepper, batches)
        for own, given in zip(self.batches, batches, strict=True):
            for mine, theirs in zip(own, given, strict=True):
                mine.copy_(theirs)
        self.graph.replay()
        assert self.numbers is not None
        return self.numbers.clone()

    def _captured(self, stepper: Stepper, batches: list[Batch]) -> torch.cuda.CUDAGraph:
        """The graph of one update on batches of this shape: recorded, not run."""
        self.batches = [(src.clone(), tar.clone()) for src, tar in batches]
        optimizer = stepper.learner.optimizer
        optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        for group in optimizer.param_groups:
            group["capturable"] = True
        try:
            # Of this thread alone: the thread that pins the loaders' batches goes on, and what it asks of the device would be
            # refused to it, and break the capture.
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                self.numbers = update_weights(
                    stepper.learner, stepper.forward, self.batches, stepper.grad_clip, stepper.world
                )
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            # The scaler may stand within an update: with a scale given, here its own, it forgets that.
            stepper.learner.scaler.update(stepper.learner.scaler.get_scale())
            raise CaptureFailed(first_line(error)) from error
        finally:
            for group in optimizer.param_groups:
                group["capturable"] = False  # torch warns of updates outside of a graph
        return graph

    def _beside(self, stepper: Stepper, batches: list[Batch]) -> torch.Tensor:
        """An update on the stream of the capture."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            numbers = stepper.update(batches)
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        return numbers


def make_stepper(run: Run, learner: Learner, batch: dict, execution: str | None, updates_left: int) -> Stepper:
    """The stepper of a run, compiled where --compile and the length of the run say so.

    batch: of the feed, to try things out with. execution: how a run that is continued was run so far, which it keeps.
    """
    parts = (learner, run.objective, run.precision, run.world, run.options.train.grad_clip, run.tf32)
    plain = Stepper(*parts)
    if not _wanted(run, plain, batch, execution, updates_left):
        return plain
    forward, found, reason, started = None, "", None, time.monotonic()
    try:
        forward, found = compiled_forward(plain, run.objective, run.precision, batch)
    except torch.OutOfMemoryError:
        raise
    # What the compiler, Triton and the C++ compiler raise has no common class; whatever it is, it costs the speed only.
    except Exception as error:  # noqa: BLE001
        reason = first_line(error)
    if run.world.any(reason is not None, run.device):
        run.log(f"⚠️  --compile: {reason or 'it failed in another process'}; going on without the compiler")
        return plain
    seconds, cache = time.monotonic() - started, os.environ[CACHE_VARIABLE]
    size = _bytes_in(cache) / 2**20
    run.log(f"Compiled in {seconds:.0f} s and {found}; kept for the next start in {cache} ({size:.0f} MiB)")
    return Stepper(*parts, forward, run.log)


def keep_compiled_code(folder: Path) -> None:
    """Let the compiler keep its results in `folder`, for folds and resumes; a user's own TORCHINDUCTOR_CACHE_DIR wins."""
    os.environ.setdefault(CACHE_VARIABLE, str(folder.absolute() / "compiler"))


def _bytes_in(folder: str) -> int:
    """Size of all files below `folder`. Others may compile there: what they take away meanwhile does not count."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(place, name).stat().st_size
    return total


def compiled_forward(
    plain: Stepper, objective: Objective, precision: Precision, batch: dict, backend: str = "inductor"
) -> tuple[Forward, str]:
    """`LossTerms` of the learner as one compiled graph, compared with the plain form on `batch`; no weight is changed. And in words
    what the comparison found.

    backend: of torch.compile. Raises what the compiler raises, and RuntimeError when the two differ by more than TOLERANCE.
    """
    terms = LossTerms(plain.learner.network, objective, precision)
    forward = cast(Forward, torch.compile(terms, fullgraph=True, dynamic=False, backend=backend))
    tolerance = TOLERANCE[precision.dtype is None]
    found, expected = (_terms_and_gradient(plain, each, batch) for each in (forward, plain.forward))
    uncompared = []
    for name, mine, theirs in zip(("loss terms", "gradient"), found, expected, strict=True):
        difference = ((mine - theirs).norm() / theirs.norm().clamp_min(1e-30)).item()
        if not theirs.isfinite().all():  # as float16 gradients may be, at the loss scale of the beginning
            uncompared.append(name)
        elif not difference <= tolerance:
            raise RuntimeError(f"the compiled {name} differ from the plain form by {difference:.1e}")
    if uncompared:
        return forward, f"not compared in its {' and '.join(uncompared)}, not finite in the plain form"
    return forward, "equal to the plain form"


def _terms_and_gradient(stepper: Stepper, forward: Forward, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    learner = stepper.learner
    with tf32(stepper.allow_tf32):
        terms = make_gradients(learner, forward, [stepper.on_device(batch)])
    gradients = [parameter.grad for parameter in learner.network.parameters() if parameter.grad is not None]
    gradient = torch.cat([gradient.flatten() for gradient in gradients])
    learner.optimizer.zero_grad(set_to_none=True)
    return terms, gradient


def _wanted(run: Run, plain: Stepper, batch: dict, execution: str | None, updates_left: int) -> bool:
    """Whether to compile, with a log line that says why."""
    requested, log = run.options.train.compile, run.log
    if execution is not None:
        before = execution != EAGER
        if requested != "auto" and (requested == "on") != before:
            log(f"--compile {requested}: this run began {'with' if before else 'without'} the compiler and goes on so")
        return before
    if requested != "auto":
        return requested == "on"
    if run.device.type != "cuda":
        return False
    seconds = run.options.train.accumulate_steps * _batch_seconds(plain, batch)
    saved = updates_left * seconds * SAVED_SHARE
    worth = saved > COMPILE_SECONDS
    log(
        f"--compile auto: {'on' if worth else 'off'}: {updates_left} updates of {seconds:.3f} s; compiling takes about "
        f"{COMPILE_SECONDS / 60:.0f} min and is expected to save {saved / 60:.0f} min"
    )
    return not run.world.any(not worth, run.device)


def _batch_seconds(plain: Stepper, batch: dict) -> float:
    """Seconds of forward and backward pass of one batch, the second time."""
    for _ in range(2):
        torch.cuda.synchronize(plain.device)
        started = time.monotonic()
        _terms_and_gradient(plain, plain.forward, batch)
        torch.cuda.synchronize(plain.device)
    return time.monotonic() - started
