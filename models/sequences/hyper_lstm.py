"""HyperLSTM: a small LSTM scales the weights of a large one anew at each step (Ha, Dai & Le 2016, section 3.2).

The small cell sees what the large one sees. From its output come three embeddings for each gate, and from these the
factors of the rows of W_h and W_x and the biases of the step, which is the paper's memory-efficient form.

Shapes: B sequences, n inputs, X numbers of an input, H units, N units of the small cell, Z numbers of an embedding,
S networks.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.sequences.deferred import DeferredWeight
from models.sequences.lstm import project
from models.sequences.recurrent import GATES, Cell, CellUpdate, Recurrent, State, init_orthogonal

FIRST_SCALE = 0.1
"""Factor of every row at the start of a training (appendix A.2.3)."""

GENERATORS = "embedding_weight", "embedding_bias", "scale_weight", "bias"
"""Parameters of a cell that scale the weights of a step."""

BIAS_DEVIATION = 0.01
"""Standard deviation of the weights that make the embeddings of biases, at the start."""


class HyperLSTMCell(Cell):
    """One layer of a HyperLSTM.

    The equations of the paper give the embeddings ĥ of the step before; its text and the authors' code give them ĥ of
    the same step, and so does this.

    The parameters that scale a step's weights (`GENERATORS`) may have one more axis at the front, which holds those of
    S networks that share all others. The sequences of a batch are then those of the first network, of the second, and
    so on, equally many of each.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        hyper_size: int,
        embedding_size: int,
        layer_norm: bool,
        recurrent_dropout: float,
    ) -> None:
        super().__init__(input_size, hidden_size, recurrent_dropout)
        self.hyper_size = hyper_size
        gates, small = len(GATES), len(GATES) * hyper_size
        self.weight_x = nn.Parameter(torch.empty(gates * hidden_size, input_size))
        self.weight_h = nn.Parameter(torch.empty(gates * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.zeros(gates, hidden_size))
        self.hyper_weight_x = nn.Parameter(torch.empty(small, input_size))
        self.hyper_weight_h = nn.Parameter(torch.empty(small, hidden_size))
        self.hyper_weight = nn.Parameter(torch.empty(small, hyper_size))
        self.hyper_bias = nn.Parameter(torch.zeros(small))
        self.embedding_weight = nn.Parameter(torch.zeros(3, gates, embedding_size, hyper_size))
        """A_h, A_x and A_b of each gate."""
        self.embedding_bias = nn.Parameter(torch.ones(2, gates, embedding_size))
        self.scale_weight = nn.Parameter(torch.zeros(3, gates, hidden_size, embedding_size))
        """D_h, D_x and D_b of each gate."""
        for weight in (self.weight_x, self.weight_h, self.hyper_weight):
            init_orthogonal(weight)
        whole = torch.empty(small, hidden_size + input_size)
        init_orthogonal(whole)  # what the small cell sees is one vector
        with torch.no_grad():
            self.hyper_weight_h.copy_(whole[:, :hidden_size])
            self.hyper_weight_x.copy_(whole[:, hidden_size:])
            self.embedding_weight[2].normal_(0, BIAS_DEVIATION)
            self.scale_weight[:2] = FIRST_SCALE / embedding_size
        self.update = CellUpdate(hidden_size, layer_norm)
        self.hyper_update = CellUpdate(hyper_size, layer_norm)

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return self.hidden_size, self.hidden_size, self.hyper_size, self.hyper_size

    def project(self, inputs: Tensor) -> Tensor:
        """[n, 4H + 4N]: what the large cell scales, and what the small one adds, its biases included."""
        return torch.cat(
            [project(inputs, self.weight_x), project(inputs, self.hyper_weight_x) + self.hyper_bias], dim=1
        )

    def begin(self, watch: Callable[[Tensor], None] | None = None) -> Callable[[Tensor, State], State]:
        gates, size = len(GATES), self.hidden_size
        both = DeferredWeight(torch.cat([self.weight_h, self.hyper_weight_h]))
        small = DeferredWeight(self.hyper_weight)
        embedding_weight = self.embedding_weight.reshape(
            -1, self.embedding_weight.shape[-4:-1].numel(), self.hyper_size
        )
        embed, networks = DeferredWeight(embedding_weight), len(embedding_weight)
        shifts = self.embedding_bias.reshape(networks, 1, -1)
        shifts = torch.cat([shifts, shifts.new_zeros(networks, 1, shifts.shape[-1] // 2)], dim=-1)
        scale = self.scale_weight.flatten(0, -3).mT  # [12S, Z, H]
        bias = self.bias.reshape(networks, gates, size)
        biases = torch.cat([bias.new_zeros(networks, 2 * gates, size), bias], dim=1).flatten(0, 1)[:, None]
        masks = self.begin_masks()

        def step(given: Tensor, state: State) -> State:
            h, c, hyper_h, hyper_c = state
            from_h, hyper_from_h = both.multiply(h).split([gates * size, gates * self.hyper_size], 1)
            from_x, hyper_from_x = given.split([gates * size, gates * self.hyper_size], 1)
            hyper_gates = hyper_from_h + hyper_from_x + small.multiply(hyper_h)
            hyper_h, hyper_c = self.hyper_update(hyper_gates.unflatten(1, (gates, -1)), hyper_c)
            embeddings = embed.multiply(hyper_h.unflatten(0, (networks, -1))) + shifts
            embeddings = embeddings.unflatten(2, (3 * gates, -1)).transpose(1, 2).flatten(0, 1)
            made = torch.baddbmm(biases, embeddings, scale)  # [12S, B, H]
            by_h, by_x, bias = made.unflatten(0, (networks, 3, gates)).permute(1, 0, 3, 2, 4).flatten(1, 2)
            if watch:
                watch(torch.stack([by_h, by_x], 1))
            own = torch.addcmul(bias, by_x, from_x.unflatten(1, (gates, -1)))
            own = torch.addcmul(own, by_h, from_h.unflatten(1, (gates, -1)))
            h, c = self.update(own, c, masks)
            return h, c, hyper_h, hyper_c

        return step


class HyperLSTM(Recurrent):
    """A HyperLSTM that takes the place of `torch.nn.LSTM`.

    The state has S = H + N numbers: those of the large cell and then those of the small one.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        hyper_size: int = 128,
        embedding_size: int = 4,
        batch_first: bool = False,
        dropout: float = 0.0,
        layer_norm: bool = True,
        recurrent_dropout: float = 0.0,
    ) -> None:
        """Makes a HyperLSTM.

        Args:
            input_size: X.
            hidden_size: H.
            num_layers: number of layers.
            hyper_size: N.
            embedding_size: Z.
            batch_first: whether inputs and outputs are [B, T, …].
            dropout: share of the numbers between layers that are zeroed in training.
            layer_norm: whether the gates of both cells, and the cells that outputs read, are normalised.
            recurrent_dropout: share of the large cell's candidate that is zeroed at each step in training.
        """
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        cells = [
            HyperLSTMCell(size, hidden_size, hyper_size, embedding_size, layer_norm, recurrent_dropout)
            for size in sizes
        ]
        super().__init__(cells, batch_first, dropout)
