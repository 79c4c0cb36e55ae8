"""What tests/test_kernels.py runs in a process of its own: the Triton kernels against the float64 reference.

On a machine with a CUDA device they run there; elsewhere under Triton's interpreter, which must be on (TRITON_INTERPRET=1)
before Triton is imported.
"""

import copy

import pytest
import torch
import torch.nn.functional as F

from bench import reference_darkir
from darkir import DarkIR, NetworkConfig
from darkir.kernels import TRITON, gate, gated_branches, layer_norm, residual, scaling, tiles, transforms
from darkir.operations import Operations
from tests.test_network import active, dead_channel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
torch.backends.cudnn.allow_tf32 = False  # of convolutions that both sides share: their rounding would hide ours
FORMATS = {"planes": torch.contiguous_format, "channels_last": torch.channels_last}
FLOOR = 4e-7  # relative: where a lucky reference is exact to the last bit


def reference_layer_norm(x, weight, bias, eps):
    module = reference_darkir.LayerNorm2d(len(weight))
    return torch.func.functional_call(module, {"weight": weight, "bias": bias}, (x,))


def reference_branches(x, weights, biases, dilations):
    mixed = 0
    for weight, bias, dilation in zip(weights, biases, dilations, strict=True):
        module = reference_darkir.Branch(len(weight), dilation)
        mixed = mixed + torch.func.functional_call(module, {"branch.0.weight": weight, "branch.0.bias": bias}, (x,))
    gated = reference_darkir.gate(mixed)
    return gated, gated.mean((2, 3), keepdim=True)


def reference_spectrum(x):
    z = torch.fft.rfft2(x)
    return z.abs(), torch.view_as_real(torch.polar(torch.ones_like(z.real), z.angle()))


REFERENCE = Operations(
    name="reference",
    layer_norm=reference_layer_norm,
    gated_branches=reference_branches,
    gate=reference_darkir.gate,
    scale_channels=lambda x, factor: x * factor,
    add_scaled=lambda x, scale, change: x + scale * change,
    add_modulated=lambda x, scale, factor: x + scale * (x * factor),
    spectrum=reference_spectrum,
    synthesis=lambda magnitude, phasor, width: torch.fft.irfft2(
        torch.view_as_complex(phasor) * magnitude, s=(magnitude.shape[-2], width)
    ),
)


def through_the_spectrum(ops, x, weight):
    """Both transforms with something between them that has a gradient."""
    magnitude, phasor = ops.spectrum(x)
    return magnitude, ops.synthesis(magnitude * weight, phasor, x.shape[-1])


def branches(ops, dilations, x, *parameters):
    return ops.gated_branches(x, parameters[: len(dilations)], parameters[len(dilations) :], dilations)


C, WIDE, SIZE = 3, 6, (7, 11)  # odd, no power of two
FEATURES, CHANNEL, SCALE = (2, C, *SIZE), (C,), (1, C, 1, 1)
CASES = {
    "layer_norm": (lambda ops, *tensors: ops.layer_norm(*tensors, 1e-6), [FEATURES, CHANNEL, CHANNEL]),
    "one branch": (lambda ops, *tensors: branches(ops, (1,), *tensors), [(2, WIDE, *SIZE), (WIDE, 1, 3, 3), (WIDE,)]),
    "three branches": (
        lambda ops, *tensors: branches(ops, (1, 4, 9), *tensors),
        [(1, WIDE, *SIZE), *[(WIDE, 1, 3, 3)] * 3, *[(WIDE,)] * 3],
    ),
    "gate": (lambda ops, x: ops.gate(x), [(2, WIDE, *SIZE)]),
    "scale_channels": (lambda ops, *tensors: ops.scale_channels(*tensors), [FEATURES, (2, C, 1, 1)]),
    "add_scaled": (lambda ops, *tensors: ops.add_scaled(*tensors), [FEATURES, SCALE, FEATURES]),
    "add_modulated": (lambda ops, *tensors: ops.add_modulated(*tensors), [FEATURES, SCALE, FEATURES]),
    "spectrum, odd width": (through_the_spectrum, [FEATURES, (1, C, 1, 1)]),
    "spectrum, even width": (through_the_spectrum, [(2, C, 4, 6), (1, C, 1, 1)]),
}


