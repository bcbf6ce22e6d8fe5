"""HyperLSTM: a small LSTM scales the weights of a large one anew at each step (Ha, Dai & Le 2016, section 3.2).

The small cell sees what the large one sees. From its output come three embeddings for each gate, and from these the
factors of the rows of W_h and W_x and the biases of the step, which is the paper's memory-efficient form.

Shapes: B sequences, n inputs, X numbers of an input, H units, N units of the small cell, Z numbers of an embedding,
S networks, b sequences of each.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.sequences.products import Inputs, Product, choose_dtype, prepare_inputs
from models.sequences.recurrent import Cell, Recurrent, init_orthogonal
from models.sequences.update import GATES, CellUpdate, Update, by_gate
from models.sequences.window import Saved, State, Steps, Watch

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

    def begin(self, one_hot: bool, watch: Watch | None = None) -> "HyperLSTMSteps":
        gates = len(GATES)
        bias = torch.cat([self.bias.new_zeros(gates * self.hidden_size), self.hyper_bias])
        both = torch.cat([self.weight_h, self.hyper_weight_h])
        return HyperLSTMSteps(
            prepare_inputs(torch.cat([self.weight_x, self.hyper_weight_x]), bias, one_hot),
            Product(both, choose_dtype(both)),
            Product(self.hyper_weight, choose_dtype(both)),
            self.hyper_update.begin(),
            Scaling(*self._arrange_generators()),
            self.update.begin(self.begin_masks()),
            watch,
        )

    def _arrange_generators(self) -> tuple[Tensor, Tensor, Tensor]:
        """A [S, 12·Y, N], a [S, 1, 12·Y] and D [12·S, Y, H] of S networks.

        An embedding has a last number that is always 1, so Y = Z + 1; what D has for it is the bias of a gate.
        """
        embedding, size = self.embedding_weight.shape[-2], self.hidden_size
        weight = F.pad(self.embedding_weight, (0, 0, 0, 1))
        weight = weight.reshape(-1, 3 * len(GATES) * (embedding + 1), self.hyper_size)
        first = self.embedding_bias.reshape(-1, 2, len(GATES), embedding)
        first = F.pad(F.pad(first, (0, 0, 0, 0, 0, 1)), (0, 1), value=1.0).flatten(1)[:, None]
        bias = F.pad(self.bias.reshape(-1, 1, len(GATES), size), (0, 0, 0, 0, 2, 0))
        scale = self.scale_weight.reshape(-1, 3, len(GATES), size, embedding)
        scale = torch.cat([scale.mT, bias.unsqueeze(-2)], dim=-2).flatten(1, 2).transpose(0, 1)
        return weight, first, scale.flatten(0, 1)


class Scaling:
    """Factors and biases of the rows of a step, from the outputs of the small cell; for S networks."""

    def __init__(self, embedding: Tensor, first: Tensor, scale: Tensor) -> None:
        """Prepares A [S, 12·Y, N], a [S, 1, 12·Y] and D [12·S, Y, H]."""
        self.weights = embedding, first, scale
        self._embedding = Product(embedding, embedding.dtype)
        self._first, self._scale = first.detach(), scale.detach()
        self._first_gradient, self._scale_gradient = torch.zeros_like(self._first), torch.zeros_like(self._scale)

    def forward(self, hyper_h: Tensor) -> tuple[Tensor, Tensor]:
        """Factors for W_h, factors for W_x and biases of each gate, [3, 4, B, H], and embeddings [12·S, b, Y]."""
        networks = len(self._first)
        embeddings = self._embedding.forward(hyper_h.unflatten(0, (networks, -1))) + self._first
        embeddings = embeddings.unflatten(2, (3 * len(GATES), -1)).permute(2, 0, 1, 3).flatten(0, 1)
        made = torch.bmm(embeddings, self._scale)
        return made.view(3, len(GATES), len(hyper_h), -1), embeddings

    def backward(self, hyper_h: Tensor, embeddings: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of the outputs of the small cell, [B, N], from that of the factors and biases."""
        networks = len(self._first)
        gradient = gradient.view(len(embeddings), -1, gradient.shape[-1])
        self._scale_gradient.baddbmm_(embeddings.mT, gradient)
        found = torch.bmm(gradient, self._scale.mT)
        found = found.unflatten(0, (-1, networks)).permute(1, 2, 0, 3).flatten(2)
        self._first_gradient += found.sum(1, keepdim=True)
        return self._embedding.backward(hyper_h.unflatten(0, (networks, -1)), found).flatten(0, 1)

    def gradients(self) -> tuple[Tensor, ...]:
        """Of A, a and D, summed over what went back."""
        first, self._first_gradient = self._first_gradient, torch.zeros_like(self._first)
        scale, self._scale_gradient = self._scale_gradient, torch.zeros_like(self._scale)
        return *self._embedding.gradients(), first, scale


