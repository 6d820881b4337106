"""How long a request is tried again."""

from __future__ import annotations

import obstore
import pytest

from savers._stores._bucket import _requests
from savers._stores._bucket._requests import Requests
from savers._stores._location import locate
from savers.errors import StorageError
from tests.recorder import Recorder


@pytest.mark.may_leak("files", reason="obstore's event loop lives as long as the process")
def test_where_nobody_ever_answered_the_endpoint_is_doubted_soon(monkeypatch):
    monkeypatch.setattr(_requests, "FIRST_BUDGET", 0.0)
    nobody = obstore.store.S3Store(
        "bucket", endpoint="http://127.0.0.1:9", region="x", skip_signature=True,
        client_options={"allow_http": True}, retry_config={"max_retries": 0},
    )  # fmt: skip
    tries = []

    def request():
        tries.append(1)
        return obstore.get(nobody, "key")

    requests = Requests("s3://bucket", budget=0.5)
    with pytest.raises(StorageError, match="check the endpoint"):
        requests.send("read", "key", request)
    assert len(tries) == 1
    assert requests.send("read", "key", lambda: 5) == 5
    with pytest.raises(StorageError, match=r"tried \d+ times in 0.5 s") as caught:
        requests.send("read", "key", request)
    assert len(tries) > 2
    assert "check the endpoint" not in str(caught.value)


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_a_request_is_tried_for_at_least_its_budget_with_jitter(monkeypatch):
    def outage() -> None:
        raise ConnectionError

    pauses = []
    for _ in range(2):
        clock = Clock()
        monkeypatch.setattr(_requests, "time", clock)
        requests = Requests("s3://bucket")
        requests.send("read", "key", lambda: 5)
        with pytest.raises(StorageError, match="in 120 s"):
            requests.send("read", "key", outage)
        assert 120 <= clock.now < 120 + _requests.LONGEST_PAUSE
        pauses.append(clock.slept)
    assert pauses[0] != pauses[1]
    for slept in pauses:
        assert max(slept) <= _requests.LONGEST_PAUSE
        assert all(0.05 * 2**n <= pause <= 0.1 * 2**n for n, pause in enumerate(slept[:6]))


@pytest.mark.may_leak("files", reason="obstore's event loop lives as long as the process")
@pytest.mark.parametrize("url", ["s3://runs/x", "gs://runs/x", "az://runs/x"])
def test_nobody_else_tries_again(url):
    """Neither obstore nor the HTTP library below it."""
    with Recorder() as recorder:
        recorder.status = 500
        options = {
            "s3": {"key": "a", "secret": "b", "endpoint_url": recorder.endpoint},
            "gs": {"token": "a", "endpoint_url": recorder.endpoint},
            "az": {"account_name": "lab", "anon": True, "endpoint": f"{recorder.endpoint}/lab"},
        }[url[:2]]
        store = locate(url, {**options, "retry_timeout": 0}).store
        for attempt in (store.get, lambda key: store.create(key, b"x"), store.delete):
            recorder.asked.clear()
            with pytest.raises(StorageError):
                attempt("a")
            assert len(recorder.asked) == 1
