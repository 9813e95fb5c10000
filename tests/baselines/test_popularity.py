"""Popularity: the contract."""

from baselines.popularity import Popularity
from tests.contract import RecommenderContract


class TestPopularity(RecommenderContract):
    model = Popularity
    floor = 0.52
