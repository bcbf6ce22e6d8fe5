"""Files that are written whole or not at all, by the client and by the others alike."""

import asyncio
import io
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import hyperdraw
import hyperdraw.files
import pytest

import models.files
from models.checkpoint_files import write_file
from tests import ROOT
from tests.client.gateway import refuse, respond, stand_before
from tests.waiting import PATIENCE, wait_until

Replace = Callable[[Path], AbstractContextManager[BinaryIO]]
PARAMETERS: dict[str, Any] = {"seed": 7, "count": 50}


@pytest.fixture(params=[hyperdraw.files, models.files], ids=["hyperdraw", "models"])
def replace(request: pytest.FixtureRequest) -> Replace:
    function: Replace = request.param.replace_file
    return function


@pytest.fixture(scope="module")
def whole(client: httpx.Client) -> bytes:
    return client.get("/v1/models/digits/weights", params=PARAMETERS).content


def write(replace: Replace, path: Path, content: bytes) -> None:
    with replace(path) as file:
        file.write(content)


def mode(path: Path) -> str:
    return oct(path.stat().st_mode & 0o7777)


@contextmanager
def set_umask(mask: int) -> Iterator[None]:
    former = os.umask(mask)
    try:
        yield
    finally:
        os.umask(former)


def test_both_packages_write_alike() -> None:
    assert (ROOT / "client/hyperdraw/files.py").read_text() == (ROOT / "models/files.py").read_text()


def test_a_file_is_there_whole_or_not_at_all(replace: Replace, tmp_path: Path) -> None:
    path = tmp_path / "net"
    write(replace, path, b"old")
    with suppress(KeyError), replace(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
        raise KeyError
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"old", [path])
    write(replace, path, b"new")
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"new", [path])


def test_permissions_are_those_of_any_other_file(replace: Replace, tmp_path: Path) -> None:
    for mask, expected in ((0o022, "0o644"), (0o077, "0o600"), (0o002, "0o664")):
        with set_umask(mask):
            write(replace, tmp_path / expected, b"x")
        assert mode(tmp_path / expected) == expected
    path = tmp_path / "0o644"
    for kept in (0o600, 0o755, 0o640):
        path.chmod(kept)
        write(replace, path, b"y")
        assert mode(path) == oct(kept)


def test_links_stay_and_their_targets_are_replaced(replace: Replace, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target, link, chain = tmp_path / "folder" / "target", tmp_path / "link", tmp_path / "chain"
    link.symlink_to("folder/target")
    chain.symlink_to("link")
    write(replace, chain, b"new, as the target was missing")
    assert (link.is_symlink(), chain.is_symlink(), target.is_symlink()) == (True, True, False)
    target.chmod(0o600)
    write(replace, link, b"replaced")
    assert (target.read_bytes(), mode(target)) == (b"replaced", "0o600")
    assert str(link.readlink()) == "folder/target"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["chain", "folder", "link", "target"]


def test_links_that_lead_nowhere(replace: Replace, tmp_path: Path) -> None:
    loop, dangling = tmp_path / "loop", tmp_path / "dangling"
    loop.symlink_to("loop")
    dangling.symlink_to("missing/target")
    with pytest.raises(OSError, match=f"symbolic links: '{loop}'"):
        write(replace, loop, b"x")
    with pytest.raises(FileNotFoundError, match=f"No such file or directory: '{dangling}'"):
        write(replace, dangling, b"x")


@pytest.mark.parametrize("name", ["n" * 255, "✓" * 85, os.fsdecode(b"\xff\n.net"), "[*]?", "-"])
def test_any_name_will_do(replace: Replace, tmp_path: Path, name: str) -> None:
    write(replace, tmp_path / name, b"x")
    assert (tmp_path / name).read_bytes() == b"x"
    assert list(tmp_path.iterdir()) == [tmp_path / name]


def test_devices_are_written_into(replace: Replace) -> None:
    before = Path("/dev/null").stat()
    write(replace, Path("/dev/null"), b"x")
    assert os.path.samestat(before, Path("/dev/null").stat())
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write(replace, Path("/dev/full"), b"x")


def test_the_reader_of_a_pipe_is_given_the_content(replace: Replace, tmp_path: Path) -> None:
    path, read = tmp_path / "pipe", bytearray()
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.extend(path.read_bytes()))
    reader.start()
    write(replace, path, b"x" * 200_000)
    reader.join(PATIENCE)
    assert read == b"x" * 200_000
    assert path.is_fifo()