def inputs(case: str, dtype: torch.dtype, memory_format: torch.memory_format) -> list[torch.Tensor]:
    """Features in dtype and format, parameters in float32."""
    torch.manual_seed(0)
    tensors = [torch.randn(shape) for shape in CASES[case][1]]
    is_features = [tensor.dim() == 4 and tensor.shape[-1] > 3 for tensor in tensors]
    return [
        tensor.to(DEVICE, dtype).contiguous(memory_format=memory_format) if features else tensor.to(DEVICE)
        for tensor, features in zip(tensors, is_features, strict=True)
    ]


def results(ops: Operations, case: str, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Outputs of the operation and gradients of all its inputs, for a fixed weighting of the outputs."""
    tensors = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    outputs = CASES[case][0](ops, *tensors)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    torch.autograd.backward(outputs, [weighting(output) for output in outputs])
    return [*(output.detach() for output in outputs), *(tensor.grad for tensor in tensors)]


def weighting(output: torch.Tensor) -> torch.Tensor:
    steps = torch.arange(output.numel(), dtype=torch.float64, device=output.device)
    return (steps * 0.7).cos().to(output.dtype).view_as(output)


def relative(difference: torch.Tensor, whole: torch.Tensor) -> float:
    """2-norm over 2-norm; a gradient that is exactly 0 (the first convolution's on a black image) must be so."""
    return (difference.norm() / whole.norm().clamp_min(1e-30)).item()


def errors(found: list[torch.Tensor], exact: list[torch.Tensor]) -> list[float]:
    return [relative(mine.double() - truth, truth) for mine, truth in zip(found, exact, strict=True)]


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("case", CASES)
def test_float32_is_as_exact_as_the_reference(case, memory_format):
    tensors = inputs(case, torch.float32, memory_format)
    exact = results(REFERENCE, case, [tensor.double() for tensor in tensors])
    own = errors(results(REFERENCE, case, tensors), exact)
    found = results(TRITON, case, tensors)
    for error, allowed in zip(errors(found, exact), own, strict=True):
        assert error <= 2 * allowed + FLOOR
    assert found[0].is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("case", [name for name in CASES if name != "three branches"])  # slow, and shown by one
def test_float64_is_not_cast_down(case):
    tensors = [tensor.double() for tensor in inputs(case, torch.float64, torch.channels_last)]
    exact = results(REFERENCE, case, tensors)
    assert max(errors(results(TRITON, case, tensors), exact)) < 1e-13


@pytest.mark.parametrize("case", [name for name in CASES if "spectrum" not in name])  # float32 always
def test_bfloat16_is_close_and_keeps_the_dtypes(case):
    tensors = inputs(case, torch.bfloat16, torch.channels_last)
    exact = results(REFERENCE, case, [tensor.double() for tensor in tensors])
    found = results(TRITON, case, tensors)
    # Two roundings of 8 bits; the interpreter truncates.
    assert max(errors(found, exact)) < 2 * 2**-8
    for tensor, gradient in zip(tensors, found[-len(tensors) :], strict=True):
        assert gradient.dtype == tensor.dtype
    with_a_parameter = case in ("scale_channels", "add_scaled", "add_modulated")
    assert found[0].dtype == (torch.float32 if with_a_parameter else torch.bfloat16)


@pytest.mark.parametrize("programs", [1, 10**6])
@pytest.mark.parametrize("case", ["layer_norm", "scale_channels", "add_scaled", "add_modulated", "one branch"])
def test_sums_over_many_tiles_and_parts_are_whole_and_repeat(case, programs, monkeypatch):
    monkeypatch.setattr(tiles, "TILE", 32)  # 8 of the 77 pixels: several tiles for one program, or for many
    monkeypatch.setattr(layer_norm, "TILE", 32)
    monkeypatch.setattr(tiles, "PROGRAMS", programs)
    tensors = inputs(case, torch.float32, torch.channels_last)
    exact = results(REFERENCE, case, [tensor.double() for tensor in tensors])
    found = results(TRITON, case, tensors)
    assert max(errors(found, exact)) < 1e-6
    again = results(TRITON, case, tensors)
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))


