import re
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
import yaml
from pydantic import SecretStr, ValidationError

from service.__main__ import FAULT, OTHER_DESCRIPTORS, app, main
from service.catalog import ConfigurationError
from service.operation.access import KeyFile
from service.operation.server import Server
from service.settings import Settings, read_settings
from tests import ROOT


@dataclass
class Done:
    status: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`hyperdraw-serve`, to its end; the logs of other tests stay where they go."""
    monkeypatch.setattr("service.__main__.configure_logs", lambda *_: None)

    def call(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["hyperdraw-serve", *arguments])
        status, message = 0, ""
        try:
            main()
        except SystemExit as end:  # which prints text, as the interpreter does
            status, message = (end.code, "") if isinstance(end.code, int) else (1, str(end.code))
        printed = capsys.readouterr()
        return Done(status, printed.out, printed.err + message)

    return call


def read(*arguments: str) -> Settings:
    """The settings that `hyperdraw-serve` with these arguments would serve with."""
    return read_settings(typer.main.get_command(app).make_context("hyperdraw-serve", list(arguments)).params)


def test_flags_go_before_variables_and_variables_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "hyperdraw.toml"
    path.write_text('port = 1\nmax_inputs = 2\nmax_queue = 3\ncors_origins = ["https://a.example"]\n')
    monkeypatch.setenv("HYPERDRAW_MAX_INPUTS", "20")
    monkeypatch.setenv("HYPERDRAW_PORT", "10")
    monkeypatch.setenv("HYPERDRAW_MAX_BODY_BYTES", "")  # as compose files pass what is not set
    settings = read("--config", str(path), "--port", "100")
    assert (settings.port, settings.max_inputs, settings.max_queue) == (100, 20, 3)
    assert settings.cors_origins == ["https://a.example"]
    assert settings.max_body_bytes == Settings().max_body_bytes
    monkeypatch.setenv("HYPERDRAW_CONFIG", str(path))
    assert read().max_queue == 3
    assert read("--max-queue=4", "--allow-anonymous").allow_anonymous


def test_the_container_gets_every_setting_but_those_of_its_own() -> None:
    passed = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["hyperdraw"]["environment"]
    own = {"config", "checkpoints", "host", "port", "socket", "keys"}
    assert set(passed) == {f"HYPERDRAW_{name.upper()}" for name in Settings.model_fields.keys() - own}


def test_what_is_described_can_be_read_again(tmp_path: Path) -> None:
    settings = Settings(
        keys=Path("k\"e'y.toml"), watch=2.5, cors_origins=["https://a.example", "http://b:1"], open_health=False
    )
    path = tmp_path / "hyperdraw.toml"
    path.write_text(settings.describe())
    again = read("--config", str(path))
    assert again.model_dump(exclude={"config"}) == settings.model_dump(exclude={"config"})


def test_a_file_for_feedback_is_described_and_a_url_is_secret(tmp_path: Path) -> None:
    path = tmp_path / "hyperdraw.toml"
    path.write_text(Settings(feedback=SecretStr("answers.sqlite")).describe())
    assert read("--config", str(path)).feedback == SecretStr("answers.sqlite")
    settings = read(
        "--feedback", "postgresql://me:secret@host/answers", "--prediction-log", "https://me:secret@host/events"
    )
    assert "secret" not in settings.describe() + repr(settings) + settings.model_dump_json()
    path.write_text(settings.describe())
    assert read("--config", str(path)).feedback is None


def test_an_address_that_is_refused_is_not_shown(run: Run, checkpoints: Path) -> None:
    done = run("check", "--checkpoints", str(checkpoints), "--prediction-log", "ftp://me:secret@host/events")
    assert done.status != 0
    assert "prediction_log: it must be a folder, or an address like https://" in done.stderr
    assert "secret" not in done.stdout + done.stderr


@pytest.mark.parametrize("place", ["mysql://me:secret@host/answers", "nowhere/answers.sqlite"])
def test_feedback_that_cannot_be_kept_ends_the_start(run: Run, checkpoints: Path, place: str) -> None:
    done = run("check", "--checkpoints", str(checkpoints), "--feedback", place)
    assert done.status == 1
    assert "feedback store" in done.stderr
    assert "secret" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [("port = ", "is not valid TOML"), ("\xff\xfe", "is not valid TOML"), (None, "cannot be read")],
)
def test_files_that_cannot_be_read(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "hyperdraw.toml"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigurationError, match=message):
        read("--config", str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prot = 1", "prot"),
        ("port = 70000", "port"),
        ("max_inputs = 0", "max_inputs"),
        ("header_timeout = inf", "header_timeout"),
        ('freshness = "stale"', "freshness"),
        ('cors_origins = ["https://a.example/path"]', "an origin must be like"),
    ],
)
def test_settings_that_are_not_valid(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "hyperdraw.toml"
    path.write_text(content)
    with pytest.raises(ValidationError, match=message):
        read("--config", str(path))


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("https://a.org", ["https://a.org"]),
        ("https://a.org,http://B.org:1", ["https://a.org", "http://b.org:1"]),
        ('["https://a.org", "http://b.org:1"]', ["https://a.org", "http://b.org:1"]),
    ],
)
def test_lists_have_the_same_forms_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, expected: list[str]
) -> None:
    path = tmp_path / "hyperdraw.toml"
    path.write_text(f"cors_origins = {form!r}\n")
    assert read("--config", str(path)).cors_origins == expected
    assert read("--cors-origins", form).cors_origins == expected
    assert read("--cors-origins", form, "--cors-origins", "http://c").cors_origins == [*expected, "http://c"]
    monkeypatch.setenv("HYPERDRAW_CORS_ORIGINS", form)
    assert read().cors_origins == expected
    assert read("--cors-origins", "").cors_origins == expected  # what is empty is not set


def test_lists_that_are_not_valid(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each ends with what was wrong, and no traceback."""
    for variable, value, message in (
        ("CORS_ORIGINS", '["https://a.org"', "cors_origins: "),
        ("CORS_ORIGINS", "a.org", "an origin must be like"),
        ("HOSTS", "https://a.org", "a host must be like"),
        ("TRUSTED_PROXIES", "10.0.0.1/8", "a proxy must be an address or a network"),
        ("MAX_INPUTS", "many", "max_inputs: .*got 'many'"),
    ):
        with monkeypatch.context() as environment:
            environment.setenv(f"HYPERDRAW_{variable}", value)
            done = run()
        assert done.status == 1
        assert re.search(f"^hyperdraw-serve: invalid settings: .*{message}", done.stderr)
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("address", ["tcp://10.3.4.5:8000", "udp://10.3.4.5:8000"])
def test_what_kubernetes_sets_beside_a_service_of_this_name(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    for name, value in (
        ("PORT", address),
        ("SERVICE_HOST", "10.3.4.5"),
        ("SERVICE_PORT", "8000"),
        ("PORT_8000_TCP", address),
        ("PORT_8000_TCP_ADDR", "10.3.4.5"),
        ("PORT_8000_TCP_PROTO", "tcp"),
    ):
        monkeypatch.setenv(f"HYPERDRAW_{name}", value)
    assert read().port == 8000
    assert read("--port", "9").port == 9
    monkeypatch.setenv("HYPERDRAW_GRPC_PORT", address)  # of a Service named hyperdraw-grpc
    assert read().grpc_port is None
    monkeypatch.setenv("HYPERDRAW_PORT", "http://10.3.4.5")
    with pytest.raises(ValidationError, match="port"):
        read()


def test_connections_that_descriptors_do_not_suffice_for() -> None:
    """The soft limit is raised; what the hard one forbids is said at start."""
    script = """
import logging, os, resource, sys
from service.__main__ import ConfigurationError, Settings, limit_connections
logging.basicConfig(stream=sys.stdout, format="%(message)s")
for hard, port in ((2000, None), (600, None), (200, None), (2000, 0)):
    if not os.fork():
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        try:
            print(limit_connections(Settings(max_connections=1000, grpc_port=port)).max_connections, flush=True)
        except ConfigurationError as error:
            print(error, flush=True)
        os._exit(0)
    os.wait()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    most = 600 - OTHER_DESCRIPTORS
    assert done.stdout.splitlines() == [
        "1000",
        f"only {most} connections can be open, not 1000, as a process may have 600 open files; raise ulimit -n to 1256",
        f"{most}",
        "a process may have only 200 open files; raise ulimit -n to 1256",
        "only 872 connections can be open, not 1000, as a process may have 2000 open files; raise ulimit -n to 2256",
        "872",
    ]


def test_check_prints_the_settings_and_loads_the_models(run: Run, checkpoints: Path, tmp_path: Path) -> None:
    done = run("check", "--checkpoints", str(checkpoints), "--max-inputs", "7")
    assert done.status == 0, done.stderr
    assert "\nmax_inputs = 7\n" in done.stdout
    assert "# device cpu, float32, models digits" in done.stdout
    failed = run("check", "--checkpoints", str(tmp_path))
    assert failed.status == 1
    assert "max_inputs = 256" in failed.stdout
    assert "it contains no checkpoint" in failed.stderr


def test_keys_are_made_on_the_command_line(run: Run, tmp_path: Path) -> None:
    done = run("key", "alice", "--scopes", "predict", "admin")
    key = done.stderr.split()[-1]
    assert key not in done.stdout
    path = tmp_path / "keys.toml"
    path.write_text(done.stdout)
    found = KeyFile(path).find(key)
    assert found is not None
    assert found[0] == "alice"
    assert found[1].scopes == {"predict", "admin"}
    for scopes in ("--scopes predict --scopes admin", "--scopes admin predict", ""):
        done = run("key", "bob", *scopes.split())
        assert f'scopes = ["predict", "{"admin" if scopes else "weights"}"]' in done.stdout
    for arguments, message in (
        (["alice bob"], "a name may have only letters"),
        (["alice", "--scopes", "root"], "not root"),
        (["alice", "--scopes", "predict", "root"], "not root"),
        ([], "name"),
    ):
        done = run("key", *arguments)
        assert done.status == 2
        assert message in done.stderr


def test_help_is_shown(run: Run) -> None:
    for flag in ("--help", "-h"):
        done = run(flag)
        assert done.status == 0
        assert "hyperdraw-serve [OPTIONS]" in done.stdout


def test_flags_that_nobody_would_heed_are_refused(run: Run) -> None:
    for arguments, message in (
        (["--port", "80", "check"], "write the flags after check"),
        (["--no-open-health", "key", "alice"], "write the flags after key"),
        (["serve"], "No such command"),
        (["--prot", "80"], "No such option"),
        (["--workers", "3"], "No such option: --workers"),
    ):
        done = run(*arguments)
        assert done.status == 2
        assert message in done.stderr


def test_what_cannot_be_served_ends_with_a_reason(run: Run, checkpoints: Path) -> None:
    for arguments, message in (
        (["--host", "0.0.0.0"], "--allow-anonymous"),
        (["--device", "cuda:99"], "no device 'cuda:99'"),
        (["--keys", "/nowhere"], "cannot be read"),
        (["--port", "many"], "port: "),
        (["--port", "70000"], "port: "),
        (["--port", "8123", "--grpc-port", "8123"], "--port and --grpc-port are both 8123"),
        (["--device", "abacus"], "no device 'abacus'"),
        (["--checkpoints", "nowhere"], "hyperdraw-serve: nowhere is not a directory"),
    ):
        done = run("--checkpoints", str(checkpoints), *arguments)
        assert done.status == 1
        assert message in done.stderr


def test_a_port_that_is_taken_is_told_before_models_are_loaded(run: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("--checkpoints", str(tmp_path / "none"), "--port", port)
        grpc = run("--checkpoints", str(tmp_path / "none"), "--port", "0", "--grpc-port", port)
    for failed, flag in ((done, "--port"), (grpc, "--grpc-port")):
        assert failed.status == 1
        assert f"hyperdraw-serve: cannot listen on 127.0.0.1, port {port}: Address already in use." in failed.stderr
        assert f"choose another {flag}." in failed.stderr


def test_a_fault_of_the_device_is_told_by_the_exit_status(
    run: Run, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(server: Server) -> None:
        server.config.app.state.engine._fault = "the device cpu stopped responding"  # type: ignore[union-attr]  # an app

    monkeypatch.setattr(Server, "run", break_down)
    assert run("--checkpoints", str(checkpoints)).status == FAULT
