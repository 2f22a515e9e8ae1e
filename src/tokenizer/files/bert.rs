//! Reading the vocabulary of BERT: a piece per line of `vocab.txt`, or the same in a `tokenizer.json`.

use super::super::split::Special;
use super::super::wordpiece::WordPiece;
use super::super::{Tokenizer, Words};
use super::{LENGTH, Settings, Vocab, lookup};
use crate::error::{Error, Result};
use std::path::Path;

/// Padding, unknown words, begin and end.
const NEEDED: [&str; 4] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"];
/// What a prompt may also name as a whole.
const MASK: &str = "[MASK]";

/// The pieces of a `vocab.txt`, numbered by their lines.
pub(super) fn vocabulary(path: &Path, bytes: &[u8]) -> Result<Vocab> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Error::file(path, "is not UTF-8 text: expected a token a line"))?;
    let tokens = text.lines().map(str::to_owned);
    Ok(tokens.zip(0..).collect())
}

/// The tokenizer of a vocabulary, which is in the file `path`.
pub(super) fn build(vocab: &Vocab, settings: &Settings, path: &Path) -> Result<Tokenizer> {
    if settings.do_lower_case == Some(false) {
        return Err(Error::file(
            path,
            "is of a tokenizer that keeps upper case, and latent diffusion's BERT reads lower case: take the files of \
             `bert-base-uncased`",
        ));
    }
    let mut ids = [0; NEEDED.len()];
    for (id, token) in ids.iter_mut().zip(NEEDED) {
        *id = lookup(vocab, token, "BERT", path)?;
    }
    let [pad, unknown, begin, end] = ids;
    let specials = NEEDED.into_iter().chain([MASK]).filter_map(|token| {
        Some(Special {
            content: token.to_owned(),
            id: *vocab.get(token)?,
            normalized: false,
        })
    });
    let tokenizer = Tokenizer {
        words: Words::Bert(WordPiece::new(vocab, unknown)),
        specials: specials.collect(),
        begin,
        end,
        pad,
        max_length: LENGTH,
        vocab_size: super::size(vocab),
    };
    settings.limit(tokenizer)
}
