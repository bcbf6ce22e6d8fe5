"""Whether `make conformance` says what its tools say."""

import sys
from hashlib import sha256
from pathlib import Path

import pytest
import yaml

from conformance.__main__ import Outcome, judge
from conformance.loadgen import read_summary
from conformance.open_inference import DOCUMENT, make_tensor, narrow
from conformance.tools import REQUIREMENTS, CheckFailedError, ToolMissingError, find_program, install_once, run

SUMMARY = """\
Scenario : Server
Completed samples per second    : 4.59
Result is : {}
  Performance constraints satisfied : Yes
"""


def fail(address: str) -> str:
    return run([sys.executable, "-c", f"print('asked {address}'); raise SystemExit(3)"])


def test_outcomes_are_told_apart() -> None:
    assert judge(lambda address: f"asked {address}", "a") == (Outcome.PASSED, "asked a")
    outcome, found = judge(fail, "a")
    assert outcome == Outcome.FAILED
    assert found.endswith("failed with status 3:\nasked a")
    outcome, found = judge(lambda _: str(find_program("no-such-program", "no-such-package")), "a")
    assert (outcome, found) == (
        Outcome.SKIPPED,
        "no-such-program is not installed; on Debian it is in no-such-package",
    )


def test_tools_are_installed_again_when_their_versions_change(tmp_path: Path) -> None:
    wanted, mark, installed = (tmp_path / name for name in ("wanted", "mark", "installed"))
    install = [sys.executable, "-c", f"open({str(installed)!r}, 'a').write('x')"]
    for version, times in (("1", 1), ("1", 1), ("2", 2)):
        wanted.write_text(version)
        install_once(mark, wanted, install)
        assert installed.read_text() == times * "x"


def test_a_tool_that_cannot_be_installed_is_missing(tmp_path: Path) -> None:
    (tmp_path / "wanted").write_text("1")
    with pytest.raises(ToolMissingError, match="asked for nothing"):
        install_once(
            tmp_path / "mark", tmp_path / "wanted", [sys.executable, "-c", "raise SystemExit('asked for nothing')"]
        )
    assert not (tmp_path / "mark").exists()  # so that it is tried again


def test_versions_are_pinned() -> None:
    lines = [line for path in REQUIREMENTS.iterdir() for line in path.read_text().splitlines()]
    assert len(lines) >= 4
    assert all("==" in line for line in lines)


@pytest.mark.parametrize("summary", [SUMMARY.format("INVALID"), "", SUMMARY.format("VALID") * 2])
def test_only_valid_runs_of_loadgen_pass(summary: str) -> None:
    with pytest.raises(CheckFailedError, match="Server is"):
        read_summary("Server", summary)
    found = read_summary("Server", SUMMARY.format("VALID"))
    assert found == "Server VALID, 4.59 images a second that come at random"


def test_the_published_document_is_not_changed() -> None:
    digest = "719644d1cec52d1c98268ee16f3b75d6de7f523c6686463cbf06bf79134edbb2"  # of KServe's file
    assert sha256(DOCUMENT.read_bytes()).hexdigest() == digest


def test_the_document_is_narrowed_to_a_models_input() -> None:
    document = yaml.safe_load(DOCUMENT.read_text())
    published = yaml.safe_load(DOCUMENT.read_text())
    tensor = make_tensor({"name": "images", "datatype": "UINT8", "shape": [-1, 1, 2, 2]})
    assert tensor == {"name": "images", "datatype": "UINT8", "shape": [1, 1, 2, 2], "data": [0] * 4}
    narrowed = narrow(document, tensor, ["label"])
    assert document == published
    request = narrowed["components"]["schemas"]["inference_request"]
    assert request["properties"]["inputs"]["items"]["properties"]["shape"] == {"enum": [[1, 1, 2, 2]]}
    assert request["properties"]["outputs"]["items"]["properties"] == {"name": {"enum": ["label"]}}
    bodies = [path["post"]["requestBody"] for path in narrowed["paths"].values() if "post" in path]
    assert [body["required"] for body in bodies] == [True]
