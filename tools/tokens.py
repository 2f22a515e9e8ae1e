"""Reference token ids for the tokenizers of CLIP and of BERT.

Trains vocabularies of its own (byte pairs in CLIP's format, where `</w>` ends a word; word pieces in BERT's, where `##` continues
one), generates strings of many kinds, and writes what `transformers.CLIPTokenizer` and `BertTokenizer` (which run on the
`tokenizers` wheel) give for them. `tests/tokenizer.rs` compares every folder under tests/data/tokenizer that this script has
written.

    pip install transformers==5.23.0 tokenizers==0.23.3
    python tools/tokens.py                     # 20,000 strings and more, to the git-ignored tests/data/tokenizer/full
    cargo test --test tokenizer -- --nocapture # compares them, and prints how many
    python tools/tokens.py --merges 600 --strings 300 --out tests/data/tokenizer/sample   # the committed sample

Five folders are written, one for each way in which models ship a tokenizer:

    sd1        vocab.json, merges.txt and Stable Diffusion 1.x's settings (padding with the end token)
    sd2        the same with Stable Diffusion 2.x's settings (padding with `!`)
    json       tokenizer.json, with 32 positions named in tokenizer_config.json
    bert       vocab.txt alone, as beside latent diffusion's text-to-image models
    bert_json  tokenizer.json of word pieces, with 32 positions named in tokenizer_config.json

Each also has cases.jsonl: a first line of settings {"begin", "end", "pad", "length"}, then {"text", "count", "ids"} a line,
where `count` is the number of tokens before truncation and `ids` lacks its trailing padding.
"""

import argparse
import json
import random
import shutil
import sys
import unicodedata
from pathlib import Path

from pydoc_data.topics import topics
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BertTokenizer, CLIPTokenizer

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
SCRIPTS = {
    "latin": (0x41, 0x24F),
    "greek": (0x370, 0x3FF),
    "cyrillic": (0x400, 0x4FF),
    "hebrew and arabic": (0x5D0, 0x6FF),
    "devanagari": (0x900, 0x97F),
    "thai": (0xE01, 0xE5B),
    "hangul": (0xAC00, 0xD7A3),
    "jamo": (0x1100, 0x11FF),
    "kana": (0x3041, 0x30FF),
    "han": (0x4E00, 0x9FFF),
    "mathematical letters": (0x1D400, 0x1D7FF),
}
SPACES = " \t\n\r\x0b\x0c\x85\xa0\u1680\u2000\u2003\u2009\u2028\u2029\u202f\u205f\u3000\u200b\ufeff"
MARKS = "".join(chr(c) for c in range(0x300, 0x36F)) + "\u0591\u05b0\u0651\u093c\u093f\u0e31\u20d0\u3099\u309a"
EMOJI = [chr(c) for c in (*range(0x1F300, 0x1F650), *range(0x1F900, 0x1F9FF), *range(0x2600, 0x27BF))]
NUMBERS = "0123456789²³¼½ⅷⅻ①⑳٣४๗〇零"
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡«»¿–—‘’“”…•€™©"
CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "’s", "'x", "''", "'"]
MARKERS = [BEGIN, END, BEGIN.upper(), "<|EndOfText|>", "<|startoftext", "|>", "<|", "<|end|>"]
BERT_NAMES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
BERT_MARKERS = [*BERT_NAMES, "[cls]", "[CLS", "SEP]", "##s", "##", "[ SEP ]"]


def words_of_prose():
    """English words: the manual that comes with Python, and the names of the characters."""
    text = " ".join(topics[key] for key in sorted(topics))
    names = " ".join(unicodedata.name(chr(c), "").lower() for c in range(0x20, 0x3000))
    return [word for word in (text + " " + names).split(" ") if word.strip()]


def script_word(rng):
    low, high = rng.choice(list(SCRIPTS.values()))
    return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 8)))


def any_character(rng):
    """Any character at all but the surrogates; the first planes more often."""
    while True:
        c = rng.randrange(rng.choice([0x80, 0x800, 0x10000, 0x20000, 0x110000]))
        if not 0xD800 <= c < 0xE000:
            return chr(c)


def piece(rng, prose, markers):
    """One piece of a string; its kind is drawn first."""
    kind = rng.randrange(13)
    if kind <= 3:
        word = rng.choice(prose)
        return rng.choice([word, word.upper(), word.title(), word.swapcase()])
    if kind == 4:
        return script_word(rng)
    if kind == 5:
        return "".join(rng.choices(NUMBERS, k=rng.randint(1, 6)))
    if kind == 6:
        return "".join(rng.choices(PUNCTUATION, k=rng.randint(1, 5)))
    if kind == 7:
        return rng.choice(prose) + rng.choice(CONTRACTIONS)
    if kind == 8:
        joiners = ["", "\u200d", "\ufe0f", "\U0001f3fd"]
        return "".join(rng.choice(EMOJI) + rng.choice(joiners) for _ in range(rng.randint(1, 4)))
    if kind == 9:
        base = rng.choice(["e", "A", "o", "ß", "İ", "ſ", "Σ", "가", "क", "か", "1", "-"])
        return base + "".join(rng.choices(MARKS, k=rng.randint(1, 4)))
    if kind == 10:
        return "".join(any_character(rng) for _ in range(rng.randint(1, 6)))
    if kind == 11:
        return "".join(chr(rng.choice([*range(32), *range(127, 160)])) for _ in range(rng.randint(1, 3)))
    return rng.choice(markers)


