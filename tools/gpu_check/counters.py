"""Phase `ncu`: what the GPU's own counters say of every kernel of a Stable Diffusion 1.x step, where NVIDIA's Nsight Compute is there to read them.

A start of `ldm` launches every kernel of a step once; ncu runs each again and again until all counters were read, with clocks that it holds low, so
its times are no times of a step: what counts here are shares and bytes.
"""

import csv
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

MODEL = "synthetic:sd1"
# Sections say what a pipe is called on an architecture; the others are called the same everywhere.
SECTIONS = ["ComputeWorkloadAnalysis", "SpeedOfLight"]
TIME, GRID, NAME = "gpu__time_duration.sum", "Grid Size", "Kernel Name"
DRAM = ["dram__bytes_read.sum", "dram__bytes_write.sum"]
CACHE, HITS = "lts__throughput.avg.pct_of_peak_sustained_elapsed", "lts__t_sector_hit_rate.pct"
TENSOR = ("sm__pipe_tensor", "sm__inst_executed_pipe_tensor")

# What ncu would answer of two launches, made up, so that a dry run reads something.
SAMPLE = f"""==PROF== Connected to process 1
"ID","{NAME}","{GRID}","sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active","{TIME}","{DRAM[0]}","{DRAM[1]}","{CACHE}","{HITS}"
"","","","%","nsecond","byte","byte","%","%"
"0","linear_f16_128x160","(128, 1, 1)","71.5","11,000","6000000","500000","40","62.5"
"1","linear_f16_128x160","(128, 1, 1)","69.5","9000","5000000","500000","42","60.5"
"2","layer_norm_f16","(64, 1, 1)","n/a","2000","1000","1000","20","95"
"""


def find() -> str | None:
    """The program, on the path or where the toolkit has it."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = [Path(home) / "bin" / "ncu" for home in homes if home]
    return shutil.which("ncu") or next((str(place) for place in places if place.is_file()), None)


def run(binaries: Path, device: str, out: Path, deadline: float, brief: bool) -> dict:
    """A row for each kernel and grid, the longest first."""
    start = [str(binaries / "ldm"), "bench", "--startup", "--json", "--what", "step", "--device", device, *([] if brief else ["-m", MODEL])]
    ncu = find()
    try:
        if brief:
            # That the command is one; there are no counters to read.
            json.loads(subprocess.run(start, capture_output=True, text=True, check=True, timeout=deadline - time.monotonic()).stdout)
            return {"rows": rows(SAMPLE), "note": "made up: a dry run reads no counters", "passed": True}
        if ncu is None:
            print("  there is no ncu here", flush=True)
            return {"rows": [], "note": "left out: there is no `ncu` on the path, in CUDA_HOME or in /usr/local/cuda", "passed": True}
        command = [ncu, "--csv", "--page", "raw", "--print-units", "base", "--metrics", ",".join([TIME, *DRAM, CACHE, HITS])]
        command += [word for section in SECTIONS for word in ("--section", section)]
        done = subprocess.run(command + start, capture_output=True, text=True, timeout=deadline - time.monotonic())
    except (subprocess.SubprocessError, OSError, ValueError) as problem:
        return {"problem": str(problem), "passed": False}
    (out / "ncu.csv").write_text(done.stdout)
    found = rows(done.stdout)
    if done.returncode or not found:
        # Many machines let only their administrator read counters.
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("==ERROR==")] or ["it said nothing of any kernel"]
        return {"problem": f"ncu ended with {done.returncode}: {said[0]}", "passed": False}
    for row in found[:20]:
        print(line(row), flush=True)
    return {"rows": found, "passed": True}


def number(text: str | None) -> float | None:
    try:
        return float((text or "").replace(",", ""))
    except ValueError:
        return None


def rows(answer: str) -> list[dict]:
    """Launches of one kernel and grid together: their count, shares weighed by time, bytes of one launch."""
    table = list(csv.reader(line for line in answer.splitlines() if line.startswith('"')))
    launches = [dict(zip(table[0], values)) for values in table[2:]] if table else []
    groups = {}
    for launch in launches:
        groups.setdefault((launch[NAME], launch[GRID]), []).append(launch)
    found = []
    for (name, grid), members in groups.items():
        times = [number(launch[TIME]) or 0.0 for launch in members]
        tensor = [column for column in members[0] if column.startswith(TENSOR) and "pct" in column]

        def mean(columns):
            values = [max((number(launch.get(column)) or 0.0 for column in columns), default=0.0) for launch in members]
            return sum(value * took for value, took in zip(values, times)) / (sum(times) or 1.0)

        bytes_of = [sum(number(launch.get(column)) or 0.0 for column in DRAM) for launch in members]
        found.append({"kernel": name, "grid": grid, "launches": len(members), "seconds": sum(times) * 1e-9, "tensor_percent": mean(tensor),
                      "dram_bytes": sum(bytes_of) / len(members), "cache_percent": mean([CACHE]), "cache_hit_percent": mean([HITS])})
    return sorted(found, key=lambda row: -row["seconds"])


def line(row: dict) -> str:
    return (f"  {row['launches']:>3} x {row['seconds'] / row['launches'] * 1e6:>8.1f} us  tensor pipe {row['tensor_percent']:>5.1f} %  "
            f"{row['dram_bytes'] / 1e6:>8.2f} MB  L2 {row['cache_percent']:>5.1f} %, {row['cache_hit_percent']:>5.1f} % hits  {row['kernel']} {row['grid']}")
