import pytest

from models.predictions.detection import Calibration
from tests.calibrations import make_calibration


@pytest.fixture(scope="session")
def calibration() -> Calibration:
    return make_calibration()
