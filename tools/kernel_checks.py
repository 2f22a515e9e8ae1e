"""What the machine code of a kernel must hold, by its name, without a GPU: what its source stands for, and nothing that makes it slow.

A check says in a sentence what was expected and what was found. What is declared here is as the kernels are: a change that needs another number
changes it here, to be reviewed. None of it predicts a time.
"""

import re
from collections import Counter

from kernel_code import LIMITS, SHARED_OF_BLOCK, is_for_hopper, is_tensor

# Tensor core instructions of the code that every architecture has: with sums in f32, and in halves.
TENSOR = "HMMA.16816.F32"
HALVES = "HMMA.16816.F16"

# Instructions that touch global memory, but for tensor copies to shared memory.
GLOBAL = ("LDG", "STG", "ATOM", "RED", "UTMASTG", "UTMAREDG")

WARPGROUP = 128

# What measures products alone, and copies nothing.
PROBE_90 = r"probe_multiply_f16_sm90"

# What the main loop of an entry must hold. Loops of kernels that are not listed have no tensor core instructions.
MAIN_LOOPS = [
    (r"(linear|linear_norm|conv2d)_f16_\d+x\d+", {TENSOR, "LDSM.16.M88.4", "LDGSTS.E.BYPASS.128"}),
    (r"(linear|linear_norm)_f16_\d+x\d+_half", {HALVES, "LDSM.16.M88.4", "LDGSTS.E.BYPASS.128", "HADD2.F32", "FADD"}),
    # What is beside an image is summed in f32, by the same loop.
    (r"conv2d_f16_\d+x\d+_half", {HALVES, TENSOR, "LDSM.16.M88.4", "LDGSTS.E.BYPASS.128", "HADD2.F32", "FADD"}),
    (r"(linear|conv2d)_any_f16_.*", {TENSOR, "LDSM.16.M88.4"}),
    (r"attention_scores_f16", {TENSOR, "LDSM.16.M88.4", "LDGSTS.E.BYPASS.128"}),
    (r"attention_(f16_\d+_\d+x\d+|mix_f16)", {TENSOR, "LDSM.16.M88.4", "LDSM.16.MT88.4", "LDGSTS.E.BYPASS.128"}),
    (r"probe_multiply_f16", {TENSOR}),
    (r"(linear|linear_norm|conv2d|attention)_f16_\w+_sm90", {"HGMMA"}),
    (PROBE_90, {"HGMMA"}),
]

# The least share of tensor core instructions among those of the main loop, in percent.
SHARES = [
    (r"linear_f16_128x160", 40),
    (r"linear_f16_128x128", 36),
    (r"linear_f16_(128x64|64x160)", 24),
    (r"linear_f16_64x64", 15),
    (r"conv2d_f16_128x160", 23),
    (r"conv2d_f16_128x128", 20),
    (r"conv2d_f16_(128x64|64x160)", 11),
    (r"conv2d_f16_64x64", 8),
    # Half of conv2d's are for what is summed in f32.
    (r"(linear|conv2d)_f16_128x\d+_half", 17),
    (r"(linear|conv2d)_f16_64x64_half", 13),
]
# Of sm_90a's, one of which keeps the tensor cores busy for as long as a warp issues many others: instructions for each, at most.
PER_PRODUCT = [
    (r"(linear|conv2d)_f16_256x\d+_sm90", 10),
    (r"(linear|conv2d)_f16_\w+_sm90", 17),
    # Rows are normalised from the stages as they pass: their sums take more instructions than the products.
    (r"linear_norm_f16_\w+_sm90", 60),
    (r"attention_f16_\d+_\d+x128_sm90", 50),
    (PROBE_90, 5),
]

# Tiles that take each other's place, by what their names have in common: a batch may be given another than one image is. The smallest tile, which
# finds no moments, has less to multiply.
FAMILIES = [r"((?:linear|linear_norm|conv2d)_f16)_(?!16x)\d+x\d+((?:_half)?(?:_sm90)?)", r"(attention_f16_\d+)_\d+(x\d+_sm90)"]

# Vector registers moved to uniform ones, each of which waits for the vector pipeline: in a main loop, and in one that starts tensor copies.
UNIFORM_MOVES = {"main": 2, "copy": 25}


# The model of time (src/cuda/predict.rs) takes as many blocks on a multiprocessor as an entry declares, or as the memory of one block holds of
# what a launch asks for. It leaves out the KiB that each block takes for itself, which makes a difference of one for these alone.
FEWER_THAN_MODELLED = r"(linear|conv2d)_f16_16x64|attention_f16_40_64x80"


