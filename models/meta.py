"""Modules without weights, for their names and shapes."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@contextmanager
def building_empty() -> Iterator[None]:
    """Within it, modules are built on the meta device: they take no memory, and no initial weights are drawn.

    What is out of place there, as `2 * x` is and `x.mul_(2)` is not, lets PyTorch import its compiler, which takes a
    second.
    """
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    """Draws no normal weights, for which PyTorch would import its compiler, too."""

    def __torch_function__(
        self, function: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] = {}
    ) -> Any:
        if function is nn.init.normal_:
            return kwargs["tensor"]
        return args[0] if function is Tensor.normal_ else function(*args, **kwargs)
