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

    Of all continuations of K beginnings, those ends are taken that are among the K most probable, and the K most
    probable others go on. At the longest length, all end. The search for a sentence stops when K ends were taken, or
    when nothing better can follow. It is exact if K is as large as the number of all continuations.

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
    scores[:, 0] = 0  # all beginnings are still equal
    beginnings = alive.new_empty(count, width, 0)
    symbols = alive.new_full((count, width), END)
    ends = alive.new_zeros(count)
    best_scores = h.new_full((count,), -torch.inf)
    best: list[list[int]] = [[] for _ in range(count)]
    for length in range(1, longest + 1):
        logs, state = network.advance(symbols, (state[0], state[1]), memory)
        if length == longest:
            logs[:, :, END + 1 :] = -torch.inf
        most, chosen = (scores[:, :, None] + logs).flatten(1).topk(2 * width)
        parents, symbols = chosen // logs.shape[2], chosen % logs.shape[2]
        ended = (symbols == END) & most.isfinite()
        taken = most[:, :width].masked_fill(~ended[:, :width], -torch.inf)
        found, place = (taken / penalize(length, alpha)).max(1)
        for row in (found > best_scores[alive]).nonzero()[:, 0].tolist():
            best[int(alive[row])] = beginnings[row, parents[row, place[row]]].tolist()
        best_scores[alive] = best_scores[alive].maximum(found)
        ends[alive] += ended[:, :width].sum(1)
        others = ended.int().argsort(dim=1, stable=True)[:, :width]  # at most K of 2K ended
        scores, parents, symbols = (part.gather(1, others) for part in (most, parents, symbols))
        possible = scores[:, 0] / penalize(longest, alpha) > best_scores[alive]  # further symbols add at most 0
        rows = (possible & (ends[alive] < width)).nonzero()[:, 0]
        if len(rows) == 0 or length == longest:
            break
        if len(rows) < len(alive):
            alive, scores, symbols, parents = (part[rows] for part in (alive, scores, symbols, parents))
            memory = memory.select(rows)
        state = tuple(part[rows[:, None], parents] for part in state)
        beginnings = torch.cat([beginnings[rows[:, None], parents], symbols[:, :, None]], 2)
    return best
