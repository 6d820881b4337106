"""Where a worker runs."""

from __future__ import annotations

import pytest

from taskmanager import _execute
from taskmanager._execute import device_of


@pytest.mark.parametrize(
    ("nodes", "chosen", "devices"),
    [
        ([], None, ["cpu", "cpu"]),
        (["null", "nvidiactl", "nvidia-uvm"], None, ["cpu", "cpu"]),
        (["nvidia0", "nvidia1", "nvidiactl"], None, ["cuda:0", "cuda:1", "cuda:0"]),
        (["nvidia0", "nvidia1"], "1", ["cuda:0", "cuda:0"]),
        (["nvidia0", "nvidia1", "nvidia2"], "2,0", ["cuda:0", "cuda:1", "cuda:0"]),
        (["nvidia0"], "", ["cpu"]),
        (["nvidia0", "nvidia1"], "0,-1,1", ["cuda:0", "cuda:0"]),  # CUDA stops at the first bad one
        ([], "0", ["cpu"]),
    ],
)
def test_devices_go_round_over_the_visible_gpus(monkeypatch, nodes, chosen, devices):
    monkeypatch.setattr(_execute.os, "listdir", lambda folder: nodes)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert [device_of(worker_id) for worker_id in range(len(devices))] == devices