def test_memory_formats_may_differ():
    # As in an encoder block: features channels_last, the spectrum's answer in planes, a gradient that is neither.
    tensors = inputs("add_modulated", torch.float32, torch.channels_last)
    tensors[2] = tensors[2].contiguous()
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    exact = [tensor.double().requires_grad_() for tensor in tensors]
    incoming = torch.randn(*SIZE, C, 2, device=DEVICE).permute(3, 2, 0, 1)
    TRITON.add_modulated(*leaves).backward(incoming)
    REFERENCE.add_modulated(*exact).backward(incoming.double())
    assert max(errors([leaf.grad for leaf in leaves], [leaf.grad for leaf in exact])) < 1e-6


@pytest.mark.parametrize("scale", [0.0, 1e-38, 1e-24, 1e-13, 1e6])
def test_the_spectrum_stays_finite_at_every_scale(scale):
    for x in (torch.rand(1, 2, 4, 6), torch.ones(1, 2, 4, 6)):
        x = (x * scale).to(DEVICE).requires_grad_()
        magnitude, phasor = TRITON.spectrum(x)
        torch.testing.assert_close(phasor.square().sum(-1).sqrt(), torch.ones_like(magnitude))
        TRITON.synthesis(magnitude + 0.1, phasor, 6).square().sum().backward()
        assert torch.isfinite(x.grad).all()


def test_operators_are_sound_under_torch_compile():
    x = torch.rand(1, 4, 3, 5, device=DEVICE).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight, bias = torch.rand(4, 1, 3, 3, device=DEVICE), torch.rand(4, device=DEVICE)
    scale = torch.rand(1, 4, 1, 1, device=DEVICE, requires_grad=True)
    magnitude, phasor = (tensor.detach().requires_grad_() for tensor in transforms.spectrum(x))
    for operator, arguments in [
        (layer_norm.layer_norm, (x, bias, scale.detach().flatten(), 1e-6, torch.float32)),
        (gated_branches.gated_branches, (x, weight.requires_grad_(), bias.requires_grad_(), [2])),
        (gate.gate, (x,)),
        (scaling.scale_channels, (x, scale)),
        (residual.add, (x, scale, x.detach().contiguous().requires_grad_(), False)),
        (residual.add, (x, scale, x.detach().contiguous().requires_grad_(), True)),
        (transforms.spectrum, (x,)),
        (transforms.synthesis, (magnitude, phasor, 5)),
    ]:
        torch.library.opcheck(operator, arguments)


LAYOUT = NetworkConfig(
    width=4, enc_blocks=(1, 0, 1), middle_enc_blocks=0, middle_dec_blocks=0, dec_blocks=(0, 0, 1), dilations=(1, 4, 9)
)


ONE_OF_EACH = NetworkConfig(
    width=4, enc_blocks=(1,), middle_enc_blocks=0, middle_dec_blocks=0, dec_blocks=(1,), dilations=(2,)
)


def make_network(layout: NetworkConfig = LAYOUT) -> DarkIR:
    torch.manual_seed(0)
    return active(DarkIR(layout))


def reference_network(network: DarkIR) -> reference_darkir.ReferenceDarkIR:
    """The reference with the blocks that `network` has, and its weights."""
    reference = reference_darkir.ReferenceDarkIR(LAYOUT.width)
    counts = [*LAYOUT.enc_blocks, *LAYOUT.dec_blocks, LAYOUT.middle_enc_blocks, LAYOUT.middle_dec_blocks]
    stages = [*reference.encoders, *reference.decoders, reference.middle_blks_enc, reference.middle_blks_dec]
    for stage, count in zip(stages, counts, strict=True):
        stage.modules_list = stage.modules_list[:count]
    reference.load_state_dict(network.state_dict())
    return reference


