"""What the compiler made of the kernels, per kernel and architecture, without a GPU; and that it is what was meant.

    tools/install-nvcc
    python3 tools/kernel_report.py             # the tables; fails where they differ from tools/kernel_report.txt and kernel_roofline.txt
    python3 tools/kernel_report.py --write     # writes these files, for a change to the kernels to be reviewed with

Reads the machine code and ptxas's report that the build keeps (it runs `cargo build --release --lib` to find them) and fails on
  - registers spilled, or memory of a thread's own in use: an array that was indexed with something not known to the compiler,
  - advice of ptxas (C75xx, "serialized"), which it prints as mere information,
  - fewer blocks on a multiprocessor than an entry declares,
  - a file without code for an architecture that it should have code for, or without PTX,
  - tiles that take each other's place and do not round alike,
  - what else kernel_checks.py declares of an entry and its machine code does not hold,
  - a main loop in which another unit works longer than the tensor cores, by more than kernel_roofline.py declares.

Columns: threads per block; registers of a thread; bytes of shared memory in fixed arrays, and asked for by launches (the most in tests/data/choices,
`-` if none is there); blocks that fit on a multiprocessor with all of these; instructions of the main loop, and among them tensor core products,
matrix loads, asynchronous copies, barriers, and accesses to global memory of less than 16 bytes; tensor copies of the whole kernel. Figures that
differ between architectures are listed as 80/86/89/90; entries that end in _sm90 are for sm_90a alone. Below: KiB of all that is embedded.
"""

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import kernel_roofline
from kernel_checks import check, check_families, check_file
from kernel_code import ROOT, architectures, is_tensor, parts, read_code, read_log

GOLDEN = Path(__file__).with_suffix(".txt")
ROOFLINE = GOLDEN.with_name("kernel_roofline.txt")
CHOICES = ROOT / "tests" / "data" / "choices"

NARROW = re.compile(r"(LDG|STG|LDGSTS)\.(?!.*128)")


def out_folder():
    """Where the build keeps what nvcc made."""
    command = ["cargo", "build", "--release", "--locked", "--lib", "--message-format=json"]
    answer = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if answer.returncode != 0:
        sys.exit("kernel_report: the build fails")
    for message in map(json.loads, answer.stdout.splitlines()):
        if message["reason"] == "build-script-executed" and "latent-diffusion" in message["package_id"]:
            return Path(message["out_dir"])
    sys.exit("kernel_report: cargo does not say where the build's files are")


def read_table(folder):
    """Entry -> (threads, blocks, cluster declared), in the order of the sources; without primitives.cu, whose entries are one instruction each."""
    entry = r'Entry \{ name: "(\w+)", file: "(?!primitives)[^"]*", threads: (\d+), blocks_per_multiprocessor: (\d+), cluster: (\d+)'
    rows = re.findall(entry, (folder / "kernels.rs").read_text())
    return {name: tuple(map(int, declared)) for name, *declared in rows}


def read_choices():
    """Entry -> the most bytes of dynamic shared memory that a launch asks for."""
    most = {}
    for path in CHOICES.glob("*.txt"):
        for entry, shared in re.findall(r": (\w+) grid \w+(?: shared (\d+))?", path.read_text()):
            most[entry] = max(most.get(entry, 0), int(shared or 0))
    return most


def row(entry, threads, dynamic, kernels, loops):
    """A line of the table."""
    loops = [[operation for operation, _ in loop] for loop in loops]
    counts = [Counter(operation.split(".")[0] for operation in loop) for loop in loops]
    figures = [
        [kernel.registers for kernel in kernels],
        [kernel.shared for kernel in kernels],
        ["-" if dynamic is None else dynamic],
        [kernel.blocks(threads, dynamic or 0) for kernel in kernels],
        [len(loop) for loop in loops],
        [sum(map(is_tensor, loop)) for loop in loops],
        *([count[operation] for count in counts] for operation in ("LDSM", "LDGSTS", "BAR")),
        [sum(bool(NARROW.match(operation)) for operation in loop) for loop in loops],
        [sum(operation.startswith("UTMALDG") for operation in kernel.operations()) for kernel in kernels],
    ]
    # One figure, or one per architecture.
    return [entry, str(threads), *("/".join(map(str, figure if len(set(figure)) > 1 else figure[:1])) for figure in figures)]


HEAD = ["kernel", "threads", "registers", "fixed", "asked", "blocks/SM", "loop", "MMA", "LDSM", "LDGSTS", "BAR", "narrow", "UTMALDG"]


def table(head, rows):
    """Rows as aligned text."""
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in [head, *rows]]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write tools/kernel_report.txt instead of comparing with it")
    write = parser.parse_args().write
    folder = out_folder()
    declared, dynamic = read_table(folder), read_choices()
    fatbins = sorted(folder.glob("*.fatbin"))
    if not fatbins:
        sys.exit("kernel_report: the build holds no CUDA kernels; run tools/install-nvcc first")
    kernels, problems, sizes = {}, [], Counter()
    for fatbin in fatbins:
        read_log(fatbin.with_suffix(".log"), kernels, problems)
        read_code(fatbin, kernels)
        held = parts(fatbin)
        sizes.update(held)
        problems += check_file(fatbin, held)
    rows, roofline = [], []
    for entry, (threads, blocks, cluster) in declared.items():
        compiled = [kernels[entry, architecture] for architecture in architectures(entry)]
        loops = [kernel.main_loop() for kernel in compiled]
        rows.append(row(entry, threads, dynamic.get(entry), compiled, loops))
        found = {}
        for kernel, loop in zip(compiled, loops):
            asked = dynamic.get(entry)
            wrong = [*check(kernel, (threads, blocks), loop, asked), *kernel_roofline.check(kernel, loop, cluster)]
            for problem in wrong:
                found.setdefault(problem, []).append(kernel.architecture)
        problems += [f"{entry} {problem} ({', '.join(where)})" for problem, where in found.items()]
        if any(map(kernel_roofline.declared, compiled)):
            roofline.append(kernel_roofline.row(entry, compiled, loops, cluster))
    problems += check_families(kernels)
    code = "".join(f"{name}: {bytes_of >> 10} KiB\n" for name, bytes_of in sorted(sizes.items()))
    texts = {
        GOLDEN: table(HEAD, rows) + "\n" + code,
        ROOFLINE: kernel_roofline.HEAD + table(["kernel", "sm_80, or sm_90a", "sm_86", "sm_89", "sm_90"], roofline),
    }
    print("\n".join(texts.values()), end="")
    if problems:
        sys.exit("\n".join(["kernel_report:", *problems]))
    for path, text in texts.items():
        if write:
            path.write_text(text)
        elif not path.is_file() or path.read_text() != text:
            sys.exit(f"kernel_report: this is not what {path.relative_to(ROOT)} says; if it is meant, run with --write and commit the file")


if __name__ == "__main__":
    main()
