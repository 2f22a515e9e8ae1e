"""What the compiler made of the kernels, per kernel and architecture, without a GPU; and that it is what was meant.

    tools/install-nvcc
    python3 tools/kernel_report.py             # the table; fails where it differs from tools/kernel_report.txt
    python3 tools/kernel_report.py --write     # writes that file, for a change to the kernels to be reviewed with

Reads the machine code and ptxas's report that the build keeps (it runs `cargo build --release --lib` to find them) and fails on
  - registers spilled, or memory of a thread's own in use: an array that was indexed with something not known to the compiler,
  - advice of ptxas (C75xx, "serialized"), which it prints as mere information,
  - fewer blocks on a multiprocessor than an entry declares,
  - a main loop without the instructions that its kernel stands for (MAIN_LOOPS), or tensor cores where none are declared,
  - copies to shared memory of less than 16 bytes in a main loop that is not declared to have them.

Columns: threads per block; registers of a thread; bytes of shared memory in fixed arrays, and asked for by launches (the most in tests/data/choices,
Stable Diffusion 1.5 at 512x512; `-` if none is there); blocks that fit on a multiprocessor with all of these; instructions of the main loop, and among them tensor core
products, matrix loads, asynchronous copies, barriers, and accesses to global memory of less than 16 bytes. Figures that differ between
architectures are listed as 80/86/89/90.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).with_suffix(".txt")
CHOICES = ROOT / "tests" / "data" / "choices"

# Per multiprocessor: threads, blocks, bytes of shared memory (CUDA C++ programming guide, "Technical specifications per compute capability").
LIMITS = {"sm_80": (2048, 32, 164 << 10), "sm_86": (1536, 16, 100 << 10), "sm_89": (1536, 24, 100 << 10), "sm_90": (2048, 32, 228 << 10)}
LIMITS["sm_90a"] = LIMITS["sm_90"]
# Registers of a multiprocessor; they are given to warps by the 256, and every block takes 1 KiB of shared memory for itself.
REGISTERS, REGISTER_UNIT, SHARED_OF_BLOCK = 65536, 256, 1024

# What the main loop of an entry must hold, by its name. Loops of kernels that are not listed have no tensor core instructions.
TENSOR = "HMMA.16816.F32"
MAIN_LOOPS = [
    (r"(linear|conv2d)_f16_.*", {TENSOR, "LDSM.16.M88.4", "LDGSTS.E.BYPASS.128"}),
    (r"(linear|conv2d)_any_f16_.*", {TENSOR, "LDSM.16.M88.4"}),
    (r"probe_multiply_f16", {TENSOR}),
    (r"attention_scores_f16", {TENSOR, "LDSM.16.M88.4", "LDGSTS.E.BYPASS.128"}),
    (r"attention_(f16_.*|mix_f16)", {TENSOR, "LDSM.16.M88.4", "LDSM.16.MT88.4", "LDGSTS.E.BYPASS.128"}),
]

INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][A-Z0-9_.a-z]*)([^;]*);")
NARROW = re.compile(r"(LDG|STG|LDGSTS)\.(?!.*128)")


def tensor_instructions(operations):
    return sum(operation.startswith("HMMA") for operation in operations)


class Kernel:
    """One entry on one architecture."""

    def __init__(self, entry, architecture):
        self.entry, self.architecture = entry, architecture
        self.registers = self.shared = self.stack = self.spilled = 0
        self.instructions = []  # (address, operation, operands)

    def main_loop(self):
        """The operations of the innermost loop around tensor core instructions, the one with the most of them; of the longest innermost loop
        where there are none; of the whole kernel where there is no loop."""
        loops = []
        for address, operation, operands in self.instructions:
            target = re.search(r"0x([0-9a-f]+)", operands) if operation.startswith("BRA") else None
            # A branch to itself only fills up the code's last line.
            if target and int(target[1], 16) < address:
                start = int(target[1], 16)
                loops.append((start, address, [op for at, op, _ in self.instructions if start <= at <= address]))
        loops = [loop for loop in loops if tensor_instructions(loop[2])] or loops
        inner = [a[2] for a in loops if not any(b[:2] != a[:2] and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
        whole = [operation for _, operation, _ in self.instructions]
        return max(inner or [whole], key=lambda body: (tensor_instructions(body), len(body)))

    def blocks(self, threads, dynamic=0):
        """How many blocks fit on a multiprocessor, each with so many bytes of dynamic shared memory."""
        most_threads, most_blocks, shared = LIMITS[self.architecture]
        per_warp = -(-self.registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
        # Four schedulers share the registers evenly.
        warps = REGISTERS // per_warp // 4 * 4
        return min(most_blocks, most_threads // threads, warps // (threads // 32), shared // (self.shared + dynamic + SHARED_OF_BLOCK))


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


def tool(name):
    """A program of the CUDA toolkit, where the build looks for nvcc."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    places = [Path(os.environ["NVCC"]).parent] if os.environ.get("NVCC") else []
    places += [Path(home) / "bin" for home in homes if home]
    found = next((place / name for place in places if (place / name).is_file()), None) or shutil.which(name) or ROOT / ".cuda" / "bin" / name
    if not Path(found).is_file():
        sys.exit(f"kernel_report: there is no {name}; run tools/install-nvcc")
    return found


def read_table(folder):
    """Entry -> (threads, blocks declared), in the order of the sources; without primitives.cu, whose entries are one instruction each."""
    rows = re.findall(r'Entry \{ name: "(\w+)", file: "(?!primitives)[^"]*", threads: (\d+), blocks_per_multiprocessor: (\d+)', (folder / "kernels.rs").read_text())
    return {name: (int(threads), int(blocks)) for name, threads, blocks in rows}


