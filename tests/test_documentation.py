"""README.md and docs/*.md: what they tell people to run is run, and what they name exists.

Commands of a page run in their order, in one directory that looks like the repository, against a real service. What
takes too long is parsed by its own parser. An HTML comment before a block, `<!-- not run: why -->`, leaves it out, and
`<!-- continued -->` runs a Python block with the names of the one before it.
Files and edits of `docs/extend.md` are applied to a copy of the repository.
"""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
import yaml
from fastapi import FastAPI
from hyperdraw.__main__ import app as client_app
from pydantic import SecretStr
from typer.core import TyperGroup
from typer.testing import CliRunner

from service.__main__ import app as service_app
from service.app import create_app
from service.operation.access import create_key
from service.settings import Settings, read_settings
from tests import ROOT
from tests.conftest import make_session, serve
from tests.pictures import EXAMPLES
from tests.rpcs import serve as serve_rpcs
from tests.sequences import save_writer
from tests.waiting import wait_until
from training.__main__ import app as training_app
from training.recipes.toys import toy_cubic
from training.runs.session import train

PAGES = [
    *(ROOT / page for page in ("README.md", "client/README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
ADDRESS, GRPC_ADDRESS = "127.0.0.1:8000", "127.0.0.1:8001"
TYPER_APPS = {"hyperdraw": client_app, "hyperdraw-serve": service_app, "hyperdraw-train": training_app}
COPIED = ("client", "models", "service", "tests", "training", "pyproject.toml")

scopes: dict[Path, dict[str, Any]] = {}
"""Of each page, the names that its last Python block defined."""

RUN, CHECKED, SKIPPED = "run", "checked", "skipped"
outcomes: Counter[tuple[str, str]] = Counter()
"""Of commands and blocks, by page."""


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: Path
    line: int
    comment: str
    """The HTML comment before it."""
    language: str
    content: str
    output: str | None
    """What it prints, if the page shows that."""

    @property
    def file(self) -> str | None:
        """That it is the content of."""
        return self.comment.removeprefix("file: ") if self.comment.startswith("file: ") else None

    @property
    def commands(self) -> list[str]:
        """Of a shell, without comments; what `&&` joins is several, unless one hands files to the next."""
        lines = [re.sub(r"\s+# .*", "", line) for line in self.content.replace("\\\n", "").splitlines()]
        parts = [line.split(" && ") for line in lines if line.strip()]
        return [command for line in parts for command in line]


def read_blocks(page: Path) -> list[Block]:
    text = page.read_text()
    pattern = re.compile(
        r"(?:<!-- ([^\n]*?) -->\n\n)?^```(\w*)\n(.*?)^```$(?:\n\n^```\n(.*?)^```$)?", re.MULTILINE | re.DOTALL
    )
    return [
        Block(page, text.count("\n", 0, match.start(3)), match[1] or "", match[2], match[3], match[4])
        for match in pattern.finditer(text)
    ]


def read_prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def read_spans(page: Path) -> list[str]:
    """What is written as code within sentences."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", read_prose(page))]


BLOCKS = [block for page in PAGES for block in read_blocks(page)]


def title(page: Path) -> str:
    return str(page.relative_to(ROOT))


def name(block: Block) -> str:
    return f"{title(block.page)}:{block.line}"


@dataclass(frozen=True)
class Workspace:
    """A directory that looks like the repository, and services that know it."""

    path: Path
    address: str
    keyed_address: str
    grpc_address: str
    environment: dict[str, str]

    def place(self, text: str) -> str:
        """A command or program, with the address of a service in the place of the usual one."""
        text = text.replace(GRPC_ADDRESS, self.grpc_address)
        return text.replace(ADDRESS, self.keyed_address if "$KEY" in text else self.address)


@pytest.fixture(scope="module")
def documented_app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    path = tmp_path_factory.mktemp("workspace")
    (path / "service").symlink_to(ROOT / "service")
    (path / "seven.png").symlink_to(EXAMPLES / "seven.png")
    (path / "checkpoints").mkdir()
    for name in ("mnist-hyperdraw", "kanji", "shakespeare"):
        (path / "checkpoints" / name).symlink_to(ROOT / "checkpoints" / name)
    assert train(make_session(path / "checkpoints" / "toy-cubic", steps=20, recipe=toy_cubic()))
    save_writer(path / "checkpoints" / "sums")
    return create_app(
        Settings(
            checkpoints=path / "checkpoints",
            default_model="mnist-hyperdraw",
            prediction_log=SecretStr(str(path / "predictions")),
            log_inputs=True,
            feedback=SecretStr(str(path / "feedback.sqlite")),
        )
    )


@pytest.fixture(scope="module")
def workspace(documented_app: FastAPI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """There curl fails where the service refuses."""
    path = documented_app.state.settings.checkpoints.parent
    binaries = tmp_path_factory.mktemp("bin")
    curl = binaries / "curl"
    curl.write_text(f'#!/bin/sh\nexec {shutil.which("curl")} --silent --show-error --fail-with-body "$@"\n')
    curl.chmod(0o755)
    key, entry = create_key("alice", ["predict", "weights"])
    keys = binaries / "keys.toml"
    keys.write_text(entry)
    keyed = create_app(Settings(checkpoints=path / "checkpoints" / "toy-cubic", keys=keys))
    environment = {"PATH": f"{binaries}:{os.environ['PATH']}", "KEY": key}
    with ExitStack() as stack:
        address, grpc_address = stack.enter_context(serve_rpcs(documented_app))[1:]
        address, keyed_address = (
            address.removeprefix("http://"),
            stack.enter_context(serve(keyed)).removeprefix("http://"),
        )
        image = (EXAMPLES / "ambiguous.png").read_bytes()
        httpx.post(f"http://{address}/v1/models/mnist-hyperdraw/predict", content=image, timeout=60)
        wait_until(lambda: any((path / "predictions").iterdir()))
        yield Workspace(path, address, keyed_address, grpc_address, environment)


@pytest.fixture(autouse=True)
def _settings_from_flags_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [variable for variable in os.environ if variable.startswith("HYPERDRAW_")]:
        monkeypatch.delenv(variable)


@pytest.mark.parametrize("block", BLOCKS, ids=name)
def test_blocks(block: Block, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    page = title(block.page)
    monkeypatch.chdir(workspace.path)
    if block.comment.startswith("not run: "):
        outcomes[page, SKIPPED] += 1
        pytest.skip(block.comment)
    if block.file or block.comment == "run with the edits above" or block.language == "diff":
        return  # `test_the_example_of_a_sampler`
    printed = io.StringIO()
    with redirect_stdout(printed):
        for outcome in follow(block, workspace):
            outcomes[page, outcome] += 1
    if block.output is not None:
        assert printed.getvalue().strip() == block.output.strip()


def follow(block: Block, workspace: Workspace) -> Iterator[str]:
    """Does what a block says; tells of each part what was done with it."""
    match block.language:
        case "python":
            code = compile("\n" * block.line + workspace.place(block.content), str(block.page), "exec")
            scope = scopes[block.page] if block.comment == "continued" else {"__name__": "__main__"}
            exec(code, scope)
            scopes[block.page] = scope
            yield RUN
        case "sh":
            yield from (do(command, workspace) for command in block.commands)
        case "json":
            json.loads(block.content)
            yield CHECKED
        case "toml":
            Path("settings.toml").write_text(block.content)
            read_settings({"config": "settings.toml"})
            yield CHECKED
        case "":
            pass  # a drawing
        case other:
            pytest.fail(f"nobody knows what to do with {other}")


def do(command: str, workspace: Workspace) -> str:
    """Runs a command if it is quick, else checks it; returns which."""
    words = split(command)
    program, arguments = words[0], words[1:]
    match program:
        case "curl":
            run_curl(command, workspace)
        case "mkdir" | "export":
            run_shell(command, workspace)
        case "hyperdraw":
            invoke(program, arguments, HYPERDRAW_URL=f"http://{workspace.address}")
        case "hyperdraw-serve" if arguments[:1] in (["check"], ["key"]):
            invoke_into_file(program, arguments)
        case "hyperdraw-train" if is_quick(arguments):
            invoke(program, arguments)
        case _:
            check(command)
            return CHECKED
    return RUN


def split(command: str) -> list[str]:
    """Words without what stands before the program."""
    if command.startswith("curl "):  # whose quotes only a shell understands
        return ["curl"]
    words = shlex.split(command)
    while re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    return [words[0].removeprefix(".venv/bin/"), *words[1:]]


def is_quick(arguments: list[str]) -> bool:
    """Whether a training has few steps, or all checkpoints are of such ones."""
    if arguments[0] in ("evaluate", "calibrate", "compare"):
        return all(part.startswith("checkpoints/try") for part in arguments[1:] if part.startswith("checkpoints/"))
    return "--steps" in arguments and int(arguments[arguments.index("--steps") + 1]) < 100


def run_shell(command: str, workspace: Workspace) -> str:
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", workspace.place(command)],
        cwd=workspace.path,
        env=os.environ | workspace.environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def invoke_into_file(program: str, arguments: list[str]) -> None:
    """Runs a command whose output may be appended to a file."""
    *rest, redirection, path = arguments if ">>" in arguments else [*arguments, ">>", os.devnull]
    assert redirection == ">>"
    with Path(path).open("a") as out, redirect_stdout(out):
        invoke(program, rest)


def run_curl(command: str, workspace: Workspace) -> None:
    if shutil.which("curl"):
        run_shell(command, workspace)
    else:
        send(command, workspace)


def send(command: str, workspace: Workspace) -> None:
    """Does what curl does, without it: a shell makes its arguments of the command."""
    arguments = iter(run_shell(f'curl() {{ printf "%s\\n" "$@"; }}; {command}', workspace).splitlines())
    method, url, headers, body, files, out = "GET", "", {}, None, [], None
    for argument in arguments:
        match argument:
            case "-X":
                method = next(arguments)
            case "-H":
                key, value = next(arguments).split(": ")
                headers[key] = value
            case "-F":
                method, (field, value) = "POST", next(arguments).split("=@")
                files.append((field, Path(value).read_bytes()))
            case "--data-binary":
                method, body = "POST", Path(next(arguments).removeprefix("@")).read_bytes()
            case "--json":
                method, body = "POST", next(arguments).encode()
                headers["Content-Type"] = "application/json"
            case "-o":
                out = Path(next(arguments))
            case "-w":
                next(arguments)
            case "--no-buffer":
                pass
            case _:
                assert not argument.startswith("-"), argument
                url = argument
    answer = httpx.request(method, url, headers=headers, content=body, files=files or None, timeout=60)
    assert answer.status_code < 400, f"{command}\n{answer.text}"
    if out:
        out.write_bytes(answer.content)


def test_curl_can_be_done_without(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace.path)
    for command in [command for block in BLOCKS if block.language == "sh" for command in block.commands]:
        if command.startswith("curl ") and "--etag" not in command:
            send(command, workspace)


def invoke(program: str, arguments: list[str], **environment: str) -> None:
    result = CliRunner().invoke(TYPER_APPS[program], arguments, env=environment)
    assert result.exit_code == 0, f"{program} {shlex.join(arguments)}\n{result.output}\n{result.exception!r}"
    print(result.stdout)


def check(command: str) -> None:
    """What a command names exists, and its own parser takes its flags.

    Raises:
        AssertionError: if it does not, or nobody knows what the command is.
    """
    program, *arguments = split(command)
    match program:
        case "hyperdraw" | "hyperdraw-train":
            group = find_group(program)
            group.commands[arguments[0]].make_context(arguments[0], arguments[1:])
        case "hyperdraw-serve":
            read_settings(find_group(program).make_context(program, arguments).params)
        case "docker":
            check_docker(arguments)
        case "torchrun":
            option, number, *rest = arguments
            assert option == "--nproc-per-node"
            assert number.isdecimal()
            assert rest[:2] == ["-m", "training"]
            check(shlex.join(["hyperdraw-train", *rest[2:]]))
        case "python":
            assert arguments[0] == "-m"
            assert find_spec(arguments[1])
        case "make":
            makefile = (ROOT / "Makefile").read_text()
            for argument in arguments:
                pattern = rf"^{argument.partition('=')[0]} \?=" if "=" in argument else rf"^{argument}:"
                assert re.search(pattern, makefile, re.MULTILINE), f"make knows no {argument}"
        case "pip":
            check_pip(arguments)
        case other:
            pytest.fail(f"nobody knows how to check {other}")


def find_group(program: str) -> TyperGroup:
    group = typer.main.get_command(TYPER_APPS[program])
    assert isinstance(group, TyperGroup)
    return group


def read_compose(path: Path) -> Any:
    return yaml.safe_load(path.read_text().replace("!reset ", ""))  # takes back what the file before it says


def check_docker(arguments: list[str]) -> None:
    assert arguments.pop(0) == "compose"
    files, profiles, rest, words = [], [], [], iter(arguments)
    for word in words:
        match word:
            case "-f":
                files.append(next(words))
            case "--profile":
                profiles.append(next(words))
            case _:
                rest.append(word)
    contents = [read_compose(ROOT / file)["services"] for file in files or ["docker-compose.yml"]]
    services: dict[str, Any] = {}
    for content in contents:
        services |= {name: services.get(name, {}) | service for name, service in content.items()}
    assert all("image" in service for service in services.values())
    assert set(profiles) <= {profile for service in services.values() for profile in service.get("profiles", [])}
    assert rest[0] == "up"
    assert set(rest[1:]) <= services.keys()


def check_pip(arguments: list[str]) -> None:
    assert arguments.pop(0) == "install"
    if arguments[0] == "-c":
        assert (ROOT / arguments[1]).is_file()
        arguments = arguments[2:]
    for argument in arguments:
        match = re.fullmatch(r"(\./client|\.)(?:\[([\w,]+)\])?", argument)
        assert match, argument
        project = tomllib.loads((ROOT / match[1] / "pyproject.toml").read_text())["project"]
        assert match[2] is None or set(match[2].split(",")) <= project["optional-dependencies"].keys()


# What sentences name


def list_flags(program: str, *names: str) -> set[str]:
    """Those of a program and of some of its subcommands."""
    group = find_group(program)
    parameters = [*group.params, *(parameter for name in names for parameter in group.commands[name].params)]
    return {"--help"} | {flag for parameter in parameters for flag in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_commands_in_sentences_exist(page: Path) -> None:
    for span in read_spans(page):
        words = span.split()
        if len(words) == 1:
            continue
        if words[0] in TYPER_APPS:
            names = words[1:2] if re.match("[a-z]", words[1]) else []
            assert {word for word in words if word.startswith("--")} <= list_flags(words[0], *names), span
        elif words[0] in ("make", "docker") or re.match(r"pip install [-'.]", span):
            check(span.replace("…", "x"))


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_flags_and_variables_exist(page: Path) -> None:
    flags = {"--scopes"}.union(*(list_flags(program, *find_group(program).commands) for program in TYPER_APPS))
    named = {span.split()[0] for span in read_spans(page) if span.startswith("--")}
    assert named <= flags

    compose = "".join(path.read_text() for path in ROOT.glob("docker-compose*.yml"))
    variables = {f"HYPERDRAW_{field.upper()}" for field in Settings.model_fields}
    variables |= {"HYPERDRAW_URL", "HYPERDRAW_API_KEY", *re.findall(r"\$\{(HYPERDRAW_\w+)", compose)}
    assert set(re.findall(r"HYPERDRAW_\w+", page.read_text())) <= variables


def test_every_setting_is_explained_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `--([\w-]+)` \| (.*?) \|", (ROOT / "docs" / "serve.md").read_text(), re.MULTILINE))
    expected = {
        name.replace("_", "-"): "" if field.default is None else f"`{json.dumps(field.default, default=str)}`"
        for name, field in Settings.model_fields.items()
    }
    assert {name: default.strip() for name, default in rows.items()} == expected


def test_routes_are_named_and_exist(documented_app: FastAPI) -> None:
    paths = documented_app.openapi()["paths"]
    known = {f"{method.upper()} {path}" for path, operations in paths.items() for method in operations}
    known = {route.replace("/versions/{version}", "") for route in known}
    spans = {span.replace("mnist-hyperdraw", "{model}") for page in PAGES for span in read_spans(page)}
    named = {span for span in spans if re.match(r"(GET|HEAD|POST|PATCH) /", span)}
    assert named - {"GET /"} == known
    alone = {span for span in spans if re.fullmatch(r"/[a-z].*", span)}
    assert alone <= {*paths, "/docs", "/openapi.json"}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "experiments" / "README.md"], ids=title)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", read_prose(page)):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in list_anchors(target), link


def list_anchors(page: Path) -> set[str]:
    """Those that GitHub gives headings."""
    titles = re.findall(r"^#+ (.*)$", read_prose(page), re.MULTILINE)
    texts = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).lower() for title in titles]
    return {re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in texts}


def test_the_answers_shown_are_those_of_the_service(workspace: Workspace) -> None:
    """To the three digits that the guide gives."""
    shown = [json.loads(block.content) for block in BLOCKS if block.language == "json"]
    (answer,) = [document for document in shown if "predictions" in document]
    (refusal,) = [document for document in shown if "error" in document]
    image = (EXAMPLES / "seven.png").read_bytes()

    def ask(query: str) -> Any:
        url = f"http://{workspace.address}/v1/models/mnist-hyperdraw/predict?{query}"
        return httpx.post(url, files={"images": image}, timeout=60).json()

    assert_alike(ask("seed=7"), answer)
    assert_alike(ask("ensemble_size=5000"), refusal)


def assert_alike(found: Any, shown: Any) -> None:
    match shown:
        case dict():
            assert found.keys() == shown.keys()
            for key, value in shown.items():
                assert_alike(found[key], value)
        case list():
            for pair in zip(found, shown, strict=True):
                assert_alike(*pair)
        case float():
            assert found == pytest.approx(shown, rel=0.01)
        case _:
            assert found == shown


# The guide to extending it


def test_the_example_of_a_sampler(tmp_path: Path) -> None:
    """Its files and edits make a sampler that fulfils the contract, and can be trained, for a few steps, and loaded."""
    for part in COPIED:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, tmp_path / part)
        else:
            shutil.copy(source, tmp_path / part)
    blocks = [block for block in BLOCKS if block.page.name == "extend.md"]
    for block in blocks:
        if block.file:
            (tmp_path / block.file).write_text(block.content)
        if block.language == "diff":
            apply(block.content, tmp_path)
        if block.file or block.language == "diff":
            outcomes["docs/extend.md", RUN] += 1
    commands = [c for block in blocks if block.comment == "run with the edits above" for c in block.commands]
    program = f"""
import pytest

assert pytest.main(["-q", "-p", "no:cacheprovider", "-k", "gaussian or lists", "tests/models/samplers"]) == 0

from typer.testing import CliRunner
from service.__main__ import check
from service.settings import Settings
from training.__main__ import app

for words in {[split(command)[1:] for command in commands]!r}:
    result = CliRunner().invoke(app, [*words, "--steps", "10"])
    assert result.exit_code == 0, result.output
check(Settings(checkpoints="checkpoints"))
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{tmp_path / 'client'}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "models gaussian" in result.stdout
    outcomes["docs/extend.md", RUN] += len(commands)


def apply(diff: str, root: Path) -> None:
    """Applies a diff that names no lines: what it takes away must be there once."""
    head, *hunks = diff.split("@@\n")
    match = re.search(r"^\+\+\+ b/(.*)$", head, re.MULTILINE)
    assert match
    path = root / match[1]
    text = path.read_text()
    for hunk in hunks:
        lines = [line or " " for line in hunk.splitlines()]
        old = "".join(f"{line[1:]}\n" for line in lines if line[0] in " -")
        new = "".join(f"{line[1:]}\n" for line in lines if line[0] in " +")
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)


def test_what_was_run_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        for page in PAGES:
            counts = ", ".join(f"{outcomes[title(page), outcome]} {outcome}" for outcome in (RUN, CHECKED, SKIPPED))
            print(f"\n{title(page)}: {counts}", end="", file=sys.stderr)  # as processes of pytest-xdist have no stdout
        print(file=sys.stderr)
