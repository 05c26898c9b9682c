"""Losses as models: of two values, or of three."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Loss = Callable[..., Tensor]


class Of(nn.Module):
    """A loss as a model."""

    def __init__(self, loss: Loss):
        super().__init__()
        self.loss = loss


class Two(Of):
    """Of two values."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss."""
        return self.loss(x, y)


class Three(Of):
    """Of three values."""

    def forward(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """The loss."""
        return self.loss(x, y, z)
