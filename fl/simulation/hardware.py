"""The hardware that a process runs on."""

import os
import platform
import re
from pathlib import Path


def cores() -> int:
    """How many cores this process may use.

    Containers and job schedulers may grant fewer than the machine has.
    """
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def describe(devices: list) -> str:
    """Name JAX devices, all of one kind, as in "NVIDIA H100" or "AMD EPYC (2 cores)"."""
    if devices[0].platform != "cpu":
        count = f"{len(devices)} x " if len(devices) > 1 else ""
        return count + devices[0].device_kind
    return f"{_processor()} ({cores()} core{'s' if cores() != 1 else ''})"


def _processor():
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(errors="replace") if cpuinfo.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()
