"""A server of its own for each test, and the real small language model where it is shared."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.enrichment.server import Server


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small products lose by more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    running = Server()
    yield running
    running.stop()


@pytest.fixture
def stories() -> str:
    folder = Path(os.environ.get("LEVELFIELD_SHARED", "")) / "models" / "stories260K"
    if not os.environ.get("LEVELFIELD_SHARED") or not folder.is_dir():
        pytest.skip("needs LEVELFIELD_SHARED with models/stories260K")
    return "${LEVELFIELD_SHARED}/models/stories260K"
