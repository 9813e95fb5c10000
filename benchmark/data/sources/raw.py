"""Opens a text file that is no plain UTF-8 table: inside a zip, in another encoding, with other marks."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmark.errors import InputError, nearest


@dataclass(frozen=True)
class Raw:
    """Where the text is and what makes a UTF-8 table of it. In errors it is called ``archive.zip/member``.

    Attributes:
        path: the file, or the zip that holds it; nothing is ever unpacked to disk.
        member: its exact name inside the zip; None: ``path`` is the file itself.
        encoding: of its bytes.
        translate: made of the UTF-8 bytes before they are split into fields; must keep every line where it is.
    """

    path: Path
    member: str | None = None
    encoding: str = "utf-8"
    translate: Callable[[bytes], bytes] | None = None

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}/{self.member}"

    def stream(self) -> IO[bytes]:
        """Return the bytes as they are stored.

        Raises:
            OSError, zipfile.BadZipFile: the file or its zip cannot be read.
        """
        if self.member is None:
            return self.path.open("rb")
        try:
            return zipfile.ZipFile(self.path).open(self.member)
        except (KeyError, NotImplementedError, RuntimeError) as error:  # not there, packed in a new way, encrypted
            raise OSError(str(error)) from error

    def open(self) -> IO[bytes]:
        """Return the UTF-8 text; raises what ``stream`` raises."""
        if self.encoding == "utf-8" and self.translate is None:
            return self.stream()
        with self.stream() as file:
            data = file.read()
        if self.encoding != "utf-8":
            data = data.decode(self.encoding).encode()
        return io.BytesIO(self.translate(data) if self.translate else data)


def members(archive: Path) -> list[str]:
    """Return the names inside a zip.

    Raises:
        InputError: it is no zip, or a damaged one.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            return file.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{archive}: cannot be read as a zip: {error}") from error


def member(archive: Path, *names: str) -> str:
    """Return the first of the ``names`` that is inside the zip.

    Raises:
        InputError: none is.
    """
    known = members(archive)
    for name in names:
        if name in known:
            return name
    raise InputError(f"{archive}: no member '{names[0]}'{nearest(names[0], known)}")
