"""How hard property tests try: import this before any `@given`.

``TASKSAVERS_EXAMPLES=1000 make test`` tries more; the default keeps `make test` short.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

__all__ = ["EXAMPLES"]

EXAMPLES = int(os.environ.get("TASKSAVERS_EXAMPLES", "40"))

settings.register_profile(
    "tasksavers",
    max_examples=EXAMPLES,
    deadline=None,  # a busy machine is no defect
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    print_blob=True,
)
settings.load_profile("tasksavers")
