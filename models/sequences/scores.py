"""What sampled networks say about each symbol of a sequence, in nats.

Shapes: S networks, P symbols, V symbols that are known.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.tasks.probabilities import average_logits, compute_probabilities, shannon_entropy


@dataclass(frozen=True)
class SymbolScores:
    """Scores of the symbols of a sequence, each given all before it. Every tensor is in double precision."""

    surprisal: Tensor
    """−ln of the mean probability of the symbol, [P]."""
    member_surprisal: Tensor
    """The same for each network alone, [S, P]."""
    entropy: Tensor
    """Entropy of the mean probabilities, [P]: how uncertain the ensemble was about the symbol."""
    disagreement: Tensor
    """The part of the entropy on which networks disagree, [P]: the mutual information of symbol and network. The rest
    is ambiguity that they agree on."""


def score_symbols(logits: Tensor, symbols: Tensor) -> SymbolScores:
    """Scores symbols by the networks' logits for them.

    Args:
        logits: [S, P, V].
        symbols: int64 [P].

    Raises:
        NotFiniteError: if a logit is not finite.
    """
    probabilities = compute_probabilities(logits)
    entropy = shannon_entropy(probabilities.mean(0))
    chosen = symbols[None, :, None].expand(len(logits), -1, 1)
    logarithms = logits.double().log_softmax(-1)
    return SymbolScores(
        surprisal=-average_logits(logits.double()).gather(-1, chosen[0])[:, 0],
        member_surprisal=-logarithms.gather(-1, chosen)[..., 0],
        entropy=entropy,
        disagreement=(entropy - shannon_entropy(probabilities).mean(0)).clamp(min=0),
    )


def join_scores(parts: list[SymbolScores]) -> SymbolScores:
    """Scores of successive parts of a sequence as one."""
    return SymbolScores(
        torch.cat([part.surprisal for part in parts]),
        torch.cat([part.member_surprisal for part in parts], dim=1),
        torch.cat([part.entropy for part in parts]),
        torch.cat([part.disagreement for part in parts]),
    )
