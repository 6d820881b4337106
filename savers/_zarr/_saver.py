"""ZarrSaver: results into arrays of a Zarr store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator

from savers._chunked._saver import ChunkedSaver
from savers._codecs._zarrs import ZarrsSettings, require_zarrs
from savers._config import SaverSettings
from savers._zarr._format import format_in, format_of
from savers.errors import FormatError, InvalidInputError

if TYPE_CHECKING:
    from savers._format import Format

__all__ = ["ZarrSaver"]


class ZarrSettings(SaverSettings):
    """Keywords of `ZarrSaver`."""

    zarr_format: Literal[2, 3] | None = None
    pipeline: ZarrsSettings | None = None

    @field_validator("pipeline", mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        return ZarrsSettings() if value == "zarrs" else value


class ZarrSaver(ChunkedSaver):
    """Save results to arrays of a Zarr store.

    Parameters, approaches and errors are those of `ChunkedSaver`; see there.

    Parameters
    ----------
    zarr_format : {3, 2}, optional
        Version of the Zarr format; by default that of a store that is there, and 3 for a new one.
    pipeline : "zarrs" or ZarrsSettings, optional
        Numbers are encoded by zarrs (extra ``fast``), into local stores only; see docs/codecs.md
        before you take it for faster.

    Examples
    --------
    >>> import tempfile, zarr
    >>> path = tempfile.mkdtemp() + "/results.zarr"
    >>> with ZarrSaver(path, dataset_name="energy") as saver:
    ...     saver.save([1.0, 2.0, 3.0])
    ...     saver.save([4.0])
    >>> zarr.open_group(path)["energy"][:]
    array([1., 2., 3., 4.])
    """

    settings_type = ZarrSettings
    settings: ZarrSettings

    def __init__(
        self,
        file_path: object,
        dataset_name: str = "dataset",
        approach: str = "append",
        **settings: Any,
    ) -> None:
        super().__init__(file_path, dataset_name, approach, **settings)
        if self.settings.pipeline is not None:
            require_zarrs()
            self._require_folder()

    def _require_folder(self) -> None:
        if self._location.path is None:
            message = f"pipeline='zarrs' writes to local stores only, got {self.where}"
            raise InvalidInputError(message)

    def make_format(self) -> Format:
        there, asked = format_of(self._location.store), self.settings.zarr_format
        if there and asked and there != asked:
            message = (
                f"expected a store with zarr_format={asked} at {self.where}, this one has {there}: "
                "leave zarr_format out"
            )
            raise FormatError(message)
        return format_in(self._location.store, asked or there or 3, self.settings.pipeline)