def network_results(
    network: torch.nn.Module, x: torch.Tensor, dtype: torch.dtype | None = None
) -> dict[str, torch.Tensor]:
    """Both outputs and all gradients."""
    with torch.autocast(DEVICE, dtype, enabled=dtype is not None):
        outputs = network(x, with_side=True) if isinstance(network, DarkIR) else network(x)
    torch.autograd.backward(outputs, [weighting(output) / output.numel() for output in outputs])
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    return {"restored": outputs[0].detach(), "side": outputs[1].detach(), **gradients}


def images() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    smooth = F.interpolate(torch.rand(1, 3, 4, 5), size=(13, 22), mode="bicubic")
    return {
        "natural": (smooth + 0.02 * torch.randn(1, 3, 13, 22)).clamp(0, 1),
        "noise": torch.rand(1, 3, 16, 16),
        "black": torch.zeros(1, 3, 13, 22),
        "constant": torch.full((1, 3, 13, 22), 0.4),
    }


def network_errors(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: relative(found[name].double() - truth, truth) for name, truth in exact.items()}


@pytest.mark.parametrize("image", images())
def test_the_network_is_as_exact_as_the_reference(image, monkeypatch):
    monkeypatch.setattr(gated_branches, "PIXELS", 512)  # few programs: the interpreter takes seconds for many
    memory_format = FORMATS["planes" if image == "natural" else "channels_last"]
    network = make_network().to(DEVICE, memory_format=memory_format)
    x = images()[image].to(DEVICE).contiguous(memory_format=memory_format)
    reference = reference_network(network).to(DEVICE)
    exact = network_results(copy.deepcopy(reference).double(), x.double())
    own = network_errors(network_results(reference, x), exact)
    plain = network_errors(network_results(copy.deepcopy(network), x), exact)
    found = network_errors(network_results(network.use(TRITON), x), exact)
    allowed = {name: 2 * max(own[name], plain[name]) + FLOOR for name in own}
    # On a flat image nearly all bins are rounding noise, and so are single gradients: there the sum of errors is judged.
    if image not in ("black", "constant"):
        assert not {name: error for name, error in found.items() if error > allowed[name]}
    assert sum(found.values()) <= sum(allowed.values())
    assert found["restored"] < 1e-6 and found["side"] < 1e-5


def test_the_network_in_bfloat16_is_close(monkeypatch):
    monkeypatch.setattr(gated_branches, "PIXELS", 512)
    network, x = make_network().to(DEVICE), images()["natural"].to(DEVICE)
    reference = reference_network(network).to(DEVICE)
    exact = network_results(copy.deepcopy(reference).double(), x.double())
    own = network_errors(network_results(reference, x, torch.bfloat16), exact)
    found = network_errors(network_results(network.use(TRITON), x, torch.bfloat16), exact)
    assert found["restored"] <= 2 * own["restored"] and found["side"] <= 2 * own["side"]
    assert sum(found.values()) <= 2 * sum(own.values())


def test_a_dead_channel_trains_with_finite_numbers(monkeypatch):
    monkeypatch.setattr(gated_branches, "PIXELS", 512)
    found = network_results(
        dead_channel(make_network(ONE_OF_EACH)).to(DEVICE).use(TRITON), images()["noise"].to(DEVICE)
    )
    assert all(torch.isfinite(value).all() for value in found.values())


def test_the_network_compiles_as_one_graph(monkeypatch):
    monkeypatch.setattr(gated_branches, "PIXELS", 512)
    network, x = make_network(ONE_OF_EACH).to(DEVICE).use(TRITON), images()["noise"].to(DEVICE)
    compiled = torch.compile(copy.deepcopy(network), fullgraph=True, backend="aot_eager")
    outputs = compiled(x, with_side=True)
    torch.autograd.backward(outputs, [weighting(output) / output.numel() for output in outputs])
    expected = network_results(network, x)
    torch.testing.assert_close(outputs[0], expected["restored"])
    for name, parameter in compiled.named_parameters():
        assert relative(parameter.grad - expected[name.removeprefix("_orig_mod.")], parameter.grad) < 1e-5, name
