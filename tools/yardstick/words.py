"""A CLIP tokenizer without merges: one token per byte, inside a word and at its end."""

import json
from pathlib import Path

BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def write_tokenizer(folder: Path, vocabulary: int | None = None) -> None:
    """Writes its files; `vocabulary` is where the two special tokens end, if not right behind the others."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]
    words = letters + [letter + "</w>" for letter in letters]
    first = (vocabulary or len(words) + 2) - 2
    ids = {word: index for index, word in enumerate(words)} | {BEGIN: first, END: first + 1}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "bos_token": BEGIN, "eos_token": END,
                "unk_token": END, "pad_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokens = {key: value for key, value in settings.items() if key.endswith("_token")}
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens))
