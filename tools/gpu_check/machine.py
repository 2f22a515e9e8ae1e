"""What is measured on: the device, its driver, and its clocks and power while something runs."""

import os
import platform
import shutil
import statistics
import subprocess
import threading
import time
from datetime import datetime, timezone
from pathlib import Path

PERIOD_MS = 100
SAMPLED = {"clocks.sm": "sm_mhz", "clocks.mem": "memory_mhz", "power.draw": "watts", "temperature.gpu": "celsius", "memory.used": "used_mib"}


def answer(*command) -> str | None:
    """What a command prints, or None where it is missing or fails."""
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def nvidia_smi(query: str) -> list[str] | None:
    """The first GPU's answers, in the order asked for."""
    lines = answer("nvidia-smi", "-i", "0", f"--query-gpu={query}", "--format=csv,noheader,nounits")
    return lines and [word.strip() for word in lines.splitlines()[0].split(",")]


def tiers(device: str) -> dict[str, list[str]]:
    """Options of `ldm` for each set of kernels that the device can do with: a Hopper GPU also without those that only it runs. None is checked at
    the start, so that what is wrong is seen."""
    kernels = lambda name: ["--device", device, "--kernels", name]
    if device == "cuda":
        hopper = (nvidia_smi("compute_cap") or [""])[0] == "9.0"
        return {"all": kernels("all")} | ({"portable": kernels("portable")} if hopper else {})
    return {name: [*kernels(name), "--target", "H200"] for name in ("all", "portable")}


def commit(root: Path) -> str:
    """The commit that the binaries were collected from, or the working tree's."""
    written = root / "COMMIT"
    if written.exists():
        return written.read_text().strip()
    head = answer("git", "-C", root, "rev-parse", "--short=12", "HEAD")
    return head and head + ("+changes" if answer("git", "-C", root, "status", "--porcelain", "-uno") else "") or "unknown"


def describe(binaries: Path) -> dict:
    """The machine, for the head of a report."""
    import torch

    facts = nvidia_smi("name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.mem")
    found = dict(zip(["name", "driver", "memory_mib", "power_limit_w", "max_sm_mhz", "max_memory_mhz"], facts or []))
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {"compute_capability": f"{properties.major}.{properties.minor}", "multiprocessors": properties.multi_processor_count,
                  "l2_bytes": getattr(properties, "L2_cache_size", None)}
    nvcc = answer(shutil.which("nvcc") or "nvcc", "--version")
    return {
        "device": found or {"name": "no GPU"},
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "nvcc": nvcc and nvcc.splitlines()[-2],
        "host": f"{platform.machine()}, {os.cpu_count()} cores, kernel {platform.release()}",
        "commit": commit(binaries),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


class Sampler:
    """Reads clocks and power every 100 ms while the block runs."""

    def __init__(self):
        self.samples: list[tuple[float, dict]] = []
        self.child = None

    def __enter__(self):
        if shutil.which("nvidia-smi"):
            command = ["nvidia-smi", "-i", "0", f"--query-gpu={','.join(SAMPLED)}", "--format=csv,noheader,nounits", "-lms", str(PERIOD_MS)]
            self.child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            threading.Thread(target=self.read, daemon=True).start()
        return self

    def __exit__(self, *_):
        if self.child:
            self.child.terminate()
            self.child.wait()

    def read(self):
        for line in self.child.stdout:
            words = [word.strip() for word in line.split(",")]
            try:
                self.samples.append((time.monotonic(), dict(zip(SAMPLED.values(), map(float, words)))))
            except ValueError:
                continue  # "[N/A]" is what a card says that has no such sensor.

    def during(self, begin: float, end: float | None = None) -> dict:
        """Medians, the least and largest clock, and the most memory, between two times of `time.monotonic`."""
        end = time.monotonic() if end is None else end
        inside = [values for at, values in self.samples if begin <= at <= end]
        if not inside:
            return {}
        found = {name: statistics.median(values[name] for values in inside) for name in SAMPLED.values()}
        clocks = [values["sm_mhz"] for values in inside]
        most = max(values["used_mib"] for values in inside)
        return found | {"sm_mhz_min": min(clocks), "sm_mhz_max": max(clocks), "used_mib_max": most, "samples": len(inside)}
