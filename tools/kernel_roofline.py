"""How long the units of a multiprocessor work for one pass of a main loop, by its instructions: whether the tensor cores are the last to be done.

Clocks are of the multiprocessor, for a pass by a warp on each of its four schedulers. Units work beside each other, so a loop takes as long as the
slowest where enough warps are there; it then reaches 1 / ratio of the tensor cores' rate. Rates are of data sheets and of NVIDIA's tables of
throughput, the second-level cache's is that of src/cuda/cost.rs: nothing here was measured, and nothing of it says how long anything waits.
"""

import re
from collections import Counter

from kernel_code import is_for_hopper, is_tensor

HEAD = """Clocks of a multiprocessor for one pass of a main loop by four warps, by counts of instructions and rates of data sheets: nothing was
measured. For each architecture: what the tensor cores take, and which unit is the last to be done, in how much of that.

"""
UNITS = ["tensor", "issue", "shared", "cache", "exponential", "float", "integer"]

# Clocks in which a scheduler's tensor core makes one product of 16 x 8 x 16 with sums in f32, and in halves.
HMMA = {"sm_80": (8, 8), "sm_86": (32, 16), "sm_89": (32, 16), "sm_90": (6.1, 6.1)}
# Clocks of a scheduler for a warp's exponential, multiply-add in f32, and instruction on integers.
EXPONENTIAL, FLOAT, INTEGER = 8, {"sm_80": 2}, 2
# Bytes of a clock: of shared memory, and from the second-level cache to one multiprocessor.
SHARED, CACHE = 128, 40

FLOATS = {"FFMA", "FADD", "FMUL", "HADD2", "HFMA2"}
INTEGERS = {"IMAD", "IADD3", "VIADD", "LOP3", "SHF", "LEA", "SEL", "FSEL", "FMNMX", "IMNMX", "VIADDMNMX", "ISETP", "FSETP", "PRMT", "F2FP", "PLOP3"}

# The most that the slowest unit of a loop may take, of what its products take, on sm_80, on sm_86 and sm_89, and on sm_90. There the first column is
# for GPUs that such a loop is the best for; the last, for what their own kernels do not take: mma.sync never reaches all of their tensor cores.
# A tile of few rows or columns loads more for what it multiplies, by way of shared memory and from the cache: it is for products that are small.
BOUNDS = [
    (r"(linear|conv2d)_f16_128x1(60|28)", (1.0, 1.0, 1.06)),
    (r"(linear|conv2d)_f16_(128x64|64x160)", (1.22, 1.0, 1.60)),
    (r"(linear|conv2d)_f16_64x64", (1.70, 1.0, 2.22)),
    # All of one of these is the copy of a matrix of weights.
    (r"(linear|conv2d)_f16_16x64", (4.0, 1.0, 5.26)),
    # Sums in halves are chosen on consumer GPUs alone.
    (r"(linear|conv2d)_f16_\d+x\d+_half", (1.60, 1.0, 2.10)),
    # The sums of rows that are normalised are taken beside the products: float, and shared memory once more.
    (r"linear_norm_f16_128x1(60|28)", (1.0, 1.0, 1.19)),
    (r"linear_norm_f16_(128x64|64x160)", (1.43, 1.0, 1.87)),
    (r"linear_norm_f16_64x64", (1.84, 1.0, 2.42)),
    (r"linear_norm_f16_\d+x\d+_half", (1.81, 1.0, 2.37)),
    # Fragments of keys and values are loaded by each warp: shared memory; with 128 queries half as often, and small heads are bound by what is done
    # to a logit, whatever the head: integer (masks, comparisons) and issue.
    (r"attention_f16_(64|80|96|128|160)_\d+x\d+", (1.30, 1.0, 1.72)),
    (r"attention_f16_(40|48)_\d+x\d+", (1.49, 1.0, 1.99)),
    (r"attention_f16_32_\d+x\d+", (1.86, 1.0, 2.42)),
    (r"attention_f16_16_\d+x\d+", (3.50, 1.0, 4.52)),
]
# The same of Hopper GPUs' own kernels. What the copy engine writes to shared memory is counted with what products read there.
BOUNDS_90 = [
    (r"(linear|conv2d)_f16_256x\d+\w*_sm90", 1.12),
    (r"(linear|conv2d)_f16_128x\d+\w*_sm90", 1.25),
    (r"(linear|conv2d)_f16_64x160\w*_sm90", 1.44),
    (r"(linear|conv2d)_f16_64x80\w*_sm90", 2.08),
    # Each row is read once more, by the threads that add it up.
    (r"linear_norm_f16_256x\d+\w*_sm90", 1.38),
    (r"linear_norm_f16_128x\d+\w*_sm90", 1.52),
    (r"linear_norm_f16_64x160\w*_sm90", 1.62),
    (r"linear_norm_f16_64x80\w*_sm90", 2.24),
    # Small heads are bound by their logits' instructions, wide ones by keys and values from the cache, which a block of 64 queries has to itself.
    (r"attention_f16_40_\d+x128_sm90", 1.35),
    (r"attention_f16_64_\d+x128_sm90", 1.0),
    (r"attention_f16_80_128x128_sm90", 1.22),
    (r"attention_f16_80_64x128_sm90", 2.44),
    (r"attention_f16_160_64x128_sm90", 1.88),
    # All keys are one tile: the loop runs once, with everything around it.
    (r"attention_f16_(40|64|80|160)_\d+x80_sm90", 3.07),
]


