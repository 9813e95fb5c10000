"""Reads tables from csv, tsv, gz and parquet files; whatever is wrong with a file becomes one line."""

from __future__ import annotations

import codecs
import csv
import gzip
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import IO

import polars as pl

from benchmark.data.schema import RATING, TIMESTAMP
from benchmark.data.sources.canonical import Origin
from benchmark.data.sources.raw import Raw, member
from benchmark.digest import file_sha256
from benchmark.errors import InputError, nearest

UNREADABLE = (
    *(pl.exceptions.PolarsError, pl.exceptions.PanicException),
    *(OSError, EOFError, zlib.error, zipfile.BadZipFile),
)
_CHUNK = 1 << 22


def existing(path: Path) -> Path:
    """Return the path, with ``~`` expanded.

    Raises:
        InputError: there is no such file; names the most similar one of that folder.
    """
    path = path.expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a file")
    if not path.parent.is_dir():
        raise InputError(f"{path}: no such file (there is no folder {path.parent})")
    raise InputError(f"{path}: no such file{nearest(path.name, (entry.name for entry in path.parent.iterdir()))}")


def content_hash(path: Path) -> str:
    """Return the SHA-256 of the file's bytes."""
    return file_sha256(existing(path))


def read_header(path: Path | Raw, separator: str | None = None, quote: str | None = '"') -> list[str]:
    """Return the names of the file's columns.

    Raises:
        InputError: no such file, unreadable, empty, not UTF-8, or a name stands there twice.
    """
    path = _present(path)
    try:
        if isinstance(path, Path) and _is_parquet(path):
            return list(pl.read_parquet_schema(path))
        with open_text(path) as file:
            first = file.readline().removeprefix(codecs.BOM_UTF8)
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    try:
        line = first.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise not_utf8(path) or unreadable(path, error) from error
    if not line:
        raise InputError(f"{path}: empty, expected a line of column names")
    delimiter = separator or separator_of(path)
    reader = csv.reader(
        [line], delimiter=delimiter, quotechar=quote, quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
    )
    names = next(reader)
    twice = [name for position, name in enumerate(names) if name in names[:position]]
    if twice:
        raise InputError(f"{path}: line 1: column '{twice[0]}' stands there twice")
    return names


def read_table(
    path: Path | Raw,
    columns: Mapping[str, str],
    separator: str | None = None,
    quote: str | None = '"',
    header: Sequence[str] | None = None,
) -> tuple[pl.DataFrame, Origin]:
    """Read the given columns of a file.

    Args:
        path: .parquet, or text with a header (.csv, .tsv and the like, plain or .gz), or Raw text.
        columns: our name -> the file's column. ``rating`` and ``timestamp`` become numbers (dates become seconds since
            1970 in UTC); of a text file every other column is read as text.
        separator: of a text file; None means a comma for .csv and a tab otherwise.
        quote: the quoting character of a text file, or None.
        header: the names of the columns of a text file that has no line of names; None: its first line holds them.

    Returns:
        The frame under our names, and where it came from.

    Raises:
        InputError: no such file or column; unreadable; not UTF-8; text where a number should be.
    """
    names = list(header) if header is not None else read_header(path, separator, quote)
    path = _present(path)
    parquet = isinstance(path, Path) and _is_parquet(path)
    origin = Origin(
        path if isinstance(path, Path) else str(path), dict(columns), None if parquet else 1 + (header is None)
    )
    for name, column in columns.items():
        if column not in names:
            raise origin.missing(name, names)
    wanted = list(dict.fromkeys(columns.values()))
    try:
        if isinstance(path, Path) and parquet:
            frame = pl.read_parquet(path, columns=wanted)
        else:
            frame = _read_text(path, names, columns, separator or separator_of(path), quote, header is None, origin)
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    frame = frame.select(pl.col(column).alias(name) for name, column in columns.items())
    for name in (RATING, TIMESTAMP):
        if name in frame.columns:
            frame = frame.with_columns(numbers(frame[name], name, origin))
    return frame, origin


def infer_types(frame: pl.DataFrame, text: tuple[str, ...]) -> pl.DataFrame:
    """Return the frame with text columns made Int64 or Float64 where all values are, except those named in ``text``.

    A column with a leading zero ("05146") stays text: it is a code, not a number.
    """
    typed = []
    for column in frame.iter_columns():
        known = column.drop_nulls()
        if column.dtype == pl.String and column.name not in text and len(known):
            for dtype in (pl.Int64, pl.Float64):
                if not known.str.contains(r"^-?0\d").any() and not known.cast(dtype, strict=False).has_nulls():
                    column = column.cast(dtype)
                    break
        typed.append(column)
    return pl.DataFrame(typed)


def separator_of(path: Path | Raw) -> str:
    """Return the separator that the suffix stands for."""
    return "," if ".csv" in PurePath(str(path)).suffixes else "\t"


def _is_parquet(path: Path) -> bool:
    return path.suffix == ".parquet"


