"""A job into every kind of store that outlives its process, which is killed in all of them at once.

`main` is what that process runs; it reads folder and servers from stdin.
"""

from __future__ import annotations

import base64
import faulthandler
import os
import pickle
import sys
import threading
import time
from typing import ClassVar

import numpy as np

from savers import ZarrSaver
from savers._reading._missing import run_state
from taskmanager import Task, TaskManager
from tests.stores import Place

ITEMS, KILLED_AT, INTERVAL = range(10), 7, 3
SAVED = KILLED_AT // INTERVAL * INTERVAL


class Squares(Task):
    """An item and its square; where `stuck` is given, one item never gets done."""

    stuck: ClassVar[threading.Event | None] = None

    def process_item(self, item, **kwargs):
        if item == KILLED_AT and self.stuck is not None:
            self.stuck.set()
            threading.Event().wait()
        time.sleep(0.002)  # results of tiny items are looked at several at a time
        return np.array([item, item**2], dtype=float)


def submitted(place, task=Squares):
    """Run the job; return its counts."""
    with ZarrSaver(place.target, "squares", storage_options=place.options or None) as saver:
        manager = TaskManager(task, executor="serial")
        return manager.submit_tasks(ITEMS, saver=saver, save_interval=INTERVAL).counts


def _saved(place):
    return run_state(place.target, place.options).get("run_done", 0)


def main():
    """Run the job in a thread for each kind, and end without a word once all are stuck."""
    faulthandler.dump_traceback_later(80, exit=True)
    folder, servers = pickle.loads(base64.b64decode(sys.stdin.read()))
    waiting = []
    for kind, server in servers.items():
        (folder / kind).mkdir()
        task = Squares()
        task.stuck = threading.Event()
        place = Place(kind, folder / kind, server)
        threading.Thread(target=submitted, args=[place, task], daemon=True).start()
        waiting.append((kind, task.stuck))
    for kind, stuck in waiting:
        stuck.wait()
        while _saved(Place(kind, folder / kind, servers[kind])) < SAVED:
            time.sleep(0.02)  # it is saved in the background
    os._exit(9)