def string(rng, prose, markers=MARKERS):
    longest = rng.choice([1, 3, 8, 20, 20, 90])
    parts = []
    for _ in range(rng.randint(0, longest)):
        parts.append(piece(rng, prose, markers))
        blank = rng.choice([" ", " ", " ", "", "".join(rng.choices(SPACES, k=rng.randint(1, 4)))])
        parts.append(blank)
    text = "".join(parts)
    return text if rng.random() < 0.5 else text.strip()


def train(rng, prose, merges):
    """A vocabulary in CLIP's order (bytes, bytes that end a word, merges, markers) and its merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    corpus = [word.lower() for word in prose] + [script_word(rng) for _ in range(5000)]
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + merges,
        show_progress=False,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
    )
    tokenizer.train_from_iterator(corpus, trainer)
    pairs = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"][:merges]]
    tokens = alphabet + [byte + "</w>" for byte in alphabet] + [a + b for a, b in pairs] + [BEGIN, END]
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}, pairs


def train_bert(rng, prose, size):
    """A vocabulary in BERT's order: the names, then characters and pieces."""
    corpus = prose + [script_word(rng) for _ in range(5000)]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=size, show_progress=False, special_tokens=BERT_NAMES, limit_alphabet=size // 4)
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer.get_vocab()


def disputed():
    """The characters that the reference's tables, of Unicode 8, see otherwise than today's, and those that are not assigned."""
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    found = set()
    for c in map(chr, (*range(0x80, 0xD800), *range(0xE000, sys.maxunicode + 1))):
        category = unicodedata.category(c)
        dropped = category in ("Mn", "Cc", "Cf", "Co") or c == "\ufffd"
        text = normalizer.normalize_str(f"a{c}b")
        words = [word for word, _ in splitter.pre_tokenize_str(f"a{c}b")]
        if category == "Cn" or dropped != (text == "ab") or (category[0] == "P") != (words == ["a", c, "b"]):
            found.add(c)
    return found


def write_bert(folder, vocab, layout):
    """The files of BERT's vocabulary in one layout; returns the reference tokenizer."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    reference = BertTokenizer(vocab=vocab, model_max_length=32 if layout == "bert_json" else 77)
    if layout == "bert_json":
        reference.save_pretrained(folder)
        return BertTokenizer.from_pretrained(folder)
    tokens = sorted(vocab, key=vocab.get)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return reference


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def write_folder(folder, vocab, pairs, layout):
    """The files of one layout; returns the reference tokenizer that reads them."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if layout == "json":
        reference = CLIPTokenizer(vocab=vocab, merges=pairs, model_max_length=32)
        reference.save_pretrained(folder)
        return CLIPTokenizer.from_pretrained(folder)
    write_json(folder / "vocab.json", vocab)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in pairs)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    marker = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    named = {
        "bos_token": {"content": BEGIN, **marker},
        "eos_token": {"content": END, **marker},
        "unk_token": {"content": END, **marker},
        "pad_token": END,
    }
    config = {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer", **named}
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", {**named, "pad_token": END if layout == "sd1" else "!"})
    return CLIPTokenizer.from_pretrained(folder)


def write_cases(path, reference, texts):
    length, pad = reference.model_max_length, reference.pad_token_id
    bert = isinstance(reference, BertTokenizer)
    begin, end = (reference.cls_token_id, reference.sep_token_id) if bert else (reference.bos_token_id, reference.eos_token_id)
    settings = {"begin": begin, "end": end, "pad": pad, "length": length}
    with path.open("w", encoding="utf-8", newline="\n") as out:
        out.write(json.dumps(settings) + "\n")
        for text in texts:
            count = len(reference(text, verbose=False).input_ids) - 2
            ids = reference(text, padding="max_length", truncation=True, max_length=length).input_ids
            while ids and ids[-1] == pad:
                ids.pop()
            out.write(json.dumps({"text": text, "count": count, "ids": ids}) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tests/data/tokenizer/full"))
    parser.add_argument("--strings", type=int, default=20000, help="for sd1 and bert; a tenth of it for the others")
    parser.add_argument("--merges", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()

    rng = random.Random(arguments.seed)
    prose = words_of_prose()
    vocab, pairs = train(rng, prose, arguments.merges)
    for layout, share in {"sd1": 1, "sd2": 10, "json": 10}.items():
        folder = arguments.out / layout
        reference = write_folder(folder, vocab, pairs, layout)
        texts = [string(rng, prose) for _ in range(arguments.strings // share)]
        write_cases(folder / "cases.jsonl", reference, texts)
        print(f"{folder}: {len(texts)} strings, {len(vocab)} tokens")

    vocab = train_bert(rng, prose, arguments.merges)
    left_out = {ord(c): None for c in disputed()}
    for layout, share in {"bert": 1, "bert_json": 10}.items():
        folder = arguments.out / layout
        reference = write_bert(folder, vocab, layout)
        texts = [string(rng, prose, BERT_MARKERS).translate(left_out) for _ in range(arguments.strings // share)]
        write_cases(folder / "cases.jsonl", reference, texts)
        print(f"{folder}: {len(texts)} strings, {len(vocab)} tokens")


if __name__ == "__main__":
    main()
