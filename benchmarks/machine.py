"""What the figures depend on: the processor and the versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

PACKAGES = ("itograd", "jax", "jaxlib", "numpy", "torch", "torchsde", "diffrax")

# What the limit is built for, the first that a processor has: lanes.h in benchmarks/limit chooses likewise.
VECTORS = {"AVX-512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}, "AVX2": {"avx2", "fma"}}


def machine() -> dict[str, str | int]:
    """The processor by name and family, its vector instructions and the cores this process may use."""
    fields: dict[str, str] = {}
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().split("\n\n")[0].splitlines():
            key, _, value = line.partition(":")
            fields[key.strip()] = value.strip()
    name = fields.get("model name") or platform.processor() or platform.machine()
    family = f" (family {fields['cpu family']}, model {fields['model']})" if "cpu family" in fields else ""
    flags = set(fields.get("flags", "").split())
    vectors = next((title for title, needed in VECTORS.items() if needed <= flags), "unknown")
    return {"processor": name + family, "vectors": vectors, "cores": available_cores(), "system": platform.system()}


def available_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
