"""How updates are run: compiled code is compared before it is used, and nothing is changed by numbers that are not finite."""

import contextlib
import copy
import functools
import json
import weakref

import pytest
import torch

import train_darkir_cv
from darkir import DarkIR, NetworkConfig
from darkir.checkpoint_file import read_checkpoint
from engine.distributed import World
from engine.runtime import Precision
from engine.training.config import TrainConfig
from engine.training.updates import execution
from engine.training.updates import loop as updates
from engine.training.updates.execution import WARM_UP, CapturedUpdate, Stepper, train_step
from engine.training.updates.learner import make_learner
from engine.training.updates.update import NonFinite
from losses.config import LossConfig
from losses.objective import Objective
from tests.helpers.photos import write_pairs
from tests.helpers.train_runs import SMALL, stop_at


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_pairs(folder, 6, first_seed=700)
    return folder


def train(photos, output, *flags, epochs=2):
    argv = ["--train_jsonl", str(photos / "pairs.jsonl"), "--output_dir", str(output), "--epochs", str(epochs)]
    return train_darkir_cv.main([*argv, *SMALL, *flags])


def executions(output):
    return [record["execution"] for record in json.loads((output / "history.json").read_text())]


@pytest.fixture
def traced(monkeypatch):
    """The graph is traced, and run operator by operator: making code for a CPU takes minutes."""
    monkeypatch.setattr(execution, "compiled_forward", functools.partial(execution.compiled_forward, backend="eager"))


def test_a_compiled_run_learns_the_same_and_continues_as_it_began(photos, tmp_path, traced, monkeypatch, capsys):
    assert train(photos, tmp_path / "whole", "--compile") == 0
    assert "equal to the plain form" in capsys.readouterr().out
    assert executions(tmp_path / "whole") == ["compiled", "compiled"]
    assert train(photos, tmp_path / "plain", "--compile", "off") == 0
    assert executions(tmp_path / "plain") == ["eager", "eager"]
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        assert train(photos, tmp_path / "stopped", "--compile") == 75
    assert train(photos, tmp_path / "stopped", "--compile", "off") == 0
    assert "this run began with the compiler and goes on so" in capsys.readouterr().out
    whole, plain, stopped = (
        read_checkpoint(tmp_path / name / "checkpoint_last.pt")["raw_params"] for name in ("whole", "plain", "stopped")
    )
    for name, tensor in whole.items():
        assert torch.equal(tensor, stopped[name]), name
        torch.testing.assert_close(plain[name], tensor, atol=1e-4, rtol=1e-3)


def test_a_cache_from_which_another_fold_takes_files_is_counted_all_the_same(tmp_path):
    (tmp_path / "kept").write_bytes(b"12345")
    # Links to nothing: listed, and gone when they are looked at, as the compiler's temporary files are.
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    assert execution._bytes_in(str(tmp_path)) == 5
    assert execution._bytes_in(str(tmp_path / "none")) == 0


