"""HyperLSTM: a small LSTM scales the weights of a large one anew at each step (Ha, Dai & Le 2016, section 3.2).

The small cell sees what the large one sees. From its output come three embeddings for each gate, and from these the
factors of the rows of W_h and W_x and the biases of the step, which is the paper's memory-efficient form.

Shapes: B sequences, n inputs, X numbers of an input, H units, N units of the small cell, Z numbers of an embedding,
S networks, b sequences of each.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.sequences.products import GATES, Inputs, Product, choose_dtype, prepare_inputs
from models.sequences.recurrent import Cell, Recurrent, init_orthogonal
from models.sequences.update import CellUpdate, Update, add_by_gate, split_by_gate
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
        unbiased = self.bias.new_zeros(len(self.weight_x))
        both = torch.cat([self.weight_h, self.hyper_weight_h])
        return HyperLSTMSteps(
            prepare_inputs([self.weight_x, self.hyper_weight_x], [unbiased, self.hyper_bias], one_hot),
            Product(both, choose_dtype(both)),
            Product(self.hyper_weight, choose_dtype(both)),
            self.hyper_update.begin(),
            Scaling(*self._arrange_generators()),
            self.update.begin(self.begin_masks()),
            watch,
        )

    def _arrange_generators(self) -> tuple[Tensor, Tensor, Tensor]:
        """A [S, 12·Y, N], a [S, 1, 12·Y] and D [4, 3·S, Y, H] of S networks.

        An embedding has a last number that is always 1, so Y = Z + 1; what D has for it is the bias of a gate.
        """
        gates, embedding, size = len(GATES), self.embedding_weight.shape[-2], self.hidden_size
        weight = F.pad(self.embedding_weight, (0, 0, 0, 1)).reshape(-1, 3, gates, embedding + 1, self.hyper_size)
        first = self.embedding_bias.reshape(-1, 2, gates, embedding)
        first = F.pad(F.pad(first, (0, 0, 0, 0, 0, 1)), (0, 1), value=1.0)
        bias = F.pad(self.bias.reshape(-1, 1, gates, size), (0, 0, 0, 0, 2, 0))
        scale = torch.cat([self.scale_weight.mT.reshape(-1, 3, gates, embedding, size), bias[..., None, :]], dim=-2)
        return (
            weight.transpose(1, 2).flatten(1, 3),
            first.transpose(1, 2).flatten(1)[:, None],
            scale.permute(2, 1, 0, 3, 4).flatten(1, 2),
        )


class Scaling:
    """Factors and biases of the rows of a step, from the outputs of the small cell; for S networks."""

    def __init__(self, embedding: Tensor, first: Tensor, scale: Tensor) -> None:
        """Prepares A [S, 12·Y, N], a [S, 1, 12·Y] and D [4, 3·S, Y, H]."""
        self.weights = embedding, first, scale
        self._embedding, self._first, self._scale = (weight.detach() for weight in self.weights)
        self._networks = len(embedding)
        self._gradients: list[Tensor] = []

    def embed(self, hyper_h: Tensor) -> Tensor:
        """Embeddings for each gate, [4, 3·S, b, Y], from outputs of the small cell, [B, N]."""
        made = torch.baddbmm(self._first, hyper_h.unflatten(0, (self._networks, -1)), self._embedding.mT)
        found: Tensor = made.unflatten(2, (len(GATES), 3, -1)).permute(2, 3, 0, 1, 4).flatten(1, 2)
        return found

    def scale(self, embeddings: Tensor, kinds: int = 3) -> Iterator[Tensor]:
        """Factors for W_h, for W_x, and biases, or the first kinds of these, [kinds, B, H], of each gate in turn.

        Those of a gate are in the place of those of the one before, which stays in the cache.
        """
        rows = kinds * self._networks
        made = embeddings.new_empty(rows, embeddings.shape[2], self._scale.shape[-1])
        for own, scale in zip(embeddings[:, :rows], self._scale[:, :rows], strict=True):
            yield torch.bmm(own, scale, out=made).view(kinds, -1, scale.shape[-1])

    def scale_back(self, gate: int, embeddings: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of a gate's embeddings, [3·S, Y, b], from that of its factors and biases, [3, B, H]."""
        self._gradients = self._gradients or [torch.zeros_like(weight) for weight in self.weights]
        gradient = gradient.view(len(embeddings), -1, gradient.shape[-1])
        self._gradients[2][gate].baddbmm_(embeddings.mT, gradient)
        return torch.bmm(self._scale[gate], gradient.mT)  # several times as fast as its transpose

    def embed_back(self, hyper_h: Tensor, gradients: Sequence[Tensor]) -> Tensor:
        """The gradient of the outputs of the small cell, [B, N], from those of each gate's embeddings."""
        gradient = torch.stack(list(gradients)).unflatten(1, (3, self._networks)).permute(2, 0, 1, 3, 4).flatten(1, 3)
        self._gradients[0].baddbmm_(gradient, hyper_h.unflatten(0, (self._networks, -1)))
        self._gradients[1] += gradient.sum(2)[:, None]
        return torch.bmm(gradient.mT, self._embedding).flatten(0, 1)

    def gradients(self) -> tuple[Tensor, ...]:
        """Of A, a and D, summed over what went back."""
        found, self._gradients = self._gradients, []
        return tuple(found)


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
        gates, hyper_gates = (list(self.inputs.forward(given, group)) for group in (0, 1))
        from_h, hyper_from_h = self._both.forward(h).tensor_split([len(GATES) * c.shape[1]], 1)
        for part in (hyper_from_h, self._small.forward(hyper_h)):
            add_by_gate(hyper_gates, part)
        hyper_output, hyper_c, hyper_saved = self._hyper_update.forward(hyper_gates, hyper_c)
        embeddings = self._scaling.embed(hyper_output)
        scales = []
        for gate, own, made in zip(gates, split_by_gate(from_h, c.dtype), self._scaling.scale(embeddings), strict=True):
            by_h, by_x, bias = made
            torch.addcmul(bias, by_x, gate, out=gate).addcmul_(by_h, own)
            if self._watch:
                scales.append(made.clone())
        if self._watch:
            self._watch(torch.stack(scales).permute(2, 1, 0, 3))
        output, c, saved = self._update.forward(gates, c)
        return (output, c, hyper_output, hyper_c), (h, from_h, hyper_h, hyper_output, embeddings, *saved, *hyper_saved)

    def backward(self, given: Tensor, saved: Saved, gradients: State) -> State:
        h, from_h, hyper_h, hyper_output, embeddings, *rest = saved
        h_gradient, c_gradient, hyper_h_gradient, hyper_c_gradient = gradients
        half = len(rest) // 2
        gates, c_gradient = self._update.backward(rest[:half], h_gradient, c_gradient)
        of_both, of_small = self._both.place(h), self._small.place(hyper_h)
        of_h, of_hyper_h = of_both.tensor_split([len(GATES) * c_gradient.shape[1]], 1)
        of_made, of_embeddings = c_gradient.new_empty(3, *c_gradient.shape), []
        parts = split_by_gate(from_h, c_gradient.dtype), self.inputs.forward(given), self._scaling.scale(embeddings, 2)
        into = of_h.chunk(len(GATES), 1)
        for k, (gate, into_h, own, from_x, (by_h, by_x)) in enumerate(zip(gates, into, *parts, strict=True)):
            torch.mul(gate, own, out=of_made[0])
            torch.mul(gate, from_x, out=of_made[1])
            of_made[2].copy_(gate)
            of_embeddings.append(self._scaling.scale_back(k, embeddings[k], of_made))
            into_h.copy_(by_h.mul_(gate))
            self.inputs.backward(given, k, by_x.mul_(gate))
        hyper_h_gradient = hyper_h_gradient + self._scaling.embed_back(hyper_output, of_embeddings)
        hyper_gates, hyper_c_gradient = self._hyper_update.backward(rest[half:], hyper_h_gradient, hyper_c_gradient)
        both = of_hyper_h.chunk(len(GATES), 1), of_small.chunk(len(GATES), 1)
        for k, (gate, *places) in enumerate(zip(hyper_gates, *both, strict=True)):
            self.inputs.backward(given, k, gate, group=1)
            for place in places:
                place.copy_(gate)
        return self._both.backward(of_both), c_gradient, self._small.backward(of_small), hyper_c_gradient


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
