"""What the process does with memory that it has freed."""

import platform
import subprocess
import sys

import pytest

from tests.waiting import PATIENCE

FAULTS = """
import resource, threading
from models.memory import keep_freed_memory
from tests.waiting import PATIENCE
from tests.waiting import PATIENCE

keep_freed_memory()
import torch

def allocate():
    return [torch.empty(2**20).fill_(1) for _ in range(40)]  # 4 MiB each

def measure():
    kept = torch.ones(2**20)
    for _ in range(10):
        allocate()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        allocate()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=measure)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_threads_allocate_again_what_they_have_freed() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert int(done.stdout) < 1024  # pages, of which each tensor has as many
