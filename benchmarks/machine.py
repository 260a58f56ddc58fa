"""On what was measured: the machine and the versions. Nothing that tells whose machine it is."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
from threadpoolctl import threadpool_info

PACKAGES = (
    "cellserve-server",
    "cellserve-client",
    "grpcio",
    "protobuf",
    "numpy",
    "uvloop",
    "onnxruntime",
)


def describe_machine() -> dict[str, Any]:
    """The processor, its cores and memory, and the system."""
    frequency = psutil.cpu_freq()
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "mhz": None if frequency is None else round(frequency.current),
        "memory_gib": round(psutil.virtual_memory().total / (1 << 30), 1),
        "load_average": psutil.getloadavg(),
    }


def describe_versions() -> dict[str, str]:
    """Python, the packages that matter here, and the BLAS behind numpy."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    for library in threadpool_info():
        if library.get("user_api") == "blas":
            found["blas"] = f"{library['internal_api']} {library['version']} {library.get('architecture', '')}".strip()
    return found


def _processor() -> str:
    """Its name, where the system tells it."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
