"""The pair of processes in which all models of a session train together."""

from tests.contract import two_processes

__all__ = ["two_processes"]
