"""What only zarr can encode is encoded until the very end of the process."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import zarr

PROGRAM = """
import sys
from savers import ZarrSaver
{imports}
saver = ZarrSaver(sys.argv[1], "x", chunks=4)
for part in range(3):
    saver.save({rows}{options})
"""

CASES = {
    "text": ("", "[f'{part}a', f'{part}bb']", "", "T"),
    "transposed": (
        "from zarr.codecs import TransposeCodec",
        "[[part, 1.0], [part, 2.0]]",
        ", filters=[TransposeCodec(order=(1, 0))]",
        "f8",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_saver_left_open_publishes_at_exit(case, tmp_path):
    imports, rows, options, dtype = CASES[case]
    program = PROGRAM.format(imports=imports, rows=rows, options=options)
    command = [sys.executable, "-c", program, tmp_path / "x.zarr"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    expected = [row for part in range(3) for row in eval(rows, {"part": part})]
    found = zarr.open_group(tmp_path / "x.zarr", mode="r")["x"][:]
    np.testing.assert_array_equal(found, np.array(expected, dtype))
