"""Shadowing: a candidate is asked what the stable version has answered, and how often the two disagree is counted."""

import logging
import threading
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from torch import Tensor

from models.model import Model
from models.predictions.prediction import join_parts
from models.predictions.stopping import StoppingRule
from service.engine.batches import Answer
from service.engine.engine import Engine, ServedModel

logger = logging.getLogger(__name__)


@dataclass
class Comparison:
    """How a candidate's answers differ from those of the stable version, since they were first compared."""

    stable: str
    """Version of the stable model."""
    candidate: str
    """Version of the candidate."""
    inputs: int = 0
    """Inputs that both have answered."""
    disagreements: Counter[str] = field(default_factory=Counter)
    """Those of them for which another class is the most probable, as `label`; and by the flag, those for which only one
    of the two raises it, at the default budget of each."""
    dropped: int = 0
    """Requests of which the candidate was not asked, because too much waited already."""
    failed: int = 0
    """Requests that the candidate could not answer."""

    def is_of(self, stable: ServedModel, candidate: ServedModel) -> bool:
        """Whether these two are compared."""
        return (self.stable, self.candidate) == (stable.version, candidate.version)


class Shadow:
    """Compares versions of models, without delaying any answer. All methods are thread-safe."""

    def __init__(self, engine: Engine) -> None:
        """Begins without any comparison.

        Args:
            engine: the engine of the models.
        """
        self._engine = engine
        self._lock = threading.Lock()
        self._comparisons: dict[str, Comparison] = {}
        """The last comparison of each model, by its name."""

    def ask(
        self, stable: Model, candidate: Model, inputs: Tensor, answer: Answer, size: int, rule: StoppingRule | None
    ) -> None:
        """Asks a candidate, in idle time and with the same seed, for what the stable version has answered.

        Args:
            stable: the model that has answered.
            candidate: the candidate.
            inputs: raw inputs, [B, …].
            answer: its answer.
            size: the candidate's largest ensemble, S.
            rule: the candidate's rule by which ensembles stop growing, if any.
        """
        comparison, said = self.find(stable, candidate), _summarize(stable, answer)

        def compare(future: Future[Answer]) -> None:
            if future.cancelled():
                self._count(comparison, dropped=1)
            elif (error := future.exception()) is not None:
                logger.warning("the candidate of %s could not answer: %s", stable.name, error)
                self._count(comparison, failed=1)
            else:
                other = _summarize(candidate, future.result())
                differing = {about: int((said[about] != other[about]).sum()) for about in said.keys() & other.keys()}
                self._count(comparison, len(inputs), differing)

        self._engine.predict_when_idle(candidate, inputs, answer.seed, size, rule).add_done_callback(compare)

    def refuse(self, stable: Model, candidate: Model) -> None:
        """Counts a request for something that the candidate does not offer."""
        self._count(self.find(stable, candidate), failed=1)

    def find(self, stable: Model, candidate: Model) -> Comparison:
        """The comparison of two versions, which begins now if it is not the last one of the model."""
        with self._lock:
            known = self._comparisons.get(stable.name)
            if known is None or not known.is_of(stable, candidate):
                known = self._comparisons[stable.name] = Comparison(stable.version, candidate.version)
            return known

    def read(self) -> dict[str, Comparison]:
        """The last comparison of each model, as it is now, by its name."""
        with self._lock:
            known = self._comparisons.items()
            return {name: replace(each, disagreements=each.disagreements.copy()) for name, each in known}

    def _count(
        self,
        comparison: Comparison,
        inputs: int = 0,
        disagreements: dict[str, int] | None = None,
        dropped: int = 0,
        failed: int = 0,
    ) -> None:
        with self._lock:
            comparison.inputs += inputs
            comparison.disagreements.update(disagreements or {})
            comparison.dropped += dropped
            comparison.failed += failed


def _summarize(model: Model, answer: Answer) -> dict[str, Tensor]:
    """What is compared of an answer: the most probable classes, if there are classes, and whether each flag is raised,
    [B] each."""
    calibration, found = model.find_calibration(answer.rule), list[dict[str, Tensor]]()
    for part in answer.parts:
        own = {"label": part.prediction.probabilities.argmax(-1)} if model.task.has_classes else {}
        if calibration:
            judged = calibration.judge_scores(part.scores, part.prediction.size)
            own |= {flag: judgement.flagged for flag, judgement in judged.items()}
        found.append(own)
    return {about: join_parts(answer.parts, [own[about] for own in found]) for about in found[0]}
