"""TextEmbedding: the contract."""

from baselines.text_embedding import TextEmbedding
from tests.contract import RecommenderContract


class TestTextEmbedding(RecommenderContract):
    model = TextEmbedding
    floor = 0.75