def open_text(path: Path | Raw) -> IO[bytes]:
    """Return the text of a file, unpacked where it is a .gz."""
    if isinstance(path, Raw):
        return path.open()
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _present(path: Path | Raw) -> Path | Raw:
    """Return the path, with ``~`` expanded; raises InputError where there is no such file or member."""
    if isinstance(path, Path):
        return existing(path)
    if path.member is not None:
        member(existing(path.path), path.member)
    return Raw(existing(path.path), path.member, path.encoding, path.translate)


def _read_text(
    path: Path | Raw,
    header: list[str],
    columns: Mapping[str, str],
    separator: str,
    quote: str | None,
    has_header: bool,
    origin: Origin,
) -> pl.DataFrame:
    """Read columns of a text file; numbers straight as numbers, and only where that fails as text first."""
    dtypes: dict[str, type[pl.DataType]] = dict.fromkeys(header, pl.String)
    numbers = {
        columns[name]: dtype for name, dtype in ((RATING, pl.Float32), (TIMESTAMP, pl.Float64)) if name in columns
    }

    def read(schema: dict[str, type[pl.DataType]]) -> pl.DataFrame:
        text = pl.scan_csv(
            path if isinstance(path, Path) else path.open(),
            separator=separator,
            quote_char=quote,
            schema=schema,
            has_header=has_header,
        )
        # all columns are parsed, in a stream: of a part of them polars would not notice a line with too many fields
        whole_lines = pl.QueryOptFlags(projection_pushdown=False)
        wanted = text.select(list(dict.fromkeys(columns.values())))
        return wanted.collect(engine="streaming", optimizations=whole_lines)

    try:
        return read(dtypes | numbers)
    except pl.exceptions.PolarsError:
        if (error := not_utf8(path)) is not None:
            raise error from None
        if (error := _misshapen(path, len(header), separator, quote, has_header)) is not None:
            raise error from None
        if not numbers:
            raise
    return read(dtypes)


def numbers(values: pl.Series, name: str, origin: Origin) -> pl.Series:
    """Return ratings or timestamps as numbers; dates as seconds since 1970 in UTC."""
    if name == TIMESTAMP and values.dtype.is_temporal():
        return _seconds(values)
    if values.dtype != pl.String:
        return values
    parsed = values.cast(pl.Float64, strict=False)
    expected = "a number"
    known = values.drop_nulls()
    if name == TIMESTAMP:
        expected = "a number, or a date as 2024-12-31T23:59:59"
        if len(known) and known.head(1).cast(pl.Float64, strict=False).has_nulls():
            try:
                parsed = _seconds(values.str.to_datetime(time_unit="us", time_zone="UTC", strict=False))
            except pl.exceptions.PolarsError:
                parsed = pl.Series(name, [None], pl.Float64).new_from_index(0, len(values))
    wrong = parsed.is_null()
    if wrong.any():
        row = int(wrong.arg_max() or 0)
        raise origin.error(row, name, values[row], expected)
    return parsed


def _seconds(dates: pl.Series) -> pl.Series:
    """Return dates as Float64 seconds since 1970; those without a zone are taken as UTC."""
    return dates.cast(pl.Datetime("us", getattr(dates.dtype, "time_zone", None))).to_physical().cast(pl.Float64) / 1e6


def _chunks(path: Path | Raw) -> Iterator[bytes]:
    # what is stored as UTF-8 is judged as it is stored, so that the place of a wrong byte is right
    with path.stream() if isinstance(path, Raw) and path.encoding == "utf-8" else open_text(path) as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def not_utf8(path: Path | Raw) -> InputError | None:
    """Return the error for the first byte that is not UTF-8, or None."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    done, lines = 0, 1
    chunk = b""
    try:
        for chunk in _chunks(path):
            pending = len(decoder.getstate()[0])
            decoder.decode(chunk)
            done, lines = done + len(chunk), lines + chunk.count(b"\n")
        pending, chunk = len(decoder.getstate()[0]), b""
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        start = error.start - pending  # the decoder put pending bytes of the chunk before in front
        line = lines + chunk[: max(start, 0)].count(b"\n")
        return InputError(f"{path}: line {line}, byte {done + start}: not UTF-8, expected UTF-8 text")
    except UNREADABLE:
        return None
    return None


def _misshapen(path: Path | Raw, width: int, separator: str, quote: str | None, has_header: bool) -> InputError | None:
    """Return the error for the first line with more fields than the header or an open quote, or None."""
    expected = f"{width} as in line 1" if has_header else str(width)
    lines = (line.decode() for line in open_text(path))
    reader = csv.reader(
        lines, delimiter=separator, quotechar=quote, quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE, strict=True
    )
    end = 0
    try:
        for fields in reader:
            if len(fields) > width:
                return InputError(f"{path}: line {end + 1}: found {len(fields)} fields, expected {expected}")
            end = reader.line_num
    except csv.Error as error:
        return InputError(f"{path}: line {end + 1}: {error}; is a quote left open?")
    except UNREADABLE:
        return None
    return None


def unreadable(path: Path | Raw, error: BaseException, kind: str = "a text table") -> InputError:
    """Return the one-line error for whatever a reader of ``kind`` said."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    kind = "parquet" if isinstance(path, Path) and _is_parquet(path) else kind
    return InputError(f"{path}: cannot be read as {kind}: {said[:200]}")
