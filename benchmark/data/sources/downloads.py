"""Finds the files of a downloaded data set; where they are not, says in one line what to get, where, on what terms."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from benchmark.data.sources.raw import Raw, member
from benchmark.errors import InputError, nearest

ROOT = "LEVELFIELD_DATA"


class Downloaded(BaseModel):
    """A source whose files a user downloads: it says by ``_places`` which they are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path | None = Field(
        None,
        description="Of the files, or their zip; default: a folder of its own in $LEVELFIELD_DATA or data/.",
    )

    def _places(self) -> Mapping[str, Path | Raw]:
        """Return where the files are, by name; see ``locate``."""
        raise NotImplementedError

    def files(self) -> list[Path]:
        """Return the files that ``load`` reads, or the zips that hold them.

        Raises:
            InputError: they are not there; says where to get them.
        """
        places = self._places().values()
        return list(dict.fromkeys(place.path if isinstance(place, Raw) else place for place in places))


@dataclass(frozen=True)
class Download:
    """A data set to be got by hand.

    Attributes:
        source: what the error calls it.
        folder: name of the folder in which it is looked for: in ``$LEVELFIELD_DATA``, then in ``data/``.
        files: what to get, with sizes and checksums where its publisher states them.
        address: the public address.
        terms: what it may be used for.
    """

    source: str
    folder: str
    files: str
    address: str
    terms: str


@dataclass(frozen=True)
class Pack:
    """Files that come together.

    Attributes:
        names: the files.
        archive: the zip that holds them as downloaded, read as it is; "": there is none.
        inside: the folder that they lie in, which tells one version from another; "": none.
    """

    names: tuple[str, ...]
    archive: str = ""
    inside: str = ""


def locate(download: Download, folder: Path | None, *packs: Pack) -> dict[str, Path | Raw]:
    """Return where the files are, name -> place, of the first of the ``packs`` that is there as a whole.

    Args:
        download: what to say where they are not.
        folder: the only place to look: a folder, or a zip; None: ``$LEVELFIELD_DATA/<name>``, then ``data/<name>``.
        packs: the layouts in which the data set is spread.

    Raises:
        InputError: they are nowhere; or a zip lacks one of them.
    """
    places = _places(download, folder)
    for place in places:
        for pack in packs:
            if (found := _in(place, pack)) is not None:
                return found
    pack = min(packs, key=lambda pack: len(_missing(places[0], pack)))  # the one that is nearly there; else the first
    missing, home = _missing(places[0], pack), _folder(places[0], pack)
    close = nearest(missing[0], (entry.name for entry in home.iterdir())) if home.is_dir() else ""
    shown = ", ".join(str((home / name).relative_to(places[0])) for name in missing)
    raise InputError(
        f"{download.source}: no {shown}{f' or {pack.archive}' if pack.archive else ''} in "
        f"{' or '.join(str(place) for place in places)}{close if close.startswith('; did') else ''}; download "
        f"{download.files} from {download.address} ({download.terms}) into {places[0]}, or give its place as 'folder'"
    )


def _places(download: Download, folder: Path | None) -> list[Path]:
    if folder is not None:
        return [folder.expanduser()]
    root = os.environ.get(ROOT)
    return [*([Path(root).expanduser() / download.folder] if root else []), Path("data") / download.folder]


def _folder(place: Path, pack: Pack) -> Path:
    """Return the folder of the files; ``place`` may be that of the data set, or ``inside`` itself."""
    return place if place.absolute().name == pack.inside else place / pack.inside


def _in(place: Path, pack: Pack) -> dict[str, Path | Raw] | None:
    if not _missing(place, pack):
        return {name: _folder(place, pack) / name for name in pack.names}
    archive = place if place.suffix == ".zip" else place / pack.archive
    if not pack.archive or not archive.is_file():
        return None
    inside = f"{pack.inside}/" if pack.inside else ""
    return {name: Raw(archive, member(archive, inside + name, name)) for name in pack.names}


def _missing(place: Path, pack: Pack) -> list[str]:
    return [name for name in pack.names if not (_folder(place, pack) / name).is_file()]