def check_file(path, held):
    """What a file of kernels lacks: code for one of the architectures, or the oldest one's PTX for those that come after."""
    wanted = {"sm_90a"} if path.stem.endswith("_sm90") else {name for name in LIMITS if not name.endswith("a")} | {"sm_80 PTX"}
    if set(held) != wanted:
        yield f"{path.stem}.cu is compiled for {', '.join(sorted(held))}, where {', '.join(sorted(wanted))} was expected"


def listed(table, entry):
    return next((value for pattern, value in table if re.fullmatch(pattern, entry)), None)


def check(kernel, declared, loop, asked):
    """What is wrong with a kernel, whose launches ask for so many bytes of shared memory, in sentences."""
    threads, blocks = declared
    operations = kernel.operations()
    used = Counter(operation.split(".")[0] for operation in operations)
    local = used["LDL"] + used["STL"]
    if kernel.spilled:
        yield f"spills {kernel.spilled} bytes of registers"
    if kernel.stack or local:
        yield f"keeps {kernel.stack} bytes in memory of each thread's own ({local} accesses)"
    if kernel.blocks(threads) < blocks:
        yield f"declares {blocks} blocks of {threads} threads on a multiprocessor, but {kernel.blocks(threads)} fit"
    most_shared = LIMITS[kernel.architecture][2] - SHARED_OF_BLOCK
    fit = min(blocks, kernel.blocks(threads, asked or 0))
    if asked and fit != min(blocks, most_shared // asked) and not re.fullmatch(FEWER_THAN_MODELLED, kernel.entry):
        yield f"has {fit} blocks of its launches on a multiprocessor, where the model of time takes {min(blocks, most_shared // asked)}"
    if kernel.architecture.startswith("sm_90"):
        yield from check_early(kernel, used)
    yield from check_loop(kernel, [operation for operation, _ in loop])
    if is_for_hopper(kernel.entry):
        yield from check_registers(kernel, threads)
        yield from check_hopper(kernel, loop)
    yield from check_exponentials(kernel, loop)


def check_families(kernels):
    """Where a compiler adds to a product in the instruction that multiplies, it rounds once and not twice, and it does so where it likes. All tiles
    of a family have the same things to multiply, so in all of them it must like the same, or bits would follow the batch."""
    families = {}
    for (entry, architecture), kernel in kernels.items():
        found = next(filter(None, (re.fullmatch(pattern, entry) for pattern in FAMILIES)), None)
        if found:
            alone = sum(operation.split(".")[0] == "FMUL" for operation in kernel.operations())
            families.setdefault((*found.groups(), architecture), {}).setdefault(alone, []).append(entry)
    for (*_, architecture), tiles in families.items():
        if len(tiles) > 1:
            found = "; ".join(f"{alone} in {', '.join(sorted(entries))}" for alone, entries in sorted(tiles.items()))
            yield f"tiles of one family multiply without adding differently often: {found} ({architecture})"


def check_early(kernel, used):
    """A grid that starts while the one before ends: it waits before it touches memory, weights that tensor copies load aside, and reads nothing by
    the path that takes memory to be constant for as long as the grid is there."""
    if not used["ACQBULK"]:
        yield "never waits for the grid before (no ACQBULK)"
        return
    early = sorted({operation for operation in kernel.before("ACQBULK") if operation.startswith(GLOBAL)})
    if early:
        yield f"touches memory ({', '.join(early)}) before it has waited for the grid before"
    constant = sorted({operation for operation in kernel.operations() if operation.startswith("LDG") and "CONSTANT" in operation})
    if constant:
        yield f"reads memory as if no grid wrote it ({', '.join(constant)})"


def check_registers(kernel, threads):
    """Warpgroups that multiply take the registers of the one that loads, out of those that the block was launched with: what is not there they would
    wait for without end."""
    counts = lambda name: {int(operands.split()[-1], 16) for _, operation, operands, _ in kernel.instructions if operation.startswith(name)}
    less, more = counts("USETMAXREG.DEALLOC"), counts("USETMAXREG.TRY_ALLOC")
    if not less and not more:
        return
    if len(less) != 1 or len(more) != 1:
        yield f"changes its registers to {sorted(less)} and {sorted(more)}, where one number each was expected"
        return
    asked, there = WARPGROUP * less.pop() + (threads - WARPGROUP) * more.pop(), threads * kernel.registers
    if asked > there:
        yield f"asks for {asked} registers in all, where it is launched with {there}"


def check_loop(kernel, loop):
    """The main loop: the instructions that the kernel stands for, whole copies, and not too much beside them."""
    wanted = listed(MAIN_LOOPS, kernel.entry) or set()
    for operation in sorted(wanted):
        if not any(found.startswith(operation) for found in loop):
            yield f"has no {operation} in its main loop"
    tensor = {operation for operation in kernel.operations() if is_tensor(operation)}
    for operation in sorted(operation for operation in tensor if not operation.startswith(tuple(wanted) or "none")):
        yield f"uses {operation}, which is not declared for it"
    copies = {operation for operation in loop if operation.startswith("LDGSTS") and "128" not in operation}
    if any(operation.startswith("LDGSTS") for operation in wanted) and copies:
        yield f"copies less than 16 bytes at a time in its main loop ({', '.join(sorted(copies))})"
    counts = Counter(operation.split(".")[0] for operation in loop)
    if any(operation.startswith("LDGSTS") for operation in wanted) and (counts["BAR"], counts["DEPBAR"], counts["LDG"]) != (1, 1, 0):
        found = f"{counts['BAR']} barriers, {counts['DEPBAR']} waits for copies and {counts['LDG']} loads"
        yield f"has {found} in its main loop, where 1, 1 and 0 were expected"
    products = sum(map(is_tensor, loop))
    share, most = listed(SHARES, kernel.entry), listed(PER_PRODUCT, kernel.entry)
    if share and 100 * products < share * len(loop):
        yield f"has {products} tensor core instructions among the {len(loop)} of its main loop, where {share} % were expected"
    if most and len(loop) > most * products:
        yield f"has {len(loop)} instructions in its main loop, where {most} for each of {products} products were expected at most"


def shapes(entry):
    """The products that an entry for Hopper GPUs is declared to make: as wide as its tile; of attention, as wide as its tile of keys, and as a head
    with eight columns more, the first of which adds up the weights."""
    if found := re.fullmatch(r"attention_f16_(\d+)_\d+x(\d+)_sm90", entry):
        return {int(found[2]), int(found[1]) + 8}
    if re.fullmatch(PROBE_90, entry):
        return {256}
    found = re.fullmatch(r"(?:linear|linear_norm|conv2d)_f16_\d+x(\d+)\w*_sm90", entry)
    return {int(found[1])} if found else set()


def check_hopper(kernel, loop):
    """What a kernel for Hopper GPUs alone stands for: wide products from shared memory, tensor copies that a single lane starts."""
    operations = kernel.operations()
    wide = {f"HGMMA.64x{columns}x16.F32" for columns in shapes(kernel.entry)}
    found = {operation for operation in operations if operation.startswith("HGMMA")}
    if wide != found:
        yield f"multiplies by {', '.join(sorted(found)) or 'nothing'}, where {', '.join(sorted(wide)) or 'nothing'} was expected"
    network = not re.fullmatch(PROBE_90, kernel.entry)
    if network and not any(operation.startswith("UTMALDG") for operation in operations):
        yield "has no tensor copy (UTMALDG)"
    if any(operation.startswith("BRA") and "ANY" in operation for operation in operations):
        yield "goes over the lanes of a warp one by one to make an operand uniform (BRA.ANY)"
    if network and "PREEXIT" not in operations:
        yield "never lets the next grid start (no PREEXIT)"
    if network and re.fullmatch(r"(linear|linear_norm|conv2d)_.*", kernel.entry):
        if not any(operation.startswith("UTMALDG") for operation in kernel.before("ACQBULK")):
            yield "loads no weights before it waits for the grid before (no UTMALDG ahead of ACQBULK)"
    moves = lambda body: sum(operation.startswith("R2UR") for operation, _ in body)
    for name, bodies in (("main", [loop]), ("copy", kernel.copy_loops())):
        most = max(map(moves, bodies), default=0)
        if most > UNIFORM_MOVES[name]:
            yield f"moves {most} registers to uniform ones in its {name} loop, where {UNIFORM_MOVES[name]} were expected at most"


def check_exponentials(kernel, loop):
    """Attention takes one exponential per score, by the special unit or by a polynomial (which begins by adding 1.5 * 2^23, and adds twice more), and
    one for each of a thread's rows, whose largest score may have grown. On Hopper GPUs the products sum the weights: what is added beside polynomials
    is two for each row."""
    found = re.fullmatch(r"attention_f16_\d+_(\d+)x(\d+)(_sm90)?", kernel.entry)
    if not found:
        return
    # A warpgroup has 64 queries, a block of four warps those of its tile.
    queries = 64 if found[3] else int(found[1])
    scores, rows = queries * int(found[2]) // 128, queries // 32
    special = sum(operation == "MUFU.EX2" for operation, _ in loop)
    polynomials = sum(operation == "FADD" and re.search(r" 12582912\b", operands) is not None for operation, operands in loop)
    # Where all keys are one tile, nothing was there before that could have to be scaled.
    if special + polynomials not in (scores, scores + rows):
        yield f"takes {special} exponentials and {polynomials} polynomials for {scores} scores and {rows} rows of a thread"
    additions = sum(operation == "FADD" for operation, _ in loop)
    if found[3] and additions > 3 * polynomials + 2 * rows:
        yield f"adds {additions} times for {polynomials} polynomials, where products were expected to sum the weights"
