"""Objects in a bucket, on a real server that is near or 20 ms away."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.contender import Contender, Figure, Row
from benchmarks.delay import Delay
from tests.s3server import KEY, REGION, SECRET, Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from benchmarks.contender import Figures, Round, Size

BUCKET = "bench"
WHERE = "TASKSAVERS_BENCH_S3"  # the variable that tells contenders the endpoints
SIDE_BY_SIDE = 64  # requests at a time, for those that are told; ours takes as many by itself
VALUES = {"64 KiB": 1 << 13, "8 MiB": 1 << 20}  # float64
DELAYS = {"0 ms": 0.0, "20 ms": 0.02}

Save = Callable[["NDArray[Any]", int], None]  # rows, and the number of the first


@contextlib.contextmanager
def service() -> Iterator[Mapping[str, str]]:
    """Run the server and the wire to it; give the variables that contenders need."""
    with tempfile.TemporaryDirectory(prefix="tasksavers-bench-s3-") as folder:
        server = Server(Path(folder), volume_mb=1024)
        nothing = Path(folder) / "empty"
        nothing.touch()
        try:
            server.start()
            server.make_bucket(BUCKET)
            with Delay(server.port, DELAYS["20 ms"]) as late:
                endpoints = {"0 ms": server.endpoint, "20 ms": late}
                files = {
                    "AWS_CONFIG_FILE": str(nothing),
                    "AWS_SHARED_CREDENTIALS_FILE": str(nothing),
                }
                keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
                yield {WHERE: json.dumps(endpoints), **files, **keys}
        finally:
            server.close()


def prepare(folder: Path, size: Size) -> None:
    """Make noise, which nothing could compress."""
    for name, width in VALUES.items():
        rows = np.random.default_rng(0).random((size[name], width))
        np.save(folder / f"{name}.npy", rows)


@dataclass(frozen=True)
class Place:
    """An empty prefix, and what is to be written there: a row an object."""

    endpoint: str
    prefix: str
    shape: tuple[int, int]

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}/{self.prefix}/x.zarr"

    @property
    def options(self) -> dict[str, Any]:
        """Storage options in the spelling of s3fs."""
        return {"key": KEY, "secret": SECRET, "endpoint_url": self.endpoint,
                "client_kwargs": {"region_name": REGION}}  # fmt: skip

    def client(self, endpoint: str = "") -> Any:
        from obstore.store import S3Store

        return S3Store(
            BUCKET, prefix=f"{self.prefix}/x.zarr", endpoint=endpoint or self.endpoint,
            region=REGION, access_key_id=KEY, secret_access_key=SECRET,
            client_options={"allow_http": True}, virtual_hosted_style_request=False,
        )  # fmt: skip


# -- contenders ----------------------------------------------------------------------------------


@contextlib.contextmanager
def ours(place: Place) -> Iterator[Save]:
    from savers import ZarrSaver

    with ZarrSaver(place.url, chunks=1, codecs=None, storage_options=place.options) as saver:
        yield lambda rows, _: saver.save(rows)


def _zarr(store: Any, place: Place) -> Save:
    import zarr

    group = zarr.create_group(store)
    chunks = (1, place.shape[1])
    array = group.create_array("dataset", shape=place.shape, dtype="f8", chunks=chunks,
                               compressors=None)  # fmt: skip

    def save(rows: NDArray[Any], first: int) -> None:
        with zarr.config.set({"async.concurrency": SIDE_BY_SIDE}):
            array[first : first + len(rows)] = rows

    return save


@contextlib.contextmanager
def zarr_obstore(place: Place) -> Iterator[Save]:
    import zarr

    yield _zarr(zarr.storage.ObjectStore(place.client()), place)


@contextlib.contextmanager
def zarr_s3fs(place: Place) -> Iterator[Save]:
    import zarr

    yield _zarr(zarr.storage.FsspecStore.from_url(place.url, storage_options=place.options), place)


@contextlib.contextmanager
def tensorstore(place: Place) -> Iterator[Save]:
    import tensorstore as ts

    array = ts.open({
        "driver": "zarr3", "create": True,
        "kvstore": {"driver": "s3", "bucket": BUCKET, "endpoint": place.endpoint,
                    "aws_region": REGION, "path": f"{place.prefix}/x.zarr/dataset/"},
        "metadata": {"shape": list(place.shape), "data_type": "float64", "chunk_grid": {
            "name": "regular", "configuration": {"chunk_shape": [1, place.shape[1]]}},
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}]},
        "context": {"s3_request_concurrency": {"limit": SIDE_BY_SIDE}},
    }).result()  # fmt: skip
    yield lambda rows, first: array[first : first + len(rows)].write(rows).result()


@contextlib.contextmanager
def obstore_alone(place: Place) -> Iterator[Save]:
    """The same objects by hand, and one that says what they are."""
    import obstore
    import zarr

    memory: dict[str, Any] = {}
    zarr.create_array(zarr.storage.MemoryStore(memory), name="dataset", shape=place.shape,
                      dtype="f8", chunks=(1, place.shape[1]), compressors=None)  # fmt: skip
    client = place.client()
    obstore.put(client, "dataset/zarr.json", memory["dataset/zarr.json"].to_bytes())
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:

        def put(entry: tuple[int, NDArray[Any]]) -> None:
            number, row = entry
            obstore.put(client, f"dataset/c/{number}/0", row.data.cast("B"), use_multipart=False)

        yield lambda rows, first: list(pool.map(put, enumerate(rows, first))) and None


WAYS = {
    "ours": ("ours", ours, ()),
    "tensorstore": ("peer", tensorstore, ("tensorstore",)),
    "zarr + obstore": ("peer", zarr_obstore, ()),
    "zarr + s3fs": ("peer", zarr_s3fs, ("s3fs",)),
    "obstore by hand": ("floor", obstore_alone, ()),
}


def run(name: str, delay: str, way: Any, this: Round) -> Figures:
    """Write all rows in batches, from opening an empty place until closed."""
    rows = np.load(this.inputs / f"{name}.npy", mmap_mode="c")
    rows = np.array(rows)  # in memory, like results
    endpoint = json.loads(os.environ[WHERE])[delay]
    place = Place(endpoint, uuid.uuid4().hex, rows.shape)
    (this.folder / "prefix").write_text(place.prefix)
    batch = len(rows) // this.size["saves"]
    ends = [time.perf_counter()]
    with way(place) as save:
        for first in range(0, len(rows), batch):
            save(rows[first : first + batch], first)
            ends.append(time.perf_counter())
    total = time.perf_counter() - ends[0]
    spans = np.diff(ends)
    return {
        "mb_per_s": rows.nbytes / 1e6 / total,
        "first_ms": float(spans[0]) * 1e3,
        "warm_ms": float(np.median(spans[1:])) * 1e3,
        "close_ms": (total - (ends[-1] - ends[0])) * 1e3,
    }


def check(name: str, this: Round) -> None:
    """Read all rows back through the near endpoint, and remove them."""
    import obstore
    import zarr

    rows = np.load(this.inputs / f"{name}.npy", mmap_mode="r")
    prefix = (this.folder / "prefix").read_text()
    client = Place(json.loads(os.environ[WHERE])["0 ms"], prefix, rows.shape).client()
    array = zarr.open_array(zarr.storage.ObjectStore(client, read_only=True), path="dataset",
                            mode="r")  # fmt: skip
    np.testing.assert_array_equal(array[:], rows)
    for page in obstore.list(client):
        obstore.delete(client, [entry["path"] for entry in page])


def entries() -> Iterator[Contender]:
    for name in VALUES:
        for delay in DELAYS:
            for title, (role, way, needs) in WAYS.items():
                group = f"{name}, {delay}"
                yield Contender(
                    f"{title}: {group}", partial(run, name, delay, way), partial(check, name),
                    role, (group,), needs,
                )  # fmt: skip


ROW = Row(
    title="Objects in a bucket",
    story="float64 noise to a real S3 server (SeaweedFS) on this machine, a row an object, not "
    "compressed, in several saves: near, and behind a wire that keeps what is asked for 20 ms. "
    "From opening an empty place until closed. Ours commits each save: it is recorded, and "
    "another writer is kept out. Server and contenders share the processors of this machine.",
    figures=(
        Figure("mb_per_s", "MB/s", higher_is_better=True),
        Figure("first_ms", "open and first save, ms"),
        Figure("warm_ms", "a later save, ms"),
        Figure("close_ms", "close, ms"),
    ),
    contenders=tuple(entries()),
    sizes={
        "full": {"64 KiB": 2048, "8 MiB": 48, "saves": 4},
        "quick": {"64 KiB": 1024, "8 MiB": 24, "saves": 4},
        "tiny": {"64 KiB": 8, "8 MiB": 2, "saves": 2},
    },
    prepare=prepare,
    service=service,
)
