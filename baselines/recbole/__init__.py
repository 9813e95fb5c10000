"""RecBole 1.2.1's models as recommenders of the level field: ``class: baselines.recbole.RecBole``."""

from baselines.recbole.adapter import RecBole

__all__ = ["RecBole"]
