"""The version of the distribution; the one place where it stands."""

from __future__ import annotations

__version__ = "0.1.0.dev0"
