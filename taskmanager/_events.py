"""What happens in a run, through `logging`: logger ``"taskmanager"``, one event a record.

Each record has an `event` (its name) and `fields` (a dict of plain values) besides its text.
"""

from __future__ import annotations

import json
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

__all__ = ["emit", "events_to_file"]

_logger = logging.getLogger("taskmanager")
_logger.addHandler(logging.NullHandler())


def emit(event: str, level: int = logging.INFO, **fields: object) -> None:
    """Log an event with its fields."""
    if _logger.isEnabledFor(level):
        text = ", ".join(f"{name}={value}" for name, value in fields.items())
        _logger.log(level, "%s: %s", event, text, extra={"event": event, "fields": fields})


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": round(record.created, 3),
            "level": record.levelname,
            "event": getattr(record, "event", record.name),
            **getattr(record, "fields", {"message": record.getMessage()}),
        }
        return json.dumps(line, default=str)


@contextmanager
def events_to_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """Append the events of all runs inside the ``with`` to `path`, one JSON object a line.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from taskmanager import TaskManager
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "events.jsonl"
    >>> with events_to_file(path):
    ...     run = TaskManager(abs).submit_tasks([-1, 2])
    >>> [json.loads(line)["event"] for line in path.read_text().splitlines()]
    ['run_started', 'run_ended']
    """
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_JsonLines())
    level = _logger.level
    _logger.addHandler(handler)
    _logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        _logger.removeHandler(handler)
        _logger.setLevel(level)
        handler.close()
