"""How long a request is tried again."""

from __future__ import annotations

import obstore
import pytest

from savers._stores._bucket import _requests
from savers._stores._bucket._requests import Requests
from savers.errors import StorageError


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
