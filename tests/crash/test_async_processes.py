"""Several processes on one store, and processes that end as they should not."""

from __future__ import annotations

import random
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import xarray as xr
import zarr

from savers import AsyncZarrSaver, verify
from tests.crash.async_programs import TIMES, value
from tests.stores import consolidated_is_current

PROGRAM = [sys.executable, "-m", "tests.crash.async_programs"]


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    found = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        found.append((process.returncode, out, err))
    return found


def test_four_processes_add_the_same_arrays_and_fill_them(tmp_path):
    path = tmp_path / "a"
    for code, _, err in ended([start("add", path, rank, 4) for rank in range(4)]):
        assert (code, err) == (0, "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = xr.open_zarr(path).load()
    assert set(found) == {"u", "v", "own0", "own1", "own2", "own3"}
    for name in ("u", "v"):
        np.testing.assert_array_equal(found[name][:, 0], np.arange(64) % 4)
    for rank in range(4):
        own = found[f"own{rank}"][:, 0].values
        np.testing.assert_array_equal(own[rank::4], rank)
        assert np.isnan(own).sum() == 48
    assert consolidated_is_current(path)
    assert verify(path) == []
    with AsyncZarrSaver(path, {"time": TIMES}) as saver:
        assert saver.missing("u") == []
        assert [at["time"] for at in saver.written("own3")] == list(TIMES[3::4])


def test_processes_that_would_share_a_shard_are_refused_with_the_size_to_use(tmp_path):
    path = tmp_path / "a"
    results = ended([start("share", path, rank, 2) for rank in range(2)])
    codes = sorted(code for code, _, _ in results)
    assert codes == [0, 1]
    refused = next(err for code, _, err in results if code)
    assert "StoreInUseError: a chunk of 't' is being filled by process" in refused
    assert "chunked_coords={'time': 1} (and no shards along them)" in refused
    written = next(rank for rank, (code, _, _) in enumerate(results) if not code)
    found = zarr.open_array(path / "t")[:]
    np.testing.assert_array_equal(found[written], value(written)[0])
    assert np.isnan(found).sum() == found.size - found[0].size


@pytest.mark.parametrize(("how", "code"), [("return", 0), ("error", 1), ("exit", 3)])
def test_a_process_that_ends_without_close_saves_what_it_has(tmp_path, how, code):
    path = tmp_path / "a"
    [(found, _, err)] = ended([start("leave", path, how)])
    assert found == code
    assert "savers:" not in err
    values = zarr.open_array(path / "t")[:]
    for t in range(16):
        np.testing.assert_array_equal(values[t], value(t)[0])
    assert verify(path) == []


def test_a_process_that_could_not_save_all_names_what_is_missing(tmp_path):
    path = tmp_path / "a"
    [(code, _, err)] = ended([start("stuck", path)])
    assert code == 0
    assert f"savers: not saved: 't' at time=5 in {path}" in err
    assert "time=6" not in err
    np.testing.assert_array_equal(zarr.open_array(path / "t")[6], value(6)[0])


def killed_run(path, dice):
    """Kill a run at some time: early, or once some number of chunks are in the store."""
    process = start("run", path)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    chunks = path / "t" / "c"
    enough = dice.randrange(len(TIMES) + 1)
    while chunks_in(chunks) < enough and process.poll() is None:
        time.sleep(0.0005)
    time.sleep(dice.uniform(0, 0.003))
    process.kill()
    process.communicate(timeout=120)


def chunks_in(folder):
    return len(list(folder.iterdir())) if folder.exists() else 0


def check_written(path):
    """What `written` names is whole on disk, by zarr alone; returns how many those are."""
    with AsyncZarrSaver(path, {"time": TIMES}) as saver:
        written = [int(at["time"]) for at in saver.written("t")]
        missing = [int(at["time"]) for at in saver.missing("t")]
    assert sorted(written + missing) == TIMES.tolist()
    if not written:
        return 0
    found = zarr.open_array(path / "t", mode="r")
    for t in written:
        np.testing.assert_array_equal(found[t], value(t)[0])
    return len(written)


def complete(path):
    [(code, out, err)] = ended([start("run", path)])
    assert (code, err) == (0, "")
    assert out.endswith("done\n")
    assert check_written(path) == len(TIMES)
    assert verify(path) == []


def test_written_is_true_after_kills_and_missing_completes(tmp_path):
    path = tmp_path / "a"
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)
    counts = []
    for _ in range(4):
        killed_run(path, dice)
        counts.append(check_written(path))
    assert counts == sorted(counts), f"seed {seed}"
    complete(path)


def test_a_chunk_that_was_replaced_without_its_record_is_no_damage(tmp_path):
    path = tmp_path / "a"
    assert ended([start("torn", path)])[0][0] == 9
    assert verify(path) == []
    with AsyncZarrSaver(path, {"time": TIMES}, chunked_coords={"time": 64}) as saver:
        assert saver.written("t") == [{"time": 0}]
        saver.write(value(2), {"time": TIMES[2:3], "x": np.arange(4096)}, "t")
    found = zarr.open_array(path / "t")[:]
    for t in (0, 2):
        np.testing.assert_array_equal(found[t], value(t)[0])
    assert verify(path) == []
    (path / "t" / "c" / "0" / "0").write_bytes(b"something else")
    assert len(verify(path)) == 1
