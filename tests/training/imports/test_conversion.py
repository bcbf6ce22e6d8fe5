"""Plain modules as target networks."""

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from models.targets.layers import Residual
from models.targets.target import TargetNetwork
from training.imports.conversion import convert
from training.imports.network import NetworkError
from training.recipes.targets import make_convolutional_target, make_wide_resnet


def make_network() -> nn.Sequential:
    """Of all layers that are supported, except residual blocks."""
    features = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, 8, (3, 3), stride=2, padding=1, bias=False),
            bn=nn.BatchNorm2d(8),
            relu=nn.ReLU(inplace=True),
            same=nn.Conv2d(8, 8, 3, padding="same"),
            drop=nn.Dropout2d(),
            bn2=nn.BatchNorm2d(8, affine=False),
            norm=nn.GroupNorm(2, 8),
            leaky=nn.LeakyReLU(0.1),
            valid=nn.Conv2d(8, 6, 3, padding="valid"),
        )
    )
    head = nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(10, 4))
    return nn.Sequential(features, nn.MaxPool2d(2), nn.Identity(), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), head)


def unsettle(network: nn.Module) -> nn.Module:
    """Gives normalisations statistics, gains and biases that are not those they start with."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm):
            for tensor in module.state_dict().values():
                if tensor.is_floating_point():
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return network.eval()


@pytest.mark.parametrize(
    "network",
    [
        make_network(),
        make_wide_resnet(10, 1).module(),
        make_convolutional_target((3, 16, 20), (4, 8), 3, (1, 1), 5).module(),
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 20, 7)),
        nn.Sequential(weight_norm(nn.Conv2d(3, 4, 3)), nn.Flatten(), nn.Linear(4 * 14 * 18, 3)),
    ],
    ids=["all layers", "residual blocks", "downloaded", "perceptron", "weight normalisation"],
)
def test_the_target_computes_what_the_module_computes(network: nn.Module) -> None:
    unsettle(network)
    size = (32, 32) if any(isinstance(child, nn.GroupNorm) for child in network.modules()) else (16, 20)
    conversion = convert(network, size)
    weights = conversion.read_weights()
    target = conversion.target
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == target.parameter_shapes
    images = torch.rand(5, 3, *size)
    module = target.module()
    module.load_state_dict(weights)
    for found in (module(images), target.forward({name: t[None] for name, t in weights.items()}, images)[0]):
        torch.testing.assert_close(found, network(images), atol=1e-5, rtol=1e-5)


def test_batch_normalisations_are_folded_and_told() -> None:
    conversion = convert(unsettle(make_network()), (32, 32))
    assert conversion.folded == ["0.bn", "0.bn2", "5.1"]
    assert conversion.target.weighted_layers == ["conv1", "conv2", "norm1", "conv3", "linear1", "linear2"]


def test_the_source_of_a_target_is_converted_back() -> None:
    """A snippet from a card or a download defines its own class of residual blocks."""
    target = make_wide_resnet(10, 1)
    scope: dict[str, nn.Module] = {}
    exec(target.source, scope)
    conversion = convert(scope["network"].eval(), (32, 32))
    assert conversion.target == TargetNetwork((3, 32, 32), target.layers)
    assert any(isinstance(layer, Residual) for layer in conversion.target.layers)


def after_a_convolution(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(first=nn.Conv2d(1, 4, 3), odd=nn.Sequential(*modules), last=nn.Flatten()))


@pytest.mark.parametrize(
    "module",
    [
        nn.GELU(),
        nn.Sigmoid(),
        nn.LeakyReLU(1.5),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, (3, 1)),
        nn.Conv2d(4, 4, 3, padding=(1, 0)),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 2, padding="same"),
        nn.MaxPool2d(3, stride=2),
        nn.MaxPool2d(2, padding=1),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(2),
        nn.GroupNorm(2, 4, eps=1e-3),
        nn.GroupNorm(2, 4, affine=False),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.Softmax(1),
        nn.LazyLinear(3),
    ],
    ids=repr,
)
def test_other_layers_are_refused_by_name(module: nn.Module) -> None:
    with pytest.raises(NetworkError) as caught:
        convert(after_a_convolution(module), (12, 12))
    assert str(caught.value).startswith(f"the layer odd.0, {module!r}, ")
    assert "Supported are Conv2d with square kernels" in str(caught.value)


@pytest.mark.parametrize("before", [nn.ReLU(), nn.GroupNorm(2, 4), nn.MaxPool2d(2)], ids=repr)
def test_batch_normalisation_elsewhere_is_refused(before: nn.Module) -> None:
    with pytest.raises(NetworkError, match=r"odd\.1, BatchNorm2d.* is not directly after a convolution or linear"):
        convert(after_a_convolution(before, nn.BatchNorm2d(4)), (12, 12))


class OwnForward(nn.Module):
    """A network that is not a row of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(144, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))  # type: ignore[no-any-return]


class ResidualBlock(nn.Sequential):
    """Has the name of blocks that are supported, and computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x + self[0](x)  # type: ignore[no-any-return]


def test_a_forward_method_of_its_own_is_refused() -> None:
    with pytest.raises(NetworkError, match=r"the network, OwnForward, has no counterpart.* write the network as"):
        convert(OwnForward(), (12, 12))
    block = ResidualBlock(nn.Conv2d(1, 1, 3, padding=1))
    conversion = convert(nn.Sequential(block, nn.Flatten(), nn.Linear(144, 2)), (12, 12))
    with pytest.raises(NetworkError, match=r"outputs differ by .* from those of its layers in a row"):
        conversion.read_weights()


@pytest.mark.parametrize(
    ("network", "size", "message"),
    [
        (nn.Sequential(nn.Conv2d(4, 2, 3)), (12, 12), r"0 reads 4 channels; images have 1 \(grey\) or 3 \(colour\)"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(100, 2)),
            (12, 14),
            "1 reads 100 numbers, but images of 14 × 12 pixels have 168 in each channel. Pass the --size",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(100, 2)),
            (12, 12),
            r"2.weight has shape \(2, 100\), but images of 12 × 12 pixels need \(2, 200\). Pass the --size",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(16), nn.Flatten(), nn.Linear(2, 2)),
            (12, 12),
            "does not fit images of 12 × 12 pixels: layer pool1 has an empty output",
        ),
        (nn.Sequential(nn.Conv2d(1, 2, 3)), (12, 12), "the last layer must be linear, to give the outputs, not conv"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(2, 2)), (12, 12), "layer linear1 takes 1 dimension"),
        (nn.Sequential(nn.Flatten(), nn.ReLU()), (12, 12), "has no layers with parameters"),
    ],
    ids=["channels", "perceptron", "later size", "too small", "no linear layer", "no flattening", "no parameters"],
)
def test_layers_that_do_not_fit_are_refused(network: nn.Module, size: tuple[int, int], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        convert(network, size)
