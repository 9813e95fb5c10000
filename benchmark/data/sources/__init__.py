"""Every data set that an experiment may name; a new one is a new file here and one more line in ``Source``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from benchmark.data.sources.amazon_reviews import AmazonReviews
from benchmark.data.sources.book_crossing import BookCrossing
from benchmark.data.sources.collm import CoLLM
from benchmark.data.sources.csv import Csv
from benchmark.data.sources.goodbooks_10k import Goodbooks10K
from benchmark.data.sources.joined import Joined
from benchmark.data.sources.llara_lastfm import LLaRALastFM
from benchmark.data.sources.mind import Mind
from benchmark.data.sources.movielens import MovieLens
from benchmark.data.sources.movielens_100k import MovieLens100K
from benchmark.data.sources.recbole_atomic import RecBoleAtomic
from benchmark.data.sources.steam_200k import Steam200K
from benchmark.data.sources.tallrec_movie import TALLRecMovie
from benchmark.data.sources.yelp import Yelp

Source = Annotated[
    MovieLens100K  #
    | Csv
    | RecBoleAtomic
    | MovieLens
    | AmazonReviews
    | BookCrossing
    | Steam200K
    | Goodbooks10K
    | Mind
    | Yelp
    | CoLLM
    | TALLRecMovie
    | LLaRALastFM
    | Joined,
    Field(discriminator="source"),
]

__all__ = [
    "AmazonReviews",
    "BookCrossing",
    "CoLLM",
    "Csv",
    "Goodbooks10K",
    "Joined",
    "LLaRALastFM",
    "Mind",
    "MovieLens",
    "MovieLens100K",
    "RecBoleAtomic",
    "Source",
    "Steam200K",
    "TALLRecMovie",
    "Yelp",
]
