"""The main loop of a worker process."""

from __future__ import annotations

import faulthandler
import os
import pickle
import sys
import threading
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from taskmanager._arena import IDLE, LOADING, SETTING_UP, Board, Lender, map_arena
from taskmanager._execute import device_of, failed, run_chunk, set_up, tear_down
from taskmanager._limits import die_with_parent, ignore_interrupts
from taskmanager._pickling import portable_error
from taskmanager._pool import Work
from taskmanager._task import Context
from taskmanager._transport import Inbox, pack, send

if TYPE_CHECKING:
    from socket import socket

    from taskmanager._pool import Outcome, TaskPlan
    from taskmanager._task import Task

__all__ = ["CHUNK", "OUTCOMES", "READY", "STOP", "UNLOADABLE", "UNPREPARED", "work"]

#: First byte of each message: to the worker ...
CHUNK, STOP = b"C", b"S"
#: ... and from it.
READY, UNPREPARED, OUTCOMES, UNLOADABLE = b"R", b"U", b"O", b"L"

#: Values that can't change after their item has returned, so that pickling them can wait.
PLAIN = frozenset({type(None), bool, int, float, complex})

_HOLD_SECONDS = 0.001
_HOLD_BYTES = 64 << 10
_LOOK_SECONDS = 1.0


def work(sock: socket, arena: int, plan: memoryview, worker_id: int, parent: int) -> None:
    """Serve chunks from `sock` until it closes; `plan` is the pickled `TaskPlan`."""
    os.setpgid(0, 0)  # what a task starts ends with its worker
    ignore_interrupts()
    die_with_parent(parent)
    _reseed()
    memory = map_arena(arena)
    os.close(arena)
    worker = _Worker(sock, Board(memory), Lender(memory), parent)
    if worker.prepare(plan, worker_id):
        worker.serve()


def _reseed() -> None:
    """Forked from one parent, workers would draw the same numbers from NumPy's global generator."""
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    if sys.stderr is not None:
        faulthandler.enable()


class _Worker:
    def __init__(self, sock: socket, board: Board, lender: Lender, parent: int) -> None:
        self._sock = sock
        self._board = board
        self._outbox = _Outbox(sock, lender, parent)

    def prepare(self, payload: memoryview, worker_id: int) -> bool:
        self._board.note(SETTING_UP)
        try:
            self._plan: TaskPlan = pickle.loads(payload)
            self._context = Context(worker_id, device_of(worker_id), seed=self._plan.seed)
            self._task: Task = self._plan.factory()
            set_up(self._task, self._context)
        except BaseException as error:
            outcome = portable_error(failed(-1, error))
            message = pickle.dumps((outcome.error, outcome.traceback), 5)
            send(self._sock, UNPREPARED + message)
            return False
        self._board.note(IDLE)
        send(self._sock, READY)
        return True

    def serve(self) -> None:
        inbox = Inbox(self._sock, blocking=True)
        try:
            while (message := inbox.receive()) is not None and message[:1] == CHUNK:
                self._run(memoryview(message)[1:])
        except EOFError:
            return
        self._outbox.close()
        tear_down(self._task)

    def _run(self, payload: memoryview) -> None:
        self._board.note(LOADING)
        try:
            chunk = [Work(index, item) for index, item in pickle.loads(payload)]
        except BaseException as error:
            outcome = portable_error(failed(-1, error))
            send(self._sock, UNLOADABLE + pickle.dumps((outcome.error, outcome.traceback), 5))
        else:
            self._run_items(chunk)
        self._board.note(IDLE)

    def _run_items(self, chunk: list[Work]) -> None:
        add, note = self._outbox.add, self._board.note
        for outcome in run_chunk(self._task, self._plan, chunk, self._context, started=note):
            add(outcome)
        self._outbox.flush()


class _Outbox:
    """Outcomes on their way out. Tiny ones travel together, but none waits for the next item.

    While something is held back, a thread sends it after a few milliseconds even if the next
    item runs long. The same thread ends the process when the driver's side is gone.
    """

    def __init__(self, sock: socket, lender: Lender, parent: int) -> None:
        self._sock = sock
        self._lender = lender
        self._parent = parent
        self._lock = threading.Lock()
        self._held = threading.Event()
        self._plain: list[Any] = []
        self._packed: list[Any] = []
        self._bytes = 0
        self._sent = 0.0
        self._closed = False
        threading.Thread(target=self._watch, name="taskmanager-outbox", daemon=True).start()

    def add(self, outcome: Outcome) -> None:
        plain = outcome.error is None and type(outcome.value) in PLAIN
        entry = (outcome.index, outcome.seconds, outcome.value) if plain else self._pack(outcome)
        with self._lock:
            (self._plain if plain else self._packed).append(entry)
            if monotonic() - self._sent > _HOLD_SECONDS or self._bytes > _HOLD_BYTES:
                self._send()
            elif not self._held.is_set():
                self._held.set()

    def _pack(self, outcome: Outcome) -> tuple[Any, ...]:
        try:
            if outcome.error is None:
                packed = pack(outcome.value, self._lender)
                self._bytes += len(packed[0])
                return outcome.index, outcome.seconds, True, packed
        except Exception as error:
            kind = type(outcome.value).__name__
            message = f"item {outcome.index}: its result ({kind}) can't be pickled: {error}"
            outcome = failed(outcome.index, TypeError(message), outcome.seconds)
        portable_error(outcome)
        error_and_text = pickle.dumps((outcome.error, outcome.traceback), 5)
        return outcome.index, outcome.seconds, False, (error_and_text, None)

    def flush(self) -> None:
        with self._lock:
            self._send()

    def _send(self) -> None:
        if self._plain or self._packed:
            send(self._sock, OUTCOMES + pickle.dumps((self._plain, self._packed), 5))
            self._plain, self._packed, self._bytes = [], [], 0
        self._sent = monotonic()
        self._held.clear()

    def close(self) -> None:
        self._closed = True

    def _watch(self) -> None:
        while not self._closed:
            if self._held.wait(_LOOK_SECONDS):
                sleep(_HOLD_SECONDS)
                self._flush_or_end()
            if os.getppid() != self._parent:
                os._exit(1)

    def _flush_or_end(self) -> None:
        try:
            self.flush()
        except OSError:  # the driver's side is gone
            os._exit(1)