def test_what_the_compiler_cannot_do_costs_a_line_not_the_run(photos, tmp_path, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise torch._dynamo.exc.TorchDynamoException("no such operator\nmore")

    monkeypatch.setattr(torch, "compile", fail)
    assert train(photos, tmp_path, "--compile", "on", epochs=1) == 0
    out = capsys.readouterr().out
    assert "--compile: TorchDynamoException: no such operator; going on without the compiler" in out
    assert executions(tmp_path) == ["eager"]


def test_compiled_code_that_computes_something_else_is_not_used(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch, "compile", lambda module, **options: lambda src, tar: 1.01 * module(src, tar))
    assert train(photos, tmp_path, "--compile", "on", epochs=1) == 0
    assert "the compiled loss terms differ from the plain form by 1.0e-02" in capsys.readouterr().out
    assert executions(tmp_path) == ["eager"]


def make_stepper(dtype=None):
    torch.manual_seed(0)
    network = DarkIR(NetworkConfig(width=4, enc_blocks=(1,), middle_enc_blocks=0, middle_dec_blocks=0, dec_blocks=(1,)))
    precision = Precision("cpu", dtype)
    learner = make_learner(network, precision, TrainConfig())
    return Stepper(learner, Objective(LossConfig(lambda_vgg=0), "cpu"), precision, World(), 1.0)


def test_a_gradient_that_overflows_is_not_called_equal(monkeypatch):
    """float16 at a loss scale that is too high, as that of the beginning may be."""
    monkeypatch.setattr(torch, "compile", lambda module, **options: module)
    for scale, found in ((1.0, "equal to the plain form"), (2.0**40, "not compared in its gradient, not finite in")):
        stepper = make_stepper(torch.float16)
        stepper.learner.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        objective, precision = Objective(LossConfig(lambda_vgg=0), "cpu"), Precision("cpu", torch.float16)
        assert execution.compiled_forward(stepper, objective, precision, images())[1].startswith(found)


@pytest.fixture
def stepper():
    return make_stepper()


@pytest.fixture
def captures(monkeypatch):
    """CUDA's graphs without CUDA: what is captured runs at once, once. Each capture's way is listed."""
    listed = []

    @contextlib.contextmanager
    def graph(_, **options):
        listed.append(options)
        yield

    class Fake:
        def __init__(self, *_):
            pass

        def wait_stream(self, _):
            pass

        def replay(self):
            pass

    for name, value in {"graph": graph, "CUDAGraph": Fake, "Stream": Fake, "current_stream": Fake}.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    return listed


def images():
    return {name: torch.randint(0, 255, (2, 3, 16, 16), dtype=torch.uint8) for name in ("src", "tar")}


def everything(learner):
    moments = [tensor for state in learner.optimizer.state.values() for tensor in state.values()]
    parts = [*learner.network.parameters(), *learner.average.network.parameters(), *moments]
    return copy.deepcopy([part.detach() for part in parts])


def without_gradient(stepper):
    """0, whose gradient is 0 / 0."""
    return next(stepper.learner.network.parameters()).sum().mul(0).sqrt()


@pytest.mark.parametrize(("broken", "named"), [("term", "loss term ssim"), ("gradient", "gradient")])
def test_an_update_that_is_not_finite_changes_nothing(stepper, broken, named):
    train_step(stepper, [images()], 0, 1e-3).result()
    before, plain = everything(stepper.learner), stepper.forward

    def forward(src, tar):
        terms = plain(src, tar)
        if broken == "term":
            return terms + torch.tensor([0.0, torch.inf])
        return terms + without_gradient(stepper)

    stepper.forward = forward
    with pytest.raises(NonFinite, match=named):
        train_step(stepper, [images()], 1, 1e-3).result()
    assert all(torch.equal(one, other) for one, other in zip(before, everything(stepper.learner), strict=True))
    stepper.forward = plain
    train_step(stepper, [images()], 1, 1e-3).result()
    assert not all(torch.equal(one, other) for one, other in zip(before, everything(stepper.learner), strict=True))


def test_a_compiler_that_fails_later_costs_a_line_too(stepper):
    warned, stepper.warn = [], lambda line: warned.append(line)

    def forward(src, tar):
        raise RuntimeError("recompile limit reached\nmore")

    stepper.forward = forward
    assert stepper.mode == "compiled"
    train_step(stepper, [images()], 0, 1e-3).result()
    assert stepper.mode == "eager" and "RuntimeError: recompile limit reached" in warned[0]


def test_numbers_are_read_when_the_next_update_has_been_started(photos, tmp_path, monkeypatch):
    real, order = updates.train_step, []

    def step(*arguments):
        started = real(*arguments)
        order.append("start")
        result = started.result
        started.result = lambda: order.append("read") or result()
        return started

    monkeypatch.setattr(updates, "train_step", step)
    assert train(photos, tmp_path, epochs=1) == 0
    assert order[:4] == ["start", "start", "read", "start"] and order[-1] == "read"
    assert order.count("start") == order.count("read")


def captured_run(stepper):
    stepper.captured = CapturedUpdate(stepper.device)
    for update in range(WARM_UP + 1):
        train_step(stepper, [images()], update, 1e-3).result()


def test_a_capture_leaves_other_threads_alone_and_the_optimizer_as_it_was(stepper, captures):
    captured_run(stepper)
    assert [options["capture_error_mode"] for options in captures] == ["thread_local"]  # of one that pins batches
    assert not any(group["capturable"] for group in stepper.learner.optimizer.param_groups)
    assert stepper.captured.graph is not None


def test_a_captured_update_goes_with_its_run(captures):
    stepper = make_stepper()
    captured_run(stepper)
    graph = weakref.ref(stepper.captured)
    del stepper
    assert graph() is None  # at once: the next fold needs the memory


def test_a_capture_that_fails_costs_a_line_in_float16_too(captures, monkeypatch):
    stepper, warned = make_stepper(torch.float16), []
    stepper.warn = warned.append
    real = stepper.learner.optimizer.step

    def step():
        if captures and not warned:
            raise RuntimeError("operation not permitted when stream is capturing")
        return real()

    monkeypatch.setattr(stepper.learner.optimizer, "step", step)
    captured_run(stepper)
    assert len(warned) == 1 and "cannot be captured" in warned[0] and stepper.captured is None


def test_an_update_is_judged_by_the_loss_scale_that_it_left():
    stepper = make_stepper(torch.float16)
    stepper.learner.scaler.load_state_dict({**stepper.learner.scaler.state_dict(), "scale": 2.0})
    plain = stepper.forward
    stepper.forward = lambda src, tar: plain(src, tar) + without_gradient(stepper)
    first, second = (train_step(stepper, [images()], update, 1e-3) for update in range(2))
    assert first.result().skipped  # at 1 left; the second has gone below
    with pytest.raises(NonFinite, match="gradient at loss scale 1"):
        second.result()
