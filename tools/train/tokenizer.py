"""The demo's own tokenizer in CLIP's format: vocab.json and merges.txt, learnt from the captions' words.

Byte-level BPE with `</w>`. Merges are learnt until every word of the captions is one token; all 256 bytes are in
the vocabulary, so any text can be encoded. `Tokenizer` is a plain reading of those files for the training; the
files are checked against the `tokenizers` library by `--check`.

    python tools/train/tokenizer.py --out assets/demo [--check]     # pip install transformers for --check
"""

import argparse
import json
import re
from collections import Counter
from pathlib import Path

SPECIAL = ["<|startoftext|>", "<|endoftext|>"]


def byte_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte: printable Latin-1 as itself, the rest from code point 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = {b: chr(b) for b in printable}
    rest = [b for b in range(256) if b not in alphabet]
    alphabet.update({b: chr(256 + i) for i, b in enumerate(rest)})
    return {b: alphabet[b] for b in [*printable, *rest]}


def spell(word: str) -> tuple[str, ...]:
    letters = [byte_alphabet()[b] for b in word.encode()]
    return (*letters[:-1], letters[-1] + "</w>")


def merge(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out, i = [], 0
    while i < len(symbols):
        if symbols[i : i + 2] == pair:
            out.append(symbols[i] + symbols[i + 1])
            i += 2
        else:
            out.append(symbols[i])
            i += 1
    return tuple(out)


def learn(words: Counter) -> list[tuple[str, str]]:
    """Most frequent pair first, ties by spelling, until each word is a single symbol."""
    spelled = {w: spell(w) for w in words}
    merges = []
    while True:
        pairs = Counter()
        for word, symbols in spelled.items():
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] += words[word]
        if not pairs:
            return merges
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        spelled = {w: merge(s, best) for w, s in spelled.items()}


def write(folder: Path, captions) -> None:
    words = Counter(word for text in captions for word in re.findall(r"\w+|[^\w\s]", text.lower()))
    merges = learn(words)
    letters = list(byte_alphabet().values())
    entries = [*letters, *(c + "</w>" for c in letters), *(a + b for a, b in merges), *SPECIAL]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({s: i for i, s in enumerate(entries)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    print(f"{len(words)} words, {len(merges)} merges, {len(entries)} tokens")


class Tokenizer:
    """Encodes captions (lower case ASCII words and commas) to a fixed number of positions, padded with the end token."""

    def __init__(self, folder: Path, positions: int):
        self.vocab = json.loads((folder / "vocab.json").read_text())
        lines = (folder / "merges.txt").read_text().splitlines()[1:]
        self.merges = [tuple(line.split(" ")) for line in lines]
        self.positions, self.cache = positions, {}

    def word(self, word: str) -> list[int]:
        if word not in self.cache:
            symbols = spell(word)
            for pair in self.merges:
                symbols = merge(symbols, pair)
            self.cache[word] = [self.vocab[s] for s in symbols]
        return self.cache[word]

    def __call__(self, text: str) -> list[int]:
        start, end = (self.vocab[s] for s in SPECIAL)
        ids = [i for w in re.findall(r"[^\W\d_]+|\d|[^\s\w]+", text.lower()) for i in self.word(w)]
        ids = [start, *ids[: self.positions - 2]]
        return ids + [end] * (self.positions - len(ids))


def check(folder: Path, captions, positions: int) -> None:
    from transformers import CLIPTokenizer

    theirs = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=positions)
    ours = Tokenizer(folder, positions)
    for text in captions:
        expected = theirs(text, padding="max_length", truncation=True, max_length=positions).input_ids
        if ours(text) != expected:
            raise SystemExit(f"differs on {text!r}: {ours(text)} against {expected}")
    print(f"{len(captions)} captions agree; pad {theirs.pad_token!r}")


def main():
    from captions import caption
    from painter import scene_for

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--positions", type=int, default=32)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    captions = [caption(scene_for(seed)) for seed in range(6000)]
    write(args.out, captions)
    tokenizer = Tokenizer(args.out, 200)
    longest = max(201 - tokenizer(c).count(tokenizer.vocab[SPECIAL[1]]) for c in captions)
    print(f"longest caption: {longest} positions")
    if args.check:
        check(args.out, captions + ["", "Zürich 2024!", "a RED ballooon"], args.positions)


if __name__ == "__main__":
    main()
