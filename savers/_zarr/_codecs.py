"""Codecs as users ask for them, as zarr takes them in either version, as documents name them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from savers._codecs._settings import preset
from savers.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from savers._format import NewArray
    from savers._zarr._documents import Document


def codec_names(node: Document) -> tuple[tuple[int, ...] | None, tuple[str, ...]]:
    """Return the chunk shape within a shard, and the codecs by name."""
    if node["zarr_format"] == 2:
        compressor = [node["compressor"]] if node["compressor"] else []
        chain = [*(node.get("filters") or ()), *compressor]
        return None, tuple(str(codec["id"]) for codec in chain)
    first = node["codecs"][0]
    if first["name"] != "sharding_indexed":
        return None, _names(node["codecs"])
    settings = first["configuration"]
    return tuple(settings["chunk_shape"]), _names(settings["codecs"])


def _names(codecs: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(
        str(codec["name"] + _variant(codec.get("configuration", {})))
        for codec in codecs
        if codec["name"] not in ("bytes", "vlen-utf8")
    )


def _variant(settings: Mapping[str, Any]) -> str:
    """Return what tells blosc codecs apart, as "(zstd-1, shuffle)"."""
    if "cname" not in settings:
        return ""
    return f"({settings['cname']}-{settings['clevel']}, {settings['shuffle']})"


def codec_options(new: NewArray, zarr_format: int) -> dict[str, Any]:
    """Settings of `zarr.create_array` from what the user asked for."""
    options: dict[str, Any] = {
        name: new.codecs[name] for name in ("filters", "serializer") if name in new.codecs
    }
    asked = [n for n in ("compressor", "compressors", "compression", "codecs") if n in new.codecs]
    if len(asked) > 1 and "codecs" in asked:
        asked.remove("codecs")  # the saver's default; a keyword of the call comes before it
    if len(asked) > 1:
        message = f"{new.name!r}: expected one of compressor, compressors, compression, got {asked}"
        raise InvalidInputError(message)
    given = new.codecs[asked[0]] if asked else "balanced"
    options["compressors"] = _compressors(given, new, zarr_format)
    return options


def _compressors(given: Any, new: NewArray, zarr_format: int) -> Any:
    if given is None or isinstance(given, str):
        try:
            chosen = preset(given, new.dtype)
        except KeyError as error:
            known = "balanced, fast, small, zstd, gzip, lz4, blosc, None"
            message = f"{new.name!r}: unknown codecs {given!r}; known: {known}"
            raise InvalidInputError(message) from error
    else:
        chosen = tuple(given) if isinstance(given, (list, tuple)) else (given,)
    if zarr_format == 2:
        return [_as_numcodecs(codec) for codec in chosen] or None
    return [_as_v3(codec, new) for codec in chosen] or None


def _as_v3(codec: Any, new: NewArray) -> Any:
    """A numcodecs object as the core v3 codec that writes the same bytes."""
    settings = codec.get_config() if hasattr(codec, "codec_id") else None
    if settings is None:
        return codec
    from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

    kind = settings.pop("id")
    if kind == "blosc":
        shuffle = settings["shuffle"]
        if shuffle == -1:
            shuffle = 2 if new.dtype.itemsize == 1 else 1
        names: dict[int, Any] = {0: "noshuffle", 1: "shuffle", 2: "bitshuffle"}
        return BloscCodec(
            typesize=new.dtype.itemsize, cname=settings["cname"], clevel=settings["clevel"],
            shuffle=names[shuffle], blocksize=settings["blocksize"],
        )  # fmt: skip
    if kind == "zstd":
        return ZstdCodec(level=settings["level"], checksum=settings.get("checksum", False))
    if kind == "gzip":
        return GzipCodec(level=settings["level"])
    message = (
        f"{new.name!r}: numcodecs {kind!r} has no core Zarr v3 codec; take Blosc, Zstd or GZip, "
        "a zarr.codecs object, or zarr_format=2"
    )
    raise InvalidInputError(message)


def _as_numcodecs(codec: Any) -> Any:
    """A v3 codec as the numcodecs object of v2."""
    if hasattr(codec, "codec_id"):
        return codec
    import numcodecs

    document = codec.to_dict()
    settings = dict(document.get("configuration", {}))
    if document["name"] == "blosc":
        settings.pop("typesize", None)
        shuffle = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}[settings.pop("shuffle")]
        return numcodecs.Blosc(**settings, shuffle=shuffle)
    if document["name"] == "zstd":
        return numcodecs.Zstd(**settings)
    return numcodecs.GZip(**settings)
