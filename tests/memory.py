"""How much memory a process took."""

from pathlib import Path


def peak_mib() -> float:
    """Largest resident memory of this process; `ru_maxrss` would begin with that of the process before it."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1024
