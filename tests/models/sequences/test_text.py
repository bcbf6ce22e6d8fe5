"""Text as symbols, and the scores of symbols."""

import math

import pytest
import torch
from pydantic import ValidationError

from models.inputs.kind import InputError
from models.sequences.scores import score_symbols
from models.sequences.text import OTHER, TextSpec
from models.tasks.probabilities import NotFiniteError

ABC = TextSpec(("a", "b", "c"), start="a")


def test_text_survives_the_way_through_numbers() -> None:
    assert ABC.encode("cab") == [2, 0, 1]
    assert ABC.decode([2, 0, 1]) == "cab"
    assert ABC.start_number == 0


def test_unknown_characters_are_named() -> None:
    with pytest.raises(InputError) as caught:
        ABC.encode("abñ☃ñ")
    assert str(caught.value) == (
        "The model does not know 'ñ' (U+00F1), '☃' (U+2603); the first is at position 2. It knows 3 characters: 'abc'."
    )
    with pytest.raises(InputError, match="and 80 more; the first is at position 0"):
        ABC.encode("".join(chr(1000 + k) for k in range(100)))


def test_a_symbol_may_stand_for_all_others() -> None:
    spec = TextSpec(("a", OTHER), start="a")
    assert spec.encode("aba☃") == [0, 1, 0, 1]
    assert spec.find_unknown("aba☃☃") == ["b", "☃"]


@pytest.mark.parametrize(
    ("symbols", "start", "reason"),
    [
        (("a", "a"), "a", "appears twice"),
        (("a", "b"), "c", "is not among the symbols"),
        (("a", "bc"), "a", "at most 1"),
    ],
)
def test_impossible_alphabets_are_refused(symbols: tuple[str, ...], start: str, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        TextSpec(symbols, start)


def test_networks_that_agree_do_not_disagree() -> None:
    probabilities = torch.tensor([[[0.5, 0.25, 0.25]]])
    scores = score_symbols(probabilities.log().expand(3, 2, 3), torch.tensor([0, 1]))
    torch.testing.assert_close(scores.surprisal / math.log(2), torch.tensor([1.0, 2.0], dtype=torch.float64))
    torch.testing.assert_close(scores.entropy / math.log(2), torch.full((2,), 1.5, dtype=torch.float64))
    torch.testing.assert_close(scores.disagreement, torch.zeros(2, dtype=torch.float64), atol=1e-7, rtol=0)
    assert scores.member_surprisal.shape == (3, 2)


def test_networks_that_are_sure_of_different_symbols_disagree_by_a_bit() -> None:
    scores = score_symbols(torch.tensor([[[80.0, 0.0]], [[0.0, 80.0]]]), torch.tensor([0]))
    assert scores.disagreement.item() == pytest.approx(math.log(2))
    assert scores.surprisal.item() == pytest.approx(math.log(2))
    assert scores.member_surprisal.tolist() == [[pytest.approx(0, abs=1e-9)], [pytest.approx(80)]]


def test_outputs_that_are_not_finite_are_refused() -> None:
    with pytest.raises(NotFiniteError):
        score_symbols(torch.tensor([[[math.nan, 0.0]]]), torch.tensor([0]))