def test_a_folder_or_a_socket_is_no_file(replace: Replace, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match=f"Is a directory: '{tmp_path}'"):
        write(replace, tmp_path, b"x")
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        with pytest.raises(OSError, match=f"It is a socket.*: '{path}'"):
            write(replace, path, b"x")
        assert path.is_socket()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_write_protected_file_is_not_replaced(replace: Replace, tmp_path: Path) -> None:
    path = tmp_path / "net"
    path.write_bytes(b"old")
    path.chmod(0o400)
    with pytest.raises(PermissionError, match=f"'{path}'"):
        write(replace, path, b"x")


@pytest.mark.parametrize("place", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("package", ["hyperdraw", "models"])
def test_an_own_open_file_is_written_into(tmp_path: Path, place: str, package: str) -> None:
    code = (
        f"from {package}.files import replace_file\nwith replace_file(__import__('pathlib').Path({place!r})) as file:"
    )
    command = [sys.executable, "-c", f"{code} file.write(b'new')"]
    path = tmp_path / "out"
    path.write_bytes(b"old ")
    with path.open("ab") as file:
        subprocess.run(command, stdout=file, check=True, cwd=ROOT)
    assert path.read_bytes() == b"old new"
    assert subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT).stdout == b"new"


def test_what_a_killed_process_left_is_removed(replace: Replace, tmp_path: Path) -> None:
    path = tmp_path / "net"
    code = "with replace_file(Path(sys.argv[1])) as file: print('', flush=True); sys.stdin.read()"
    code = f"import sys\nfrom pathlib import Path\nfrom {replace.__module__} import replace_file\n{code}"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (part,) = tmp_path.iterdir()
        write(replace, path, b"x")
        assert part.exists(), "another process still writes it"
        process.kill()
    write(replace, path, b"y")
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"y", [path])


def test_many_may_write_at_once(replace: Replace, tmp_path: Path) -> None:
    path, failures = tmp_path / "net", []

    def write_often(number: int) -> None:
        try:
            for _ in range(40):
                write(replace, path, bytes([number]) * 1000)
                assert len(set(path.read_bytes())) == 1
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=write_often, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not failures
    assert list(tmp_path.iterdir()) == [path]


def test_checkpoints_files_are_written_so(tmp_path: Path) -> None:
    target, link = tmp_path / "target.json", tmp_path / "config.json"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to("target.json")
    write_file(link, b"new")
    assert (target.read_bytes(), mode(target), link.is_symlink()) == (b"new", "0o640", True)


class TestDownload:
    """`Client.download`."""

    def test_into_an_open_file(self, client: httpx.Client, whole: bytes) -> None:
        file = io.BytesIO(b"before")
        file.seek(6)
        with stand_before(client, 5000, 1000) as gateway, hyperdraw.Client(gateway.address) as asking:
            answer = asking.download(file, "digits", **PARAMETERS)
        assert file.getvalue() == b"before" + whole
        assert (answer.path, answer.size, answer.seed) == (None, len(whole), 7)

    def test_into_an_open_file_that_has_to_begin_again(self, client: httpx.Client, whole: bytes) -> None:
        head = client.get("/v1/models/digits/weights", params=PARAMETERS).headers
        names = ("X-Hyperdraw-Seed", "X-Hyperdraw-Version")
        cut = respond(200, *(f"{name}: {head[name]}" for name in names), body=whole)[:-1000]  # without a tag
        file = io.BytesIO(b"before")
        file.seek(6)
        with stand_before(client, cut) as gateway, hyperdraw.Client(gateway.address) as asking:
            asking.download(file, "digits", **PARAMETERS)
        assert file.getvalue() == b"before" + whole

    def test_a_pipe_cannot_begin_again(self, client: httpx.Client) -> None:
        cut = respond(200, "X-Hyperdraw-Seed: 7", "X-Hyperdraw-Version: 0", body=bytes(2000))[:-1000]  # without a tag
        reading, writing = os.pipe()
        with (
            stand_before(client, cut) as gateway,
            hyperdraw.Client(gateway.address) as asking,
            os.fdopen(reading, "rb"),
            os.fdopen(writing, "wb") as pipe,
            pytest.raises(OSError, match="had to begin again"),
        ):
            asking.download(pipe, "digits", **PARAMETERS)

    def test_into_a_pipe(self, client: httpx.Client, whole: bytes, tmp_path: Path) -> None:
        path, read = tmp_path / "pipe", bytearray()
        os.mkfifo(path)
        reader = threading.Thread(target=lambda: read.extend(path.read_bytes()))
        reader.start()
        with stand_before(client, 5000) as gateway:

            async def download() -> hyperdraw.Download:
                async with hyperdraw.AsyncClient(gateway.address) as asking:
                    return await asking.download(path, "digits", **PARAMETERS)

            answer = asyncio.run(download())
        reader.join(PATIENCE)
        assert (bytes(read), answer.path, answer.size) == (whole, path, len(whole))

    def test_what_is_no_such_file_is_not_written_into_a_stream(self, client: httpx.Client) -> None:
        file = io.BytesIO()
        with (
            stand_before(client, respond(200, body=b"<html>")) as gateway,
            hyperdraw.Client(gateway.address) as asking,
            pytest.raises(hyperdraw.InvalidAnswer),
        ):
            asking.download(file, "digits")
        assert file.getvalue() == b""

    def test_a_folder_is_refused_before_the_service_is_asked(self, client: httpx.Client, tmp_path: Path) -> None:
        with (
            stand_before(client) as gateway,
            hyperdraw.Client(gateway.address) as asking,
            pytest.raises(IsADirectoryError),
        ):
            asking.download(tmp_path, "digits")
        assert gateway.requests == []


