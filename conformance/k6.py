"""k6 with thresholds: several clients at a time, none of which is refused, kept waiting or told something else."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from conformance.tools import IMAGE, MODEL, PROGRAMS, make_environment, run

ROUTES = ("predict", "weights", "infer")


def check_k6(address: str) -> str:
    """Runs the script, whose thresholds decide.

    Raises:
        CheckFailedError: if a threshold is crossed.
        ToolMissingError: if k6 cannot be installed.
    """
    program = make_environment("k6") / "k6"
    with TemporaryDirectory(prefix="hyperdraw-") as name:
        summary = Path(name) / "summary.json"
        values = [f"--env={key}={value}" for key, value in (("ADDRESS", address), ("MODEL", MODEL), ("IMAGE", IMAGE))]
        options = ["--quiet", "--no-color", "--no-usage-report", f"--summary-export={summary}", *values]
        run([program, "run", *options, PROGRAMS / "k6.js"])
        metrics = json.loads(summary.read_text())["metrics"]
    times = [f"{route} {metrics[f'http_req_duration{{name:{route}}}']['p(95)']:.0f} ms" for route in ROUTES]
    return f"{metrics['http_reqs']['count']} requests, none failed; 95 % within: {', '.join(times)}"
