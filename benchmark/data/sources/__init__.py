"""Every data set that an experiment may name; a new one is a new file here and one more line in ``Source``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from benchmark.data.sources.csv import Csv
from benchmark.data.sources.movielens_100k import MovieLens100K
from benchmark.data.sources.recbole_atomic import RecBoleAtomic

Source = Annotated[
    MovieLens100K  #
    | Csv
    | RecBoleAtomic,
    Field(discriminator="source"),
]

__all__ = ["Csv", "MovieLens100K", "RecBoleAtomic", "Source"]
