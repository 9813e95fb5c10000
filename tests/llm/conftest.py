"""For all tests of the language models: float32, so that what they compare does not hang on the processor."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from benchmark.llm import precision


@pytest.fixture(scope="package", autouse=True)
def _float32() -> Iterator[None]:
    """Let ``dtype: auto`` mean float32: a processor with fast bfloat16 would choose it, and no equality would hold."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "fastest_dtype", lambda device, width: torch.float32)
        yield
