"""Objects in a bucket, on a real server: ``python -m benchmarks.s3 [ROUNDS]``.

The server runs on this machine; for a delay it is behind a proxy that keeps each request for so
many milliseconds. The figures are about how requests are arranged, not about a network. Contenders
take turns; each round begins with an empty prefix and ends with everything readable, where ours
has also committed a record. The proxy is the bottleneck of 8 MiB objects.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.delay import Delay
from benchmarks.machine import describe
from tests.s3server import KEY, REGION, SECRET, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BUCKET = "bench"
OBJECTS = {"64 KiB": (1 << 13, 256), "8 MiB": (1 << 20, 12)}  # float64 values, objects
DELAYS = (0.0, 0.02)
SIDE_BY_SIDE = 64  # requests at a time, as many as ours takes by itself


class Work:
    """Rows to be written, a row an object, without compression."""

    def __init__(self, server: Server, endpoint: str, rows: np.ndarray) -> None:
        self.server, self.endpoint, self.rows = server, endpoint, rows
        self.prefix = uuid.uuid4().hex
        self.url = f"s3://{BUCKET}/{self.prefix}/x.zarr"

    def client(self) -> Any:
        return self.server.store(BUCKET, f"{self.prefix}/x.zarr", self.endpoint)

    def check(self) -> None:
        import zarr

        store = zarr.storage.ObjectStore(self.server.store(BUCKET, f"{self.prefix}/x.zarr"),
                                         read_only=True)  # fmt: skip
        assert np.array_equal(zarr.open_array(store, path="dataset", mode="r")[:], self.rows)


def ours(work: Work) -> None:
    from savers import ZarrSaver

    options = work.server.options(work.endpoint)
    with ZarrSaver(work.url, chunks=1, codecs=None, storage_options=options) as saver:
        saver.save(work.rows)


def _zarr(store: Any, rows: np.ndarray) -> None:
    import zarr

    with zarr.config.set({"async.concurrency": SIDE_BY_SIDE}):
        group = zarr.create_group(store)
        array = group.create_array("dataset", shape=rows.shape, dtype=rows.dtype,
                                   chunks=(1, rows.shape[1]), compressors=None)  # fmt: skip
        array[:] = rows


def zarr_obstore(work: Work) -> None:
    import zarr

    _zarr(zarr.storage.ObjectStore(work.client()), work.rows)


def zarr_s3fs(work: Work) -> None:
    import zarr

    options = work.server.options(work.endpoint)
    _zarr(zarr.storage.FsspecStore.from_url(work.url, storage_options=options), work.rows)


def tensorstore(work: Work) -> None:
    import os

    import tensorstore as ts

    os.environ.update(AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=SECRET)
    rows = work.rows
    array = ts.open({
        "driver": "zarr3", "create": True,
        "kvstore": {"driver": "s3", "bucket": BUCKET, "endpoint": work.endpoint,
                    "aws_region": REGION, "path": f"{work.prefix}/x.zarr/dataset/"},
        "metadata": {"shape": list(rows.shape), "data_type": "float64", "chunk_grid": {
            "name": "regular", "configuration": {"chunk_shape": [1, rows.shape[1]]}},
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}]},
        "context": {"s3_request_concurrency": {"limit": SIDE_BY_SIDE}},
    }).result()  # fmt: skip
    array.write(rows).result()


def raw(work: Work) -> None:
    """The floor: the same objects by obstore alone, and one more for the metadata."""
    import json

    import obstore
    import zarr

    memory: dict[str, Any] = {}
    store = zarr.storage.MemoryStore(memory)
    zarr.create_array(store, name="dataset", shape=work.rows.shape, dtype=work.rows.dtype,
                      chunks=(1, work.rows.shape[1]), compressors=None)  # fmt: skip
    client = work.client()
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        puts = [pool.submit(obstore.put, client, f"dataset/c/{i}/0", row.tobytes(),
                            use_multipart=False) for i, row in enumerate(work.rows)]  # fmt: skip
        for put in puts:
            put.result()
    document = json.loads(memory["dataset/zarr.json"].to_bytes())
    obstore.put(client, "dataset/zarr.json", json.dumps(document).encode())


CONTENDERS: dict[str, Callable[[Work], None]] = {
    "ours": ours,
    "tensorstore": tensorstore,
    "zarr + obstore": zarr_obstore,
    "zarr + s3fs": zarr_s3fs,
    "obstore alone (floor)": raw,
}


@contextlib.contextmanager
def _endpoint(server: Server, delay: float) -> Iterator[str]:
    if not delay:
        yield server.endpoint
        return
    with Delay(server.port, delay) as endpoint:
        yield endpoint


def measure(server: Server, delay: float, size: str, rounds: int) -> dict[str, list[float]]:
    """Return seconds of each contender, a warm-up left out."""
    width, count = OBJECTS[size]
    rows = np.random.default_rng(0).random((count, width))
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for number in range(rounds + 1):
        for name, way in CONTENDERS.items():
            with _endpoint(server, delay) as endpoint:
                work = Work(server, endpoint, rows)
                begin = time.perf_counter()
                way(work)
                if number:
                    seconds[name].append(time.perf_counter() - begin)
            work.check()
    return seconds


def _machine() -> str:
    found = describe()
    names = ("processor", "cores", "memory_gib", "system", "python", "load")
    return "Machine: " + ", ".join(f"{name} {found[name]}" for name in names) + "."


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    server = Server(Path(tempfile.mkdtemp(prefix="bench-s3-")))
    lines = ["# s3", "", __doc__.split("\n\n", 1)[1].strip(), "", _machine(), ""]
    try:
        server.start()
        server.make_bucket(BUCKET)
        for size, (width, count) in OBJECTS.items():
            for delay in DELAYS:
                found = measure(server, delay, size, rounds)
                best = statistics.median(found["ours"])
                lines += [f"## {count} objects of {size}, {delay * 1e3:.0f} ms a request", "",
                          "| | s, median (least to most) | MB/s | time / ours |",
                          "|---|---|---|---|"]  # fmt: skip
                for name, times in found.items():
                    middle = statistics.median(times)
                    rate = width * 8 * count / 1e6 / middle
                    span = f"{middle:.3f} ({min(times):.3f} to {max(times):.3f})"
                    lines.append(f"| {name} | {span} | {rate:.0f} | {middle / best:.2f} |")
                lines.append("")
                print("\n".join(lines[-10:]), flush=True)
                Path("docs/benchmarks/s3.md").write_text("\n".join(lines))
    finally:
        server.close()


if __name__ == "__main__":
    main()