class HyperLSTMSteps(Steps):
    """Steps of a HyperLSTM. A state is (h, c, ĥ, ĉ)."""

    def __init__(
        self,
        inputs: Inputs,
        both: Product,
        small: Product,
        hyper_update: Update,
        scaling: Scaling,
        update: Update,
        watch: Watch | None,
    ) -> None:
        super().__init__(inputs, both, small, hyper_update, scaling, update)
        self._both, self._small, self._scaling = both, small, scaling
        self._hyper_update, self._update, self._watch = hyper_update, update, watch

    def forward(self, given: Tensor, state: State) -> tuple[State, Saved]:
        h, c, hyper_h, hyper_c = state
        h, hyper_h = h.to(self._both.dtype), hyper_h.to(self._small.dtype)
        sizes = [len(GATES) * c.shape[1], len(GATES) * hyper_c.shape[1]]
        from_h, hyper_from_h = (by_gate(part) for part in self._both.forward(h).split(sizes, 1))
        from_x, hyper_from_x = (by_gate(part) for part in given.split(sizes, 1))
        hyper_gates = hyper_c.new_empty(len(GATES), *hyper_c.shape)
        torch.add(hyper_from_x, hyper_from_h, out=hyper_gates)
        hyper_gates += by_gate(self._small.forward(hyper_h))
        hyper_output, hyper_c, hyper_saved = self._hyper_update.forward(hyper_gates, hyper_c)
        made, embeddings = self._scaling.forward(hyper_output)
        by_h, by_x, gates = made
        if self._watch:
            self._watch(torch.stack([by_h, by_x]).permute(2, 0, 1, 3))
        from_h = from_h.to(c.dtype)
        gates.addcmul_(by_x, from_x).addcmul_(by_h, from_h)
        output, c, saved = self._update.forward(gates, c)
        own = h, from_h, from_x, hyper_h, hyper_output, embeddings, made
        return (output, c, hyper_output, hyper_c), (*own, *saved, *hyper_saved)

    def backward(self, saved: Saved, gradients: State, given_gradient: Tensor) -> State:
        h, from_h, from_x, hyper_h, hyper_output, embeddings, made, *rest = saved
        half = len(rest) // 2
        h_gradient, c_gradient, hyper_h_gradient, hyper_c_gradient = gradients
        sizes = [len(GATES) * size for size in (c_gradient.shape[1], hyper_c_gradient.shape[1])]
        both_gradient = torch.empty_like(given_gradient)
        of_h, of_hyper_h = (by_gate(part) for part in both_gradient.split(sizes, 1))
        of_x, of_hyper_x = (by_gate(part) for part in given_gradient.split(sizes, 1))
        gates, c_gradient = self._update.backward(rest[:half], h_gradient, c_gradient)
        of_made = torch.empty_like(made)
        for k, gate in enumerate(gates):
            torch.mul(gate, made[0, k], out=of_h[k])
            torch.mul(gate, made[1, k], out=of_x[k])
            torch.mul(gate, from_h[k], out=of_made[0, k])
            torch.mul(gate, from_x[k], out=of_made[1, k])
            of_made[2, k].copy_(gate)
        hyper_h_gradient = hyper_h_gradient + self._scaling.backward(hyper_output, embeddings, of_made)
        gates, hyper_c_gradient = self._hyper_update.backward(rest[half:], hyper_h_gradient, hyper_c_gradient)
        for k, gate in enumerate(gates):
            of_hyper_h[k].copy_(gate)
            of_hyper_x[k].copy_(gate)
        return (
            self._both.backward(h, both_gradient),
            c_gradient,
            self._small.backward(hyper_h, both_gradient[:, sizes[0] :]),
            hyper_c_gradient,
        )


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
