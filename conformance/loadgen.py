"""LoadGen, the load generator of MLPerf, in three of its scenarios. Its figures are not results of MLPerf."""

import re
import shutil

from conformance.tools import IMAGE, MODEL, PROGRAMS, RESULTS, CheckFailedError, make_environment, run

VERDICT = re.compile(r"^Result is : (\w+)$", re.MULTILINE)
FIGURES = {
    "SingleStream": ("90.0th percentile latency (ns)", 1e-6, "ms for 90 % of single images"),
    "Server": ("Completed samples per second", 1.0, "images a second that come at random"),
    "Offline": ("Samples per second", 1.0, "images a second"),
}
"""The figure of each scenario, its scale, and its unit."""


def check_loadgen(address: str) -> str:
    """Runs the scenarios, and keeps LoadGen's own logs of each.

    Raises:
        CheckFailedError: if LoadGen finds a run invalid.
        ToolMissingError: if LoadGen cannot be installed.
    """
    python = make_environment("loadgen") / "python"
    images = sorted(IMAGE.parent.glob("*.png"))
    found = []
    for scenario in FIGURES:
        folder = RESULTS / "loadgen" / scenario
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        summary = run([python, PROGRAMS / "load_generator.py", scenario, address, MODEL, folder, *images])
        found.append(read_summary(scenario, summary))
    return "; ".join(found)


def read_summary(scenario: str, summary: str) -> str:
    """What LoadGen's summary says of a run.

    Raises:
        CheckFailedError: if the run was not valid.
    """
    verdicts = VERDICT.findall(summary)
    if verdicts != ["VALID"]:
        raise CheckFailedError(f"{scenario} is {', '.join(verdicts) or 'without a result'}:\n{summary}")
    name, scale, unit = FIGURES[scenario]
    (value,) = re.findall(rf"^{re.escape(name)}\s*: ([\d.]+)$", summary, re.MULTILINE)
    return f"{scenario} VALID, {float(value) * scale:.3g} {unit}"
