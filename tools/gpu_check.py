"""Checks and times the CUDA engine on a machine with a GPU, nvcc and PyTorch, and no need of Rust.

    python tools/gpu_check.py collect gpu_check_bin                 # where there is Rust: builds, and gathers the binaries in a folder
    python3 tools/gpu_check.py run --phase all --out FOLDER         # where there is a GPU; gpu_check_bin, or its .tar.gz, lies in the checkout
    python3 tools/gpu_check.py run --phase networks --batches 8 --out FOLDER
    python tools/gpu_check.py run --dry-run --out FOLDER            # anywhere: every step on the emulator, at tiny sizes

Phases, each ended before `--minutes` (9) are over:

    correct     primitives bit for bit as emulated, every operation against its definition, parity dumps, pictures again and in a batch,
                compute-sanitizer; on a Hopper GPU with all kernels, and with those that every GPU runs
    kernels     every distinct operation of Stable Diffusion 1.x at 512 x 512 (UNet with 2 samples, decoder) beside cuBLAS, cuDNN, PyTorch's
                attentions, Triton and copies of as many bytes; each with its operands where a network has them, in the L2 cache or not, and with
                the cache flushed; with `--batches 8` the 20 of the UNet that take longest with 16 samples
    bench       `ldm tune`, then `ldm bench` without the table, with it, and on a Hopper GPU by the kernels that every GPU runs, against the
                device's measured ceilings; a trace of a step; memory and launches, as `ldm plan` says and as they are
    ncu         what the GPU's counters say of every kernel of a step (tensor pipe, bytes of memory, L2), where there is Nsight Compute
    networks    UNet calls, steps with guidance, decode, text and whole images beside PyTorch eager (of one call as a CUDA graph, and channels
                before pixels, too) and torch.compile (and with attention's products joined and the best of its kernels), of one folder of weights

A phase prints its rows as they come and one page of tables last, which is also written to FOLDER as DATE-DEVICE.md, with all numbers in
DATE-DEVICE.json; later phases of the same commit are added to both. What is to be kept belongs in benches/results.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).resolve().parent / "gpu_check"))

import bench  # noqa: E402
import correct  # noqa: E402
import counters  # noqa: E402
import kernels  # noqa: E402
import machine  # noqa: E402
import networks  # noqa: E402
import report  # noqa: E402
from sides import Failed  # noqa: E402

BINARIES = {"ldm": "ldm", "turns": "turns", "ops": "ops", "primitives": "primitives"}


def collect(folder: Path) -> None:
    """Builds the binaries and copies them, without symbols, with the commit that they are of."""
    command = ["cargo", "build", "--release", "--locked", "--bin", "ldm", "--bench", "turns", "--test", "ops", "--test", "primitives",
               "--message-format", "json-render-diagnostics"]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if built.returncode:
        sys.exit("the build failed")
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for message in map(json.loads, built.stdout.splitlines()):
        target = message.get("target", {}).get("name")
        if message.get("executable") and target in BINARIES:
            found[target] = Path(message["executable"])
    for target, executable in found.items():
        shutil.copy2(executable, folder / BINARIES[target])
        if shutil.which("strip"):
            subprocess.run(["strip", folder / BINARIES[target]], check=True)
    missing = set(BINARIES) - set(found)
    if missing:
        sys.exit(f"cargo built no {', '.join(sorted(missing))}")
    (folder / "COMMIT").write_text(machine.commit(ROOT) + "\n")
    archive = Path(shutil.make_archive(str(folder), "gztar", folder))
    print(f"{folder}, and as one file {archive} ({archive.stat().st_size / 2**20:.1f} MiB): commit {machine.commit(folder)}")


def run_phase(phase: str, a: argparse.Namespace, device: str, sampler, deadline: float) -> dict:
    if phase == "correct":
        return correct.run(a.binaries, device, a.out, deadline, a.dry_run)
    if phase == "bench":
        return bench.run(a.binaries, device, a.out, deadline, sampler, a.dry_run)
    if phase == "ncu":
        return counters.run(a.binaries, device, a.out, deadline, a.dry_run)
    if phase == "kernels":
        return kernels.run(a.binaries, device, a.out, deadline, sampler, a.dry_run, a.batches)
    return networks.run(a.binaries, device, a.out, a.cache, deadline, sampler, a.dry_run, a.batches, a.compile)


def run(a: argparse.Namespace) -> int:
    a.out.mkdir(parents=True, exist_ok=True)
    archive = a.binaries.with_name(a.binaries.name + ".tar.gz")
    if not a.binaries.exists() and archive.exists():
        shutil.unpack_archive(archive, a.binaries, filter="data")
    missing = [name for name in BINARIES.values() if not (a.binaries / name).exists()]
    if missing:
        sys.exit(f"{a.binaries} lacks {', '.join(missing)}: `gpu_check.py collect {a.binaries}` makes them where there is Rust")
    head = machine.describe(a.binaries)
    device = "emulator" if a.dry_run else "cuda"
    if a.dry_run:
        head["device"] = {"name": "dry run"}
    print(json.dumps(head), flush=True)
    results, failed = None, False
    for phase in ["correct", "kernels", "bench", "ncu", "networks"] if a.phase == "all" else [a.phase]:
        print(f"{phase}:", flush=True)
        with machine.Sampler() as sampler:
            begin = time.monotonic()
            try:
                found = run_phase(phase, a, device, sampler, begin + 60 * a.minutes)
            except (Failed, subprocess.TimeoutExpired, OSError) as problem:
                found = {"problem": str(problem), "passed": False}
            found |= {"taken_seconds": time.monotonic() - begin, "clocks": sampler.during(begin)}
        batches = "" if phase not in ("kernels", "networks") else " batch " + " ".join(map(str, a.batches))
        results = report.save(a.out, head, phase + batches, found)
        failed |= not found["passed"]
    print("\n" + report.page(results))
    return int(failed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    gather = commands.add_parser("collect", help="build the binaries and gather them")
    gather.add_argument("folder", type=Path)
    check = commands.add_parser("run", help="check and time")
    check.add_argument("--phase", choices=["correct", "kernels", "bench", "ncu", "networks", "all"], default="all")
    check.add_argument("--out", type=Path, required=True, help="where results and logs go")
    check.add_argument("--binaries", type=Path, default=ROOT / "gpu_check_bin", help="what `collect` gathered")
    check.add_argument("--cache", type=Path, default=Path("/tmp/ldm-gpu-check"), help="the model's folder and what torch.compile keeps")
    check.add_argument("--minutes", type=float, default=9, help="the most that a phase takes")
    check.add_argument("--batches", type=int, nargs="+", default=[1], help="images at once in the phases kernels and networks; 1 adds decode and whole images")
    check.add_argument("--compile", default="max-autotune", metavar="MODE", help="torch.compile's mode, or none")
    check.add_argument("--dry-run", action="store_true", help="try every step on the emulator, at tiny sizes")
    arguments = parser.parse_args()
    if arguments.command == "collect":
        return collect(arguments.folder) or 0
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
