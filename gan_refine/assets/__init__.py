"""Names, paths and URLs -> verified local files, by the catalogs in pretrained/."""

from gan_refine.assets.download import Patience, Source, cache_folder, fetch, sha256
from gan_refine.assets.names import (
    KINDS,
    PRETRAINED,
    Pair,
    PublicFile,
    PublishedFid,
    catalog,
    licence_of,
    public_files,
    refuse_name,
    resolve,
)

__all__ = [
    "KINDS",
    "PRETRAINED",
    "Pair",
    "Patience",
    "PublicFile",
    "PublishedFid",
    "Source",
    "cache_folder",
    "catalog",
    "fetch",
    "licence_of",
    "public_files",
    "refuse_name",
    "resolve",
    "sha256",
]
