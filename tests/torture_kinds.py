"""All tests of savers in every kind of store: ``python tests/torture_kinds.py`` (two minutes).

`make test` runs those that can differ from kind to kind, and the whole list for one of each.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    tests = ["tests/integration/test_store_kinds.py", "tests/integration/test_deaths_in_stores.py"]
    command = [sys.executable, "-m", "pytest", "-q", *tests]
    environment = {**os.environ, "TASKSAVERS_ALL_KINDS": "1"}
    root = Path(__file__).parents[1]
    sys.exit(subprocess.run(command, check=False, env=environment, cwd=root).returncode)