def width(operation):
    """Bytes of each lane."""
    found = re.search(r"\.(128|64)\b", operation)
    return int(found[1]) // 8 if found else 4


def group_products(loop):
    """Clocks of the tensor cores, and bytes of shared memory, for the products of a warpgroup: B, and A unless it is in registers."""
    clocks = moved = 0
    for operation, operands in loop:
        if found := re.match(r"HGMMA\.64x(\d+)x16", operation):
            columns = int(found[1])
            clocks += columns / 2
            moved += 32 * columns + (2048 if re.match(r"\s*R\w+, gdesc", operands) else 0)
    return clocks, moved


def stage(entry, cluster, loop):
    """Bytes that the copy engine brings for a warpgroup's pass: into shared memory, and from the cache."""
    if found := re.fullmatch(r"attention_f16_(\d+)_(\d+)x(\d+)_sm90", entry):
        head, rows, keys = map(int, found.groups())
        both = 2 * keys * -(-head // 64) * 128
        return (both / (rows / 64),) * 2
    rows, columns = map(int, re.search(r"_(\d+)x(\d+)_sm90", entry).groups())
    groups = rows / 64 / (sum(is_tensor(operation) for operation, _ in loop) / 4)
    return (rows + columns) * 128 / groups, (rows + columns / cluster) * 128 / groups


def clocks(kernel, loop, cluster=1):
    """By unit."""
    counts = Counter(operation.split(".")[0] for operation, _ in loop)
    of = lambda names: sum(counts[name] for name in names)
    if is_for_hopper(kernel.entry):
        tensor, shared = group_products(loop)
        arriving, cached = stage(kernel.entry, cluster, loop)
        shared += arriving
    else:
        sums = HMMA[kernel.architecture]
        tensor = sum(sums[".F16" in operation] for operation, _ in loop if operation.startswith("HMMA"))
        cached = 4 * 512 * counts["LDGSTS"]
        shared = 4 * 512 * (counts["LDSM"] + counts["LDGSTS"])
    shared += sum(4 * 32 * width(operation) for operation, _ in loop if operation.startswith(("LDS.", "STS.")) or operation in ("LDS", "STS"))
    return {
        "tensor": tensor,
        "issue": len(loop),
        "shared": shared / SHARED,
        "cache": cached / CACHE,
        "exponential": EXPONENTIAL * counts["MUFU"],
        "float": FLOAT.get(kernel.architecture, 1) * of(FLOATS),
        "integer": INTEGER * of(INTEGERS),
    }


def declared(kernel):
    """The most that the slowest unit may take, of what products take; `None` for kernels whose loops are not looked at."""
    named = lambda table: next((limit for pattern, limit in table if re.fullmatch(pattern, kernel.entry)), None)
    if is_for_hopper(kernel.entry):
        return named(BOUNDS_90)
    limits = named(BOUNDS)
    return limits and limits[{"sm_80": 0, "sm_86": 1, "sm_89": 1, "sm_90": 2}[kernel.architecture]]


def slowest(kernel, loop, cluster):
    """The unit that takes longest, and how long, of what the tensor cores take."""
    of = clocks(kernel, loop, cluster)
    unit = max(UNITS, key=of.get)
    return unit, of[unit] / of["tensor"]


def check(kernel, loop, cluster):
    """What is wrong with a main loop, in sentences."""
    limit = declared(kernel)
    if limit is None:
        # Linear maps, convolutions and attention in halves are what this is for.
        if re.fullmatch(r"(linear|linear_norm|conv2d|attention)_f16_(\d+_)?\d+x\d+\w*", kernel.entry):
            yield "has no bound in kernel_roofline.py"
        return
    unit, ratio = slowest(kernel, loop, cluster)
    if ratio > limit + 0.005:
        yield f"keeps the unit `{unit}` busy for {ratio:.2f} of what its products take, where {limit:.2f} were expected at most"


def row(entry, kernels, loops, cluster):
    """A line of the table: clocks of the products, and the slowest unit, by architecture."""
    cells = []
    for kernel, loop in zip(kernels, loops):
        unit, ratio = slowest(kernel, loop, cluster)
        cells.append(f"{clocks(kernel, loop, cluster)['tensor']:>6.0f} {ratio:>5.2f} {unit}")
    return [entry, *cells, *[""] * (4 - len(cells))]
