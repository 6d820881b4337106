"""What travels to worker processes and back, and a clear word about what can't."""

from __future__ import annotations

import ast
import importlib.util
import pickle
import pickletools
import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskmanager.errors import TaskManagerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskmanager._pool import Outcome, TaskPlan

__all__ = ["Parcel", "dump", "dump_by_value", "portable_error", "wrap"]

_WITHOUT_CLOUDPICKLE = (
    "install cloudpickle, or put tasks into a module or a script with "
    '`if __name__ == "__main__":` around its actions'
)
_REMEDY = "make it in setup(), or use executor='threads'"


@dataclass(frozen=True, slots=True)
class Parcel:
    """A plan that is ready to travel.

    Attributes
    ----------
    payload : bytes
        The pickled `TaskPlan`.
    preparation : bytes
        Pickled mapping: what to import before it is unpickled.
    by_value : bool
        Classes and functions of the main script travel by value (cloudpickle).
    """

    payload: bytes
    preparation: bytes
    by_value: bool


def wrap(plan: TaskPlan) -> Parcel:
    """Pickle a plan.

    Raises
    ------
    TypeError
        The task or its arguments can't travel; the text names the attribute and the way out.
    """
    script = _importable_main()
    try:
        payload = dump(plan, by_value=not script)
        _refuse_main_script(payload, script)
    except Exception as error:
        raise TypeError(_why_not(plan, error)) from error
    if b"__main__" not in payload and _cloudpickle_found():
        script = {}  # nothing needs the script, and the rest can go by value
    main = {"sys_argv": sys.argv, **script}
    preparation = {"main": main, "modules": _modules_in(payload)}
    return Parcel(payload, pickle.dumps(preparation, 5), by_value=not script)


def _refuse_main_script(payload: bytes, script: dict[str, str]) -> None:
    if script or _cloudpickle_found() or b"__main__" not in payload:
        return
    error = TypeError("it is defined in the main script, which worker processes can't import")
    error.add_note(_WITHOUT_CLOUDPICKLE)
    raise error


def dump(value: object, *, by_value: bool = False) -> bytes:
    """Pickle; what can't be pickled by name goes by value (cloudpickle, where installed).

    Parameters
    ----------
    value : object
    by_value : bool
        Also what is defined in the main script, since the other side can't import that.
    """
    try:
        payload = pickle.dumps(value, 5)
    except Exception as error:
        return dump_by_value(value, error)
    if by_value and b"__main__" in payload and _cloudpickle_found():
        return dump_by_value(value, TypeError())
    return payload


def dump_by_value(value: object, error: Exception) -> bytes:
    """Pickle classes and functions by value; raises `error` where cloudpickle is missing."""
    if not _cloudpickle_found():
        error.add_note(_WITHOUT_CLOUDPICKLE)
        raise error
    payload: bytes = import_module("cloudpickle").dumps(value, 5)
    return payload


@cache
def _cloudpickle_found() -> bool:
    """Return whether cloudpickle is installed."""
    return importlib.util.find_spec("cloudpickle") is not None


def _importable_main() -> dict[str, str]:
    """How a worker can import the main script, in the words of `multiprocessing.spawn.prepare`.

    Empty for notebooks, ``python -c`` and scripts that would start the same work once more.
    """
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    path = getattr(spec, "origin", None) or getattr(main, "__file__", None)
    if path is None or not _guarded(Path(path)):
        return {}
    if spec is not None:
        return {"init_main_from_name": spec.name}
    return {"init_main_from_path": str(Path(path).resolve())}


def _guarded(path: Path) -> bool:
    """True for a script that keeps its actions under ``if __name__ == "__main__"``."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return False
    tests = [ast.unparse(node.test) for node in body if isinstance(node, ast.If)]
    return any("__name__" in test for test in tests)


def _modules_in(payload: bytes) -> list[str]:
    """The loaded modules that a pickle names; others cost the worker only an import."""
    words = {word for _, word, _ in pickletools.genops(payload) if isinstance(word, str)}
    names = {name for word in words for name in word.split(" ")[:1]}
    return sorted(name for name in names if name in sys.modules and not name.startswith("__"))


def _why_not(plan: TaskPlan, error: Exception) -> str:
    for name, value in _parts(plan):
        if (trouble := _trouble(value)) is not None:
            kind = type(value).__name__
            return f"{name} ({kind}) can't be sent to worker processes: {trouble}; {_REMEDY}"
    notes = "; ".join(getattr(error, "__notes__", []))
    return f"the task can't be sent to worker processes: {error}; {notes or _REMEDY}"


def _parts(plan: TaskPlan) -> list[tuple[str, object]]:
    factory: Any = plan.factory
    task = factory if isinstance(factory, type) else factory()
    name = getattr(task, "__name__", type(task).__name__)
    own: Mapping[str, object] = {} if isinstance(task, type) else vars(task)
    parts = [(f"{name}.{key}", value) for key, value in own.items()]
    return parts + [(f"keyword argument {key!r}", value) for key, value in plan.kwargs.items()]


def _trouble(value: object) -> Exception | None:
    try:
        dump(value)
    except Exception as error:
        return error
    return None


def portable_error(outcome: Outcome) -> Outcome:
    """Replace an error that would not survive pickling by one that says what it was."""
    error = outcome.error
    if error is None:
        return outcome
    try:
        pickle.loads(pickle.dumps(error, 5))
    except Exception:
        kind = f"{type(error).__module__}.{type(error).__qualname__}"
        message = f"{kind}: {error} (the exception itself can't be pickled)"
        outcome.error = TaskManagerError(message)
    return outcome
