"""TfIdf: the contract."""

from baselines.tfidf import TfIdf
from tests.contract import RecommenderContract


class TestTfIdf(RecommenderContract):
    model = TfIdf
    floor = 0.75
