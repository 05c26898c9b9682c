"""The models that mutants are made of: those of the zoo, and two small ones that choose."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.architectures import ZOO, Make, plain

WIDTH, HIDDEN, PIECES, EXPERTS, CHOSEN = 6, 8, 4, 4, 2


class Maxout(nn.Module):
    """Hidden units that are the largest of some linear maps."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, HIDDEN * PIECES), nn.Linear(HIDDEN, 3)

    def forward(self, input: Tensor) -> Tensor:
        """Shapes: input [batch, width], result [batch, 3]."""
        return self.down(self.up(input).unflatten(-1, (HIDDEN, PIECES)).amax(-1))


class Routed(nn.Module):
    """Experts of which some are chosen by a router, and weighed by it."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.out = nn.Linear(WIDTH, EXPERTS), nn.Linear(HIDDEN, 3)
        self.experts = nn.Parameter(torch.randn(EXPERTS, WIDTH, HIDDEN))

    def forward(self, input: Tensor) -> Tensor:
        """Shapes: input [batch, width], result [batch, 3]."""
        weights, chosen = self.router(input).softmax(-1).topk(CHOSEN, -1)
        answers = torch.einsum("bi,eij->bej", input, self.experts).tanh()
        own = answers.gather(1, chosen.unsqueeze(-1).expand(-1, -1, HIDDEN))
        return self.out((own * weights.unsqueeze(-1)).sum(1))


MODELS: dict[str, Make] = {**ZOO, "maxout": plain(Maxout, 4, WIDTH), "routed": plain(Routed, 4, WIDTH)}
