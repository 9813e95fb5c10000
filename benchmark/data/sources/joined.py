"""Source joined: several data sets as the domains of one, so that a model can learn from some and serve another."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from benchmark.data.schema import DOMAIN, ITEM, ITEM_ID, PART, RATING, TIMESTAMP, USER, USER_ID, Dataset
from benchmark.data.sources.canonical import canonical
from benchmark.errors import InputError
from benchmark.validation import describe


class Joined(BaseModel):
    """Several sources as one: items carry their ``domain``, ids are preceded by it (``beauty/B001``).

    Ratings and times are kept where every domain has them. The text fields that all domains have are what a model can
    carry from one to the other.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["joined"] = "joined"
    domains: dict[str, Any] = Field(min_length=2, description="Name of a domain -> its source.")
    shared_users: bool = Field(False, description="A user id means the same person in every domain.")

    @field_validator("domains")
    @classmethod
    def _are_sources(cls, domains: dict[str, Any]) -> dict[str, Any]:
        from benchmark.data.sources import Source  # which this is one of

        out = {}
        for name, told in domains.items():
            if not name or "/" in name:
                raise ValueError(f"domain '{name}': a name has letters, and no '/', which stands behind it in ids")
            block = {"source": told} if isinstance(told, str) else told
            try:
                out[name] = TypeAdapter[Any](Source).validate_python(block)
            except ValidationError as error:
                raise ValueError(describe(error, Source, name)) from None
            if isinstance(out[name], Joined):
                raise ValueError(f"domain '{name}': joined itself; name its domains here")
        return out

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    def files(self) -> list[Path]:
        """Return the files of all domains."""
        return [path for source in self.domains.values() for path in source.files()]

    def load(self) -> Dataset:
        """Read and check every domain, and join them.

        Raises:
            InputError: a file that cannot be used, domains without a text field in common, or no user in common where
                they are shared.
        """
        parts = {name: source.load() for name, source in self.domains.items()}
        _check_texts({name: part.items for name, part in parts.items()})
        clocks = {part.clock for part in parts.values() if part.has_time}
        if self.shared_users and "order" in clocks:
            raise InputError(
                "dataset joined: shared_users: the order of one domain says nothing of when a user did something in "
                "another; every domain needs times"
            )
        columns = [RATING, TIMESTAMP, PART]
        columns = [c for c in columns if all(c in part.interactions.columns for part in parts.values())]
        rows = pl.concat(_rows(name, part, columns, self.shared_users) for name, part in parts.items())
        domain = {name: pl.lit(name).alias(DOMAIN) for name in parts}
        items = pl.concat(
            (_named(name, part.items, ITEM_ID).with_columns(domain[name]) for name, part in parts.items()),
            how="diagonal_relaxed",
        )
        users = [part.users if self.shared_users else _named(name, part.users, USER_ID) for name, part in parts.items()]
        people = pl.concat(users, how="diagonal_relaxed").unique(USER_ID, keep="first", maintain_order=True)
        counts = ", ".join(f"{name} {part.interactions.height:,}" for name, part in parts.items())
        if self.shared_users:
            both = _in_several({name: _active(part) for name, part in parts.items()})
            counts += f"; {both:,} of {people.height:,} users are in more than one domain"
        clock: Literal["time", "order"] = "order" if "order" in clocks else "time"
        return canonical("joined", rows, items, people, clock=clock, note=counts)


def _named(domain: str, table: pl.DataFrame, key: str) -> pl.DataFrame:
    return table.with_columns(pl.concat_str(pl.lit(f"{domain}/"), key).alias(key))


def _rows(domain: str, part: Dataset, columns: list[str], shared: bool) -> pl.DataFrame:
    """Return the raw rows of a domain, its ids preceded by its name."""
    rows = part.interactions
    users = part.users[USER_ID] if shared else _named(domain, part.users, USER_ID)[USER_ID]
    return rows.select(
        users.gather(rows[USER]).alias(USER_ID),
        _named(domain, part.items, ITEM_ID)[ITEM_ID].gather(rows[ITEM]).alias(ITEM_ID),
        *columns,
    )


def _active(part: Dataset) -> pl.Series:
    """Return the ids of the users that did something."""
    return part.users[USER_ID].gather(part.interactions[USER].unique(maintain_order=True))


def _in_several(users: dict[str, pl.Series]) -> int:
    """Return how many ids stand in more than one domain.

    Raises:
        InputError: none does.
    """
    both = pl.concat(users.values()).value_counts().filter(pl.col("count") > 1).height
    if not both:
        (first, one), (second, other) = list(users.items())[:2]
        raise InputError(
            f"dataset joined: shared_users: no user is in more than one domain ({first} has ids such as {one[0]}, "
            f"{second} such as {other[0]}); expected the same id for the same person, or leave shared_users out"
        )
    return both


def _check_texts(items: dict[str, pl.DataFrame]) -> None:
    """Check that something can be read of the items of every domain.

    Raises:
        InputError: they have no text field in common.
    """

    def texts(frame: pl.DataFrame) -> list[str]:
        kinds = (pl.String, pl.List(pl.String))
        return [name for name in frame.columns if name != ITEM_ID and frame[name].dtype in kinds and frame[name].len()]

    known = {name: texts(frame) for name, frame in items.items()}
    if not set.intersection(*map(set, known.values())):
        told = "; ".join(f"{name}: {', '.join(fields) or 'none'}" for name, fields in known.items())
        raise InputError(f"dataset joined: the domains have no text field in common ({told}); rename one of them")
