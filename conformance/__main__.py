"""`python -m conformance`: starts the service, lets others' tools use it, and prints what each found."""

import asyncio
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.load import get
from benchmarks.servers import run_server, wait_for
from conformance.java import check_java
from conformance.k6 import check_k6
from conformance.loadgen import check_loadgen
from conformance.open_inference import check_protocol
from conformance.tools import MODEL, ROOT, CheckFailedError, ToolMissingError
from conformance.typescript import check_typescript

SERVER = [sys.executable, "-m", "service", "--checkpoints", str(ROOT / "checkpoints"), "--port", "PORT"]


WIDTH = 160
"""Of the table where there is no terminal, in columns."""


class Tool(StrEnum):
    """What can be run by itself."""

    OPEN_INFERENCE = "open-inference"
    TYPESCRIPT = "typescript"
    JAVA = "java"
    K6 = "k6"
    LOADGEN = "loadgen"


class Outcome(StrEnum):
    """What came of a check."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


Check = Callable[[str], str]
"""Lets a tool use the service at an address, and says what it found.

Raises:
    CheckFailedError: if the tool could not use the service.
    ToolMissingError: if the tool is not here.
"""
CHECKS: dict[Tool, Check] = {
    Tool.OPEN_INFERENCE: partial(check_protocol, model=MODEL),
    Tool.TYPESCRIPT: check_typescript,
    Tool.JAVA: check_java,
    Tool.K6: check_k6,
    Tool.LOADGEN: check_loadgen,
}


def judge(check: Check, address: str) -> tuple[Outcome, str]:
    """Runs a check, and returns its outcome and what it found."""
    try:
        return Outcome.PASSED, check(address)
    except CheckFailedError as error:
        return Outcome.FAILED, str(error)
    except ToolMissingError as error:
        return Outcome.SKIPPED, str(error)


def main(
    only: Annotated[list[Tool] | None, typer.Option(help="A tool to run; may be repeated.")] = None,
) -> None:
    """Let others' tools use the service. Fails if one cannot, or if none is here."""
    table = Table("tool", "outcome", "seconds", "found")
    outcomes = []
    with run_server(SERVER, {}) as port:
        asyncio.run(wait_for(lambda: get(port, "/readyz")))
        for tool in only or Tool:
            start = time.perf_counter()
            outcome, found = judge(CHECKS[tool], f"http://127.0.0.1:{port}")
            if outcome is Outcome.FAILED:
                print(f"{tool} failed. {found}\n", flush=True)
            table.add_row(tool, outcome, f"{time.perf_counter() - start:.0f}", found.partition("\n")[0])
            outcomes.append(outcome)
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)
    raise typer.Exit(Outcome.FAILED in outcomes or Outcome.PASSED not in outcomes)


if __name__ == "__main__":
    typer.run(main)