def read_choices():
    """Entry -> the most bytes of dynamic shared memory that a launch asks for."""
    most = {}
    for path in CHOICES.glob("*.txt"):
        for entry, shared in re.findall(r": (\w+) grid \w+(?: shared (\d+))?", path.read_text()):
            most[entry] = max(most.get(entry, 0), int(shared or 0))
    return most


def read_log(path, kernels, problems):
    """Registers, memory and spills, as ptxas reports them."""
    kernel = None
    for line in path.read_text().splitlines():
        if found := re.search(r"Compiling entry function '(\w+)' for '(sm_\d+a?)'", line):
            kernel = kernels.setdefault((found[1], found[2]), Kernel(found[1], found[2]))
        elif found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            kernel.stack, kernel.spilled = int(found[1]), int(found[2]) + int(found[3])
        elif found := re.search(r"Used (\d+) registers", line):
            kernel.registers = int(found[1])
            shared = re.search(r"(\d+) bytes smem", line)
            kernel.shared = int(shared[1]) if shared else 0
        elif re.search(r"\(C75\d\d\)|serialized|warning|ignored", line):
            problems.append(f"{path.stem}.cu: {line.strip()}")


def read_code(path, kernels):
    """The machine code of every kernel of a fatbin."""
    answer = subprocess.run([tool("cuobjdump"), "-sass", path], stdout=subprocess.PIPE, text=True, check=True)
    architecture = kernel = None
    for line in answer.stdout.splitlines():
        if found := INSTRUCTION.match(line):
            kernel.instructions.append((int(found[1], 16), found[2], found[3]))
        elif found := re.search(r"code for (sm_\d+a?)", line):
            architecture = found[1]
        elif found := re.search(r"Function : (\w+)", line):
            kernel = kernels[found[1], architecture]


def check(kernel, declared, loop):
    """What is wrong with a kernel, in sentences."""
    threads, blocks = declared
    used = Counter(operation.split(".")[0] for _, operation, _ in kernel.instructions)
    local = used["LDL"] + used["STL"]
    if kernel.spilled:
        yield f"spills {kernel.spilled} bytes of registers"
    if kernel.stack or local:
        yield f"keeps {kernel.stack} bytes in memory of each thread's own ({local} accesses)"
    if kernel.blocks(threads) < blocks:
        yield f"declares {blocks} blocks of {threads} threads on a multiprocessor, but {kernel.blocks(threads)} fit"
    wanted = next((wanted for pattern, wanted in MAIN_LOOPS if re.fullmatch(pattern, kernel.entry)), set())
    for operation in sorted(wanted):
        if not any(found.startswith(operation) for found in loop):
            yield f"has no {operation} in its main loop"
    tensor = {operation for _, operation, _ in kernel.instructions if operation.startswith("HMMA")}
    for operation in sorted(tensor - {TENSOR} if wanted else tensor):
        yield f"uses {operation}, which is not declared for it"
    copies = {operation for operation in loop if operation.startswith("LDGSTS") and "128" not in operation}
    if any(operation.startswith("LDGSTS") for operation in wanted) and copies:
        yield f"copies less than 16 bytes at a time in its main loop ({', '.join(sorted(copies))})"


def row(entry, threads, dynamic, kernels, loops):
    """A line of the table."""
    counts = [Counter(operation.split(".")[0] for operation in loop) for loop in loops]
    figures = [
        [kernel.registers for kernel in kernels],
        [kernel.shared for kernel in kernels],
        ["-" if dynamic is None else dynamic],
        [kernel.blocks(threads, dynamic or 0) for kernel in kernels],
        [len(loop) for loop in loops],
        *([count[operation] for count in counts] for operation in ("HMMA", "LDSM", "LDGSTS", "BAR")),
        [sum(bool(NARROW.match(operation)) for operation in loop) for loop in loops],
    ]
    # One figure, or one per architecture.
    return [entry, str(threads), *("/".join(map(str, figure if len(set(figure)) > 1 else figure[:1])) for figure in figures)]


def table(rows):
    """Rows as aligned text."""
    head = ["kernel", "threads", "registers", "fixed", "asked", "blocks/SM", "loop", "HMMA", "LDSM", "LDGSTS", "BAR", "narrow"]
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
    kernels, problems = {}, []
    for fatbin in fatbins:
        read_log(fatbin.with_suffix(".log"), kernels, problems)
        read_code(fatbin, kernels)
    rows = []
    for entry, (threads, blocks) in declared.items():
        # Files for Hopper GPUs alone are compiled for nothing else.
        compiled = [kernels[entry, name] for name in LIMITS if name.endswith("a") == entry.endswith("_sm90")]
        loops = [kernel.main_loop() for kernel in compiled]
        rows.append(row(entry, threads, dynamic.get(entry), compiled, loops))
        found = {}
        for kernel, loop in zip(compiled, loops):
            for problem in check(kernel, (threads, blocks), loop):
                found.setdefault(problem, []).append(kernel.architecture)
        problems += [f"{entry} {problem} ({', '.join(where)})" for problem, where in found.items()]
    text = table(rows)
    print(text, end="")
    if problems:
        sys.exit("\n".join(["kernel_report:", *problems]))
    if write:
        GOLDEN.write_text(text)
    elif not GOLDEN.is_file() or GOLDEN.read_text() != text:
        sys.exit(f"kernel_report: this is not what {GOLDEN.relative_to(ROOT)} says; if it is meant, run with --write and commit the file")


if __name__ == "__main__":
    main()
