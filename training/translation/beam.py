"""Beam search, for many sentences at once.

Shapes: B sentences, K hypotheses of each, V symbols, P numbers of a state.
"""

import torch

from training.translation.network import Texts, Translator
from training.translation.vocabulary import END


def penalize(length: int, alpha: float) -> float:
    """The divisor of log-probabilities of Wu et al. ("Google's Neural Machine Translation System", 2016, section 7).

    Args:
        length: number of symbols of a translation, with its end.
        alpha: 0 prefers short translations as their probabilities do; larger ones prefer long translations.
    """
    return float(((5 + length) / 6) ** alpha)


@torch.inference_mode()
def search(network: Translator, sources: Texts, width: int, alpha: float) -> list[list[int]]:
    """Translations with the largest log-probability / penalty that a beam finds. The penalty of coverage is left out.

    The K most probable beginnings of each length go on, and all of them are also ended. The search for a sentence
    stops when no continuation can be better than what was found. It is exact if K is as large as the number of
    beginnings.

    Args:
        network: the network, in evaluation mode.
        sources: B sentences.
        width: K.
        alpha: exponent of the penalty.

    Returns:
        Symbols of each translation, without its end.
    """
    longest = network.config.longest
    memory, (h, c) = network.encode(sources)
    count = len(sources.lengths)
    state = tuple(part[0][:, None].expand(-1, width, -1) for part in (h, c))
    alive = torch.arange(count, device=h.device)  # sentences whose search goes on; all rows are theirs
    scores = h.new_full((count, width), -torch.inf)
    scores[:, 0] = 0  # all hypotheses are still equal
    beginnings = alive.new_empty(count, width, 0)
    symbols = alive.new_full((count, width), END)
    best_scores = h.new_full((count,), -torch.inf)
    best: list[list[int]] = [[] for _ in range(count)]
    for length in range(1, longest + 1):
        logs, state = network.advance(symbols, (state[0], state[1]), memory)
        ended, which = ((scores + logs[:, :, END]) / penalize(length, alpha)).max(1)
        for row in (ended > best_scores[alive]).nonzero()[:, 0].tolist():
            best[int(alive[row])] = beginnings[row, which[row]].tolist()
        best_scores[alive] = best_scores[alive].maximum(ended)
        logs[:, :, END] = -torch.inf
        scores, chosen = (scores[:, :, None] + logs).flatten(1).topk(width)
        parents, symbols = chosen // logs.shape[2], chosen % logs.shape[2]
        going = scores[:, 0] / penalize(longest, alpha) > best_scores[alive]  # as further symbols add at most 0
        if not going.any():
            break
        rows = going.nonzero()[:, 0]
        if len(rows) < len(alive):
            alive, scores, symbols, parents = (part[rows] for part in (alive, scores, symbols, parents))
            memory = memory.select(rows)
        state = tuple(part[rows[:, None], parents] for part in state)
        beginnings = torch.cat([beginnings[rows[:, None], parents], symbols[:, :, None]], 2)
    return best