class TestSample:
    """`hyperdraw sample --out`, as a process."""

    COMMAND = (sys.executable, "-m", "hyperdraw", "sample", "--model", "digits", "--seed", "7", "--count", "50")

    def run(self, address: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*self.COMMAND, "--url", address, *arguments], check=False, timeout=PATIENCE, **options)

    @pytest.mark.parametrize("out", ["-", "/dev/stdout"])
    def test_networks_go_to_standard_output_and_messages_elsewhere(
        self, client: httpx.Client, whole: bytes, tmp_path: Path, out: str
    ) -> None:
        ended = self.run(str(client.base_url), "--out", out, capture_output=True)
        assert (ended.returncode, ended.stdout) == (0, whole)
        assert ended.stderr.startswith(b"Wrote ")
        with (tmp_path / "net").open("wb") as file:
            ended = self.run(str(client.base_url), "--out", out, stdout=file, stderr=subprocess.PIPE)
        assert (ended.returncode, (tmp_path / "net").read_bytes()) == (0, whole)
        assert not Path("-").exists()

    def test_a_file_of_that_name_is_written_by_its_path(self, client: httpx.Client, tmp_path: Path) -> None:
        command = [*self.COMMAND, "--url", str(client.base_url), "--out", "./-"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=PATIENCE)
        assert (tmp_path / "-").stat().st_size > 0

    def test_a_full_device(self, client: httpx.Client) -> None:
        ended = self.run(str(client.base_url), "--out", "/dev/full", capture_output=True)
        assert (ended.returncode, ended.stdout) == (1, b"")
        assert ended.stderr == b"Error: [Errno 28] No space left on device: '/dev/full'\n"

    @pytest.mark.parametrize("out", ["-", "/dev/stdout"])
    def test_a_reader_that_leaves_ends_it_silently(self, client: httpx.Client, out: str) -> None:
        command = [*self.COMMAND, "--url", str(client.base_url), "--out", out]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.read(10)
            process.stdout.close()
            assert process.stderr.read() == b""
        assert process.returncode == 1

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_a_download_that_is_ended_leaves_nothing(
        self, client: httpx.Client, tmp_path: Path, number: signal.Signals
    ) -> None:
        path = tmp_path / "net"
        path.write_bytes(b"old")
        with stand_before(client, 5000, None) as gateway:
            command = [*self.COMMAND, "--url", gateway.address, "--out", str(path)]
            former = signal.signal(number, signal.SIG_DFL)  # as what is ignored here, under nohup, would be there, too
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                signal.signal(number, former)
                wait_until(lambda: len(gateway.requests) == 2)
                assert len(list(tmp_path.iterdir())) == 2
                process.send_signal(number)
                shown = process.communicate(timeout=PATIENCE)
        assert (process.returncode, *shown) == (128 + number, b"", b"")
        assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"old", [path])

    def test_a_refusal_leaves_nothing(self, client: httpx.Client, tmp_path: Path) -> None:
        with stand_before(client, refuse(404)) as gateway:
            ended = self.run(gateway.address, "--out", str(tmp_path / "net"), capture_output=True)
        assert (ended.returncode, list(tmp_path.iterdir())) == (1, [])
