"""The main job: an ensemble of weather forecasts that is killed half way and completes itself."""

from __future__ import annotations
