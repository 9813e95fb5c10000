"""Precision: float32 or bfloat16, whichever is measured to be faster on the device at hand."""

from __future__ import annotations

import functools
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

DType = Literal["auto", "float32", "bfloat16"]


def autocast(choice: DType, device: torch.device | str, hidden_size: int) -> AbstractContextManager[Any]:
    """Return the context to compute in: bfloat16 autocast where it is asked for or measured to pay, else nothing."""
    low = chosen(choice, device, hidden_size) == torch.bfloat16
    return torch.autocast(torch.device(device).type, torch.bfloat16) if low else nullcontext()


def chosen(choice: DType, device: torch.device | str, hidden_size: int) -> torch.dtype:
    """Return what a model of this width computes in on a device."""
    low = choice == "bfloat16" or (choice == "auto" and fastest_dtype(str(device), hidden_size) == torch.bfloat16)
    return torch.bfloat16 if low else torch.float32


@functools.cache
def fastest_dtype(device: str, hidden_size: int) -> torch.dtype:
    """Return bfloat16 where its matrix product is clearly faster than float32's on this device, else float32.

    Measured once a process, on devices that compute with bfloat16 at all: a CPU without such instructions is up to
    sixty times slower with it, and must never take it because a busy machine disturbed the clock.
    """
    where = torch.device(device)
    if where.type == "cpu" and not _cpu_has_bfloat16():
        return torch.float32
    # some milliseconds for a CPU; an accelerator needs a bigger product to show its speed
    rows, width, columns = (
        (128, max(hidden_size, 256), 512) if where.type == "cpu" else (2048, hidden_size, hidden_size)
    )
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    try:
        with torch.inference_mode():
            products = {
                dtype: (
                    torch.ones(rows, width, device=where, dtype=dtype),
                    torch.ones(width, columns, device=where, dtype=dtype),
                )
                for dtype in best
            }
            # in turns, so that a busy moment strikes both; the first turn warms up
            for turn in range(8):
                for dtype, (left, right) in products.items():
                    start = time.perf_counter()
                    left @ right
                    if where.type != "cpu":
                        torch.accelerator.synchronize(where)
                    seconds = time.perf_counter() - start
                    if turn:
                        best[dtype] = min(best[dtype], seconds)
    except RuntimeError:  # the device does not know bfloat16
        return torch.float32
    return torch.bfloat16 if best[torch.bfloat16] < 0.7 * best[torch.float32] else torch.float32


def _cpu_has_bfloat16() -> bool:
    """Say whether the CPU has instructions for bfloat16 products (AMX, AVX-512, Arm)."""
    if hasattr(torch.cpu, "get_capabilities"):
        return any(value is True and name.endswith("bf16") for name, value in torch.cpu.get_capabilities().items())
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # older torch
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)
