"""What tests of sequence models share."""

import pytest

from models.sequences.recurrent import Recurrent
from tests.models.sequences.networks import MAKERS, make


@pytest.fixture(params=MAKERS)
def network(request: pytest.FixtureRequest) -> Recurrent:
    return make(request.param)
