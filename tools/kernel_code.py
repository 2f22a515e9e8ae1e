"""What nvcc and ptxas made of the kernels, read from a build's files: the machine code of every entry, its registers and its loops."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Per multiprocessor: threads, blocks, bytes of shared memory (CUDA C++ programming guide, "Technical specifications per compute capability").
LIMITS = {"sm_80": (2048, 32, 164 << 10), "sm_86": (1536, 16, 100 << 10), "sm_89": (1536, 24, 100 << 10), "sm_90": (2048, 32, 228 << 10)}
LIMITS["sm_90a"] = LIMITS["sm_90"]
# Registers of a multiprocessor; they are given to warps by the 256, and every block takes 1 KiB of shared memory for itself.
REGISTERS, REGISTER_UNIT, SHARED_OF_BLOCK = 65536, 256, 1024

INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+ )?\s*([A-Z][A-Z0-9_.a-z]*)([^;]*);")


def is_for_hopper(entry):
    """Whether an entry is of a file that is compiled for sm_90a and nothing else."""
    return entry.endswith("_sm90")


def architectures(entry):
    """What an entry is compiled for."""
    return [name for name in LIMITS if name.endswith("a") == is_for_hopper(entry)]


def is_tensor(operation):
    """Whether an instruction is the tensor cores' work."""
    return operation.startswith(("HMMA", "HGMMA"))


class Kernel:
    """One entry on one architecture."""

    def __init__(self, entry, architecture):
        self.entry, self.architecture = entry, architecture
        self.registers = self.shared = self.stack = self.spilled = 0
        self.instructions = []  # (address, operation, operands, whether it is guarded)

    def operations(self):
        return [operation for _, operation, _, _ in self.instructions]

    def before(self, first):
        """The operations that some path from the start comes to without having come to `first`."""
        places = {address: place for place, (address, *_) in enumerate(self.instructions)}
        seen, waiting = set(), [0]
        while waiting:
            place = waiting.pop()
            if place in seen or place >= len(self.instructions):
                continue
            _, operation, operands, guarded = self.instructions[place]
            if operation.startswith(first):
                continue
            seen.add(place)
            target = re.search(r"0x([0-9a-f]+)", operands) if operation.startswith("BRA") else None
            if target:
                waiting.append(places[int(target[1], 16)])
            # A branch may be guarded by its operand.
            if guarded or re.search(r"\bU?P\d", operands) or not operation.startswith(("BRA", "EXIT", "RET")):
                waiting.append(place + 1)
        return [self.instructions[place][1] for place in seen]

    def loops(self):
        """Where loops start and end. A wait for a barrier that is retried stands behind the code, and jumps back into it when it is over: that
        is no loop."""
        found, waited = [], False
        for address, operation, operands, guarded in self.instructions:
            target = re.search(r"0x([0-9a-f]+)", operands) if operation.startswith("BRA") else None
            # A branch to itself only fills up the code's last line.
            back = target and int(target[1], 16) < address
            if back and not (waited and not guarded):
                found.append((int(target[1], 16), address))
            waited = back and guarded
        return found

    def body(self, loop):
        """The instructions of a loop: operation and operands."""
        return [(operation, operands) for at, operation, operands, _ in self.instructions if loop[0] <= at <= loop[1]]

    def main_loop(self):
        """The instructions of the innermost loop around tensor core instructions, the one with the most of them; of the longest innermost loop
        where there are none; of the whole kernel where there is no such loop."""
        tensor = lambda body: sum(is_tensor(operation) for operation, _ in body)
        whole = [(operation, operands) for _, operation, operands, _ in self.instructions]
        loops = self.loops()
        if tensor(whole):
            loops = [loop for loop in loops if tensor(self.body(loop))]
        inner = [self.body(a) for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
        return max(inner or [whole], key=lambda body: (tensor(body), len(body)))

    def copy_loops(self):
        """The innermost loops around tensor copies."""
        copies = lambda loop: any(operation.startswith("UTMALDG") for operation, _ in self.body(loop))
        loops = [loop for loop in self.loops() if copies(loop)]
        return [self.body(a) for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]

    def blocks(self, threads, dynamic=0):
        """How many blocks fit on a multiprocessor, each with so many bytes of dynamic shared memory."""
        most_threads, most_blocks, shared = LIMITS[self.architecture]
        per_warp = -(-self.registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
        # Four schedulers share the registers evenly.
        warps = REGISTERS // per_warp // 4 * 4
        return min(most_blocks, most_threads // threads, warps // (threads // 32), shared // (self.shared + dynamic + SHARED_OF_BLOCK))


def tool(name):
    """A program of the CUDA toolkit, where the build looks for nvcc."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    places = [Path(os.environ["NVCC"]).parent] if os.environ.get("NVCC") else []
    places += [Path(home) / "bin" for home in homes if home]
    found = next((place / name for place in places if (place / name).is_file()), None) or shutil.which(name) or ROOT / ".cuda" / "bin" / name
    if not Path(found).is_file():
        sys.exit(f"kernel_report: there is no {name}; run tools/install-nvcc")
    return found


def read_log(path, kernels, problems):
    """Registers, memory and spills, as ptxas reports them, and what it advises against."""
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


def parts(path):
    """What a fatbin holds, in bytes: machine code by architecture, and PTX."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("-xelf", "-xptx"):
            subprocess.run([Path(tool("cuobjdump")).resolve(), kind, "all", path], cwd=folder, stdout=subprocess.DEVNULL, check=False)
        named = [(re.search(r"\.(sm_\d+a?)\.(cubin|ptx)$", file.name), file.stat().st_size) for file in Path(folder).iterdir()]
    return {found[1] if found[2] == "cubin" else f"{found[1]} PTX": size for found, size in named if found}


def read_code(path, kernels):
    """The machine code of every kernel of a fatbin."""
    answer = subprocess.run([tool("cuobjdump"), "-sass", path], stdout=subprocess.PIPE, text=True, check=True)
    architecture = kernel = None
    for line in answer.stdout.splitlines():
        if found := INSTRUCTION.match(line):
            kernel.instructions.append((int(found[1], 16), found[3], found[4], bool(found[2])))
        elif found := re.search(r"code for (sm_\d+a?)", line):
            architecture = found[1]
        elif found := re.search(r"Function : (\w+)", line):
            kernel = kernels[found[1], architecture]
