"""`python -m savers`: inspect, verify, recover, plan."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from savers import Failure, JobSpec, Saver, StoreInUseError, ZarrSaver
from savers.__main__ import main
from savers._maintenance._inspect import inspect
from savers._maintenance._recover import recover

ROOT = Path(__file__).parents[2]

CRASH = """
import os, sys, numpy as np, savers
path = sys.argv[1]
saver = savers.ZarrSaver(path, "a", chunks=4)
saver.save(np.arange(6.0))
saver.flush()
other = savers.ZarrSaver(path, "b", approach="overwrite", chunks=2)
other.save(np.zeros(4))
other.close()
saver.save(np.arange(6.0, 11.0))
os._exit(9)
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def crashed(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("crashed") / "out.zarr"
    assert python("-c", CRASH, str(path)).returncode == 9
    return path


@pytest.fixture
def crash(crashed, tmp_path) -> Path:
    for name in ("out.zarr", "out.zarr.ledger"):
        shutil.copytree(crashed.with_name(name), tmp_path / name)
    return tmp_path / "out.zarr"


@pytest.fixture
def forecast(tmp_path) -> Path:
    """Labels, attributes, a nested array, a job with a failure."""
    path = tmp_path / "out.zarr"
    coords = {"time": np.array(["2026-01-01", "2026-01-02"], "M8[D]"), "lat": [0.0, 10.0, 20.0]}
    attrs = {
        "Conventions": "CF-1.11",
        "t2m": {"units": "K", "long_name": "temperature"},
        "lat": {"units": "degrees_north"},
    }
    with ZarrSaver(path, "t2m", dims=("time", "lat"), coords=coords, attrs=attrs) as saver:
        saver.save(np.ones((2, 3)))
    with ZarrSaver(path, "runs/energy", chunks=2) as saver:
        jobs = saver.open_jobs()
        writer = jobs.begin(JobSpec("model", "2"), 0)
        for item in (0, 1, 3):
            writer.stage(item, item, np.full(2, float(item)))
        writer.fail(Failure(2, 2, "ValueError", "no"))
        writer.commit()
        jobs.close()
    return path


# -- inspect -------------------------------------------------------------------------------------


def test_inspect_shows_layout_rows_and_jobs(forecast, capsys):
    assert main(["inspect", str(forecast)]) == 0
    text = capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert text.startswith(f"{forecast}: zarr v3, ")
    assert lines["runs/energy"][1:4] == ["float64", "4x2", "energy_item,energy_dim_1"]
    assert lines["runs/energy"][-6:-2] == ["3", "1", "0", "2"]  # saved, failed, open, objects
    assert lines["t2m"][1:5] == ["float64", "2x3", "time,lat", "2x3"]
    assert "job 1 model 2: 3 done, 1 failed, 0 skipped, 0 open; unfinished" in text
    assert "runs/energy: closed; ledger runs%2Fenergy@00000001" in text


def test_inspect_says_what_cf_asks_for(forecast, capsys):
    assert main(["inspect", str(forecast)]) == 0
    text = capsys.readouterr().out.partition("CF conventions\n")[2].partition("\n\n")[0]
    assert [line.strip() for line in text.splitlines()] == [
        "'runs/energy' has no units",
        "'runs/energy' has neither standard_name nor long_name",
    ]


def test_inspect_asks_the_readers_that_are_installed(forecast, capsys):
    assert main(["inspect", str(forecast)]) == 0
    readers = capsys.readouterr().out.partition("readers\n")[2]
    assert f"zarr {zarr.__version__}:" in readers
    assert "reads 4 arrays" in readers
    assert "xarray" in readers
    (forecast / "t2m/zarr.json").write_text("{}")
    (forecast / "zarr.json").write_text("{}")
    assert main(["inspect", str(forecast), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["readers"]
    assert all(answer.startswith("refuses: ") for answer in found.values())


def test_inspect_of_a_damaged_document_names_it_and_the_way_out(forecast, capsys):
    (forecast / "t2m/zarr.json").write_text("{half")
    assert main(["inspect", str(forecast)]) == 1
    error = capsys.readouterr().err
    assert "t2m/zarr.json is not a JSON document" in error
    assert "put a good copy of it back" in error


def test_inspect_as_json_holds_the_same(forecast, capsys):
    assert main(["inspect", str(forecast), "--json"]) == 0
    view = json.loads(capsys.readouterr().out)
    arrays = {array["name"]: array for array in view["arrays"]}
    assert arrays["t2m"]["published"] == [2, 3]
    assert arrays["t2m"]["codecs"] == ["blosc(zstd-1, shuffle)"]
    assert arrays["runs/energy"]["failed"] == 1
    (job,) = view["datasets"][0]["jobs"]
    assert (job["task"], job["done"], job["failed"]) == ("model", 3, 1)
    files = [p for p in forecast.rglob("*") if p.is_file()]
    assert view["files"] == len(files)
    assert view["nbytes"] == sum(p.stat().st_size for p in files)


def test_inspect_names_the_holder(tmp_path):
    path = tmp_path / "out.zarr"
    with ZarrSaver(path, "a") as saver:
        saver.save([1.0])
        (dataset,) = inspect(path).datasets
        assert f"process {os.getpid()}" in dataset.holder
        assert not dataset.crashed
    assert inspect(path).datasets[0].holder == ""


def test_inspect_shows_shards_and_stores_of_other_programs(tmp_path):
    group = zarr.open_group(tmp_path / "foreign.zarr", mode="w")
    group.create_array("a", shape=(8, 4), chunks=(2, 4), shards=(4, 4), dtype="i2")[:] = 1
    group.create_group("inner").create_array("b", shape=3, dtype="f4", compressors=None)
    first, second = inspect(tmp_path / "foreign.zarr").arrays
    assert (first.name, first.chunks, first.shards, first.objects) == ("a", (2, 4), (4, 4), 2)
    assert first.committed is None
    assert (second.name, second.codecs, second.published) == ("inner/b", (), (3,))


def test_a_mapping_is_inspected_like_a_folder():
    mapping: dict[str, bytes] = {}
    with ZarrSaver(mapping, "a", chunks=2, codecs=None) as saver:
        saver.save(np.arange(4.0))
    view = inspect(mapping)
    assert (view.files, view.nbytes) == (len(mapping), 32)
    assert [dataset.name for dataset in view.datasets] == ["a"]


class Lines(Saver):
    def __init__(self, file_path: Path) -> None:
        self.file_path = file_path

    def save(self, data, indices=None, **kwargs) -> None:
        with self.file_path.open("a") as file:
            file.writelines(f"{row}\n" for row in data)


def test_a_saver_that_knows_only_save_is_inspected_and_verified_by_its_ledger(tmp_path, capsys):
    path = tmp_path / "out.csv"
    jobs = Lines(path).open_jobs()
    writer = jobs.begin(JobSpec("task"), 0)
    for item in range(3):
        writer.stage(item, item, item)
    writer.finish(3)
    jobs.close()
    assert main(["inspect", str(path)]) == 0
    assert "task: 3 done, 0 failed, 0 skipped, 0 open; finished" in capsys.readouterr().out
    assert main(["verify", str(path)]) == 0
    log = tmp_path / "out.csv.ledger/sequential.log"
    log.write_bytes(log.read_bytes()[:-20] + b"?" + log.read_bytes()[-19:])
    assert main(["verify", str(path)]) == 1
    assert "sequential.log is damaged" in capsys.readouterr().out


# -- verify --------------------------------------------------------------------------------------


def test_verify_ends_with_0_or_1_and_names_what_is_wrong(forecast, capsys):
    assert main(["verify", str(forecast)]) == 0
    assert "all as the ledger says" in capsys.readouterr().out
    chunk = forecast / "runs/energy/c/1/0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    assert main(["verify", str(forecast)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("runs/energy/c/1/0: expected ")
    assert "1 wrong" in out


def test_it_runs_as_a_module(forecast):
    done = python("-m", "savers", "verify", str(forecast))
    assert (done.returncode, done.stderr) == (0, "")
    missing = python("-m", "savers", "inspect", str(forecast.with_name("no.zarr")))
    assert missing.returncode == 2
    assert missing.stderr.startswith("savers inspect: expected a store at ")
    assert "Traceback" not in missing.stderr


@pytest.mark.parametrize("command", ["inspect", "verify", "recover"])
def test_without_a_store_the_status_is_2(tmp_path, command, capsys):
    (tmp_path / "folder").mkdir()
    for name, found in (("nothing", "found nothing"), ("folder", "neither a store nor")):
        assert main([command, str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert found in error
        assert len(error.splitlines()) == 1
    assert sorted(os.listdir(tmp_path)) == ["folder"]  # and nothing was made


# -- recover -------------------------------------------------------------------------------------


def test_recover_publishes_what_only_the_ledger_holds(crash, capsys):
    assert zarr.open_group(crash, mode="r")["a"].shape == (6,)
    assert main(["verify", str(crash)]) == 0
    assert "recover publishes it" in capsys.readouterr().out

    assert main(["recover", str(crash)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:] == [["a", "6", "11", "1"], ["b", "4", "4", "0"]]
    found = zarr.open_group(crash, mode="r")["a"][:]
    np.testing.assert_array_equal(found, np.arange(11.0))
    assert main(["verify", str(crash)]) == 0
    assert "note" not in capsys.readouterr().out


def test_recover_of_a_closed_store_changes_nothing_that_readers_see(forecast):
    before = {p: p.read_bytes() for p in forecast.rglob("*") if p.is_file()}
    for one in recover(forecast):
        assert one.before == one.after
    assert {p: p.read_bytes() for p in forecast.rglob("*") if p.is_file()} == before


def test_recover_is_refused_while_somebody_writes(forecast):
    code = (
        "import sys, savers; s = savers.ZarrSaver(sys.argv[1], 'runs/energy');"
        "s.save([[1.0, 2.0]]); print('ready', flush=True); sys.stdin.read(); s.close()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(forecast)], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as writer:  # fmt: skip
        assert writer.stdout.readline() == "ready\n"
        with pytest.raises(StoreInUseError, match=f"process {writer.pid} "):
            recover(forecast)
        done = python("-m", "savers", "verify", str(forecast))
        assert f"in use by process {writer.pid}" in done.stdout
        assert done.returncode == 0
        writer.stdin.close()
    assert writer.returncode == 0


def test_recover_keeps_a_ledger_whose_store_is_another_one(forecast, capsys):
    root = forecast / "zarr.json"
    document = json.loads(root.read_text())
    document["attributes"]["tasksavers_store"] = "0" * 32
    root.write_text(json.dumps(document))
    ledger = sorted(os.listdir(f"{forecast}.ledger"))
    assert main(["recover", str(forecast)]) == 1
    assert "is another one" in capsys.readouterr().err
    assert sorted(os.listdir(f"{forecast}.ledger")) == ledger


# -- plan ----------------------------------------------------------------------------------------


def plan(capsys, *arguments: str) -> dict[str, list[str]]:
    assert main(["plan", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line[:18].strip(): line[18:].split("  ") for line in lines[1:]}


def test_plan_gives_files_and_their_size(tmp_path, capsys):
    ways = plan(capsys, "--shape", "12,721,1440")
    cells = [cell.strip() for cell in ways["rows"] if cell.strip()]
    assert cells == ["1x721x1440", "-", "12", "4.2 MB", "1"]
    with ZarrSaver(tmp_path / "out.zarr", codecs=None) as saver:  # and this is what happens
        for _ in range(2):
            saver.save(np.zeros((1, 721, 1440), "f4"))
    (array,) = inspect(tmp_path / "out.zarr").arrays
    assert (array.chunks, array.objects) == ((1, 721, 1440), 2)
    assert array.nbytes == 2 * 721 * 1440 * 4


def test_plan_advises_shards_where_there_would_be_many_files(capsys):
    rows = plan(capsys, "--shape", "100000,64,64", "--dtype", "float32")["rows"]
    chunks, shards, files = [cell.strip() for cell in rows if cell.strip()][:3]
    assert (chunks, shards, files) == ("64x64x64", "2048x64x64", "49")


@pytest.mark.parametrize(
    "arguments", [["--shape", "12,x"], ["--shape", "0,4"], ["--shape", "4", "--dtype", "what"]]
)
def test_plan_refuses_nonsense(arguments, capsys):
    assert main(["plan", *arguments]) == 2
    assert "expected" in capsys.readouterr().err


DIES = """
import os, sys, numpy as np, savers
from savers._ledger import _ledger
from savers._session._chunk_store import ChunkStore

mode, path = sys.argv[1:]
die = lambda *given: os._exit(9)
if mode == "open":
    ChunkStore.finish_renames = die
    savers.ZarrSaver(path, "a").save([1.0])
ChunkStore.rename_staged = lambda self: die() if self._unrenamed else None
if mode == "compact":
    _ledger.COMPACT_BYTES = -(1 << 40)
savers.ZarrSaver(path, "a", approach="update").save(np.full(8, 7.0), indices=slice(0, 8))
"""


@pytest.mark.parametrize("crashes", [["update", "open"], ["compact"]], ids=["open", "append"])
def test_a_crash_between_compaction_and_renames_loses_nothing(tmp_path, crashes):
    path = tmp_path / "out.zarr"
    with ZarrSaver(path, "a", chunks=2) as saver:
        saver.save(np.arange(8.0))
    for mode in crashes:
        assert python("-c", DIES, mode, str(path)).returncode == 9
    recover(path)
    assert zarr.open_group(path, mode="r")["a"][:].tolist() == [7.0] * 8
    assert main(["verify", str(path)]) == 0
