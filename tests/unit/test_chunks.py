"""How many items go to a worker at once."""

from __future__ import annotations

import pytest

from taskmanager._chunks import TARGET_SECONDS, chunk_size


def test_the_first_chunk_is_one_item():
    assert chunk_size(None, save_interval=10_000, max_workers=1) == 1


@pytest.mark.parametrize("seconds", [0.0, 1e-7, 1e-4, 1e-3, 0.02, 0.06, 5.0])
@pytest.mark.parametrize("save_interval", [1, 3, 100, 10_000])
@pytest.mark.parametrize("workers", [1, 2, 64])
def test_chunks_hold_the_target_and_never_more_than_their_share(seconds, save_interval, workers):
    size = chunk_size(seconds, save_interval=save_interval, max_workers=workers)
    assert 1 <= size <= max(1, save_interval // workers)
    assert size == 1 or size * seconds <= TARGET_SECONDS
    larger = size + 1 <= save_interval // workers
    assert not larger or (size + 1) * seconds > TARGET_SECONDS
