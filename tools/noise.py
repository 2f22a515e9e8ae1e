"""Known answers for the CPU noise: torch.randn in f32.

    pip install torch
    python tools/noise.py tests/data/samplers/noise.json

Each case is one generator and the calls made on it, one after another; of long calls every 97th value is kept, and the
last 32, where the last partial block is.
"""

import argparse
import json

import torch

SEEDS = (0, 42, 123456789, 2**32 + 5, 2**63 + 11)
CALLS = [[size] for size in (1, 2, 15, 16, 17, 31, 64, 4096, 16384, 16390)]
CALLS += [[1, 3, 16, 2, 33, 1, 5], [64, 64], [3, 4096, 2]]


def kept(size):
    return [i for i in range(size) if size <= 64 or i % 97 == 0 or i >= size - 32]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("output", help="JSON file to write")
    output = parser.parse_args().output
    cases = []
    for seed in SEEDS:
        for sizes in CALLS:
            generator = torch.Generator().manual_seed(seed)
            calls = []
            for size in sizes:
                values = torch.randn(size, generator=generator).tolist()
                values = [float(f"{values[i]:.9g}") for i in kept(size)]
                calls.append(dict(size=size, kept=values))
            cases.append(dict(seed=seed, calls=calls))
    with open(output, "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
    print(f"{len(cases)} cases")


if __name__ == "__main__":
    main()
