import subprocess
import sys

from tests import ROOT

BUILD = """
import sys
from models.meta import building_empty
from tests.conftest import SMALL_TARGET
from tests.samplers import CONFIGS
from tests.sequences import LSTM, HYPER, SPEC
from models.sequences.network import SequenceTarget
from models.sequences.sampler import SequenceSamplerConfig
with building_empty():
    for config in CONFIGS.values():
        sampler = config.build(SMALL_TARGET)
        assert all(tensor.is_meta for tensor in sampler.state_dict().values()), config
        assert "torch._dynamo" not in sys.modules, config
    for size, modes, latents in ((LSTM, 1, 0), (HYPER, 3, 2)):
        SequenceSamplerConfig(SequenceTarget(size, SPEC.num_inputs, SPEC.num_outputs), modes, latents).build()
        assert "torch._dynamo" not in sys.modules, size
"""


def test_no_sampler_is_built_by_way_of_the_compiler() -> None:
    """PyTorch would import it, which takes a second, and a service builds all samplers empty."""
    result = subprocess.run([sys.executable, "-c", BUILD], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
