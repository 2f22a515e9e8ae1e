//! Byte-pair encoding of one word (Sennrich et al., arXiv:1508.07909), over bytes instead of characters.
//!
//! A vocabulary file is text, so each of the 256 bytes is written as a printable character; the last symbol of a word carries the
//! suffix `</w>`. Merging takes the pair of lowest rank, leftmost first. The pairs wait in a heap, because a word has no longest
//! length: a page of Chinese is one word.

use super::split::{Special, split};
use crate::error::{Error, Result};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::path::Path;

/// What the last symbol of a word ends in.
pub(super) const WORD_END: &str = "</w>";

/// The merges of a vocabulary, on ids.
#[derive(Clone, Debug)]
pub(super) struct Bpe {
    /// The id of each byte inside a word, and at its end.
    inner: [u32; 256],
    last: [u32; 256],
    /// (left, right) to (rank, merged).
    merges: HashMap<(u32, u32), (u32, u32)>,
}

/// A symbol of a word being merged: a doubly linked list in a vector.
struct Symbol {
    id: u32,
    bytes: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

impl Bpe {
    /// Merges in order of rank; a byte that the vocabulary lacks becomes `unknown`.
    ///
    /// # Errors
    /// If a merge names a token that the vocabulary lacks; `path` is the file of the merges.
    pub fn new(
        vocab: &HashMap<String, u32>,
        merges: &[(String, String)],
        unknown: u32,
        path: &Path,
    ) -> Result<Self> {
        let byte = |byte: usize, suffix: &str| {
            let token = format!("{}{suffix}", byte_char(byte as u8));
            vocab.get(&token).copied().unwrap_or(unknown)
        };
        let mut ids = HashMap::with_capacity(merges.len());
        for (rank, (left, right)) in merges.iter().enumerate() {
            let id = |token: &str| {
                vocab.get(token).copied().ok_or_else(|| {
                    Error::file(
                        path,
                        format!(
                            "merge {} (`{left} {right}`) names the token `{token}`, which the vocabulary lacks: \
                             take both files from the same model",
                            rank + 1
                        ),
                    )
                })
            };
            let pair = (id(left)?, id(right)?);
            ids.insert(pair, (rank as u32, id(&format!("{left}{right}"))?));
        }
        Ok(Self {
            inner: std::array::from_fn(|b| byte(b, "")),
            last: std::array::from_fn(|b| byte(b, WORD_END)),
            merges: ids,
        })
    }

    /// A prompt as the tokenizer reads it, and its tokens, each with where it begins there.
    pub fn tokens(&self, prompt: &str, specials: &[Special]) -> (String, Vec<(u32, usize)>) {
        let pieces = split(prompt, specials);
        let mut tokens = vec![];
        for (run, special) in pieces.runs {
            let mut at = run.start;
            let found = match special {
                Some(id) => vec![(id, run.len())],
                None => self.encode(&pieces.text[run]),
            };
            for (id, bytes) in found {
                tokens.push((id, at));
                at += bytes;
            }
        }
        (pieces.text, tokens)
    }

    /// The tokens of a word, each with the number of the word's bytes that it covers.
    pub fn encode(&self, word: &str) -> Vec<(u32, usize)> {
        let bytes = word.as_bytes();
        let mut symbols: Vec<Symbol> = (0..bytes.len())
            .map(|i| {
                let table = if i + 1 == bytes.len() {
                    &self.last
                } else {
                    &self.inner
                };
                Symbol {
                    id: table[usize::from(bytes[i])],
                    bytes: 1,
                    previous: i.checked_sub(1),
                    next: (i + 1 < bytes.len()).then_some(i + 1),
                }
            })
            .collect();
        let mut waiting: BinaryHeap<Reverse<(u32, usize)>> = (0..symbols.len())
            .filter_map(|left| Some(Reverse((self.merge(&symbols, left)?.0, left))))
            .collect();
        while let Some(Reverse((rank, left))) = waiting.pop() {
            // The pair that waited here may have changed since.
            let Some((_, merged)) = self.merge(&symbols, left).filter(|(r, _)| *r == rank) else {
                continue;
            };
            join(&mut symbols, left, merged);
            for changed in [symbols[left].previous, Some(left)].into_iter().flatten() {
                if let Some((rank, _)) = self.merge(&symbols, changed) {
                    waiting.push(Reverse((rank, changed)));
                }
            }
        }
        symbols
            .into_iter()
            .filter(|symbol| symbol.bytes > 0)
            .map(|symbol| (symbol.id, symbol.bytes))
            .collect()
    }

    /// The merge of the symbol at `left` with its successor.
    fn merge(&self, symbols: &[Symbol], left: usize) -> Option<(u32, u32)> {
        let right = symbols[left].next?;
        self.merges
            .get(&(symbols[left].id, symbols[right].id))
            .copied()
    }
}

/// Puts `merged` in the place of the symbol at `left` and its successor, which is left without bytes or neighbours.
fn join(symbols: &mut [Symbol], left: usize, merged: u32) {
    let Some(right) = symbols[left].next else {
        return;
    };
    let next = symbols[right].next.take();
    symbols[left].id = merged;
    symbols[left].bytes += std::mem::take(&mut symbols[right].bytes);
    symbols[left].next = next;
    if let Some(next) = next {
        symbols[next].previous = Some(left);
    }
}

/// The printable character that stands for a byte: itself where Latin-1 prints it, else the next free one from U+0100.
fn byte_char(byte: u8) -> char {
    let printable = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    if printable(byte) {
        return char::from(byte);
    }
    let place = (0..byte).filter(|b| !printable(*b)).count() as u32;
    char::from_u32(256 + place).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_distinct_printable_names() {
        assert_eq!(byte_char(b'a'), 'a');
        assert_eq!(byte_char(b' '), 'Ġ');
        assert_eq!(byte_char(0), 'Ā');
        assert_eq!(byte_char(173), 'Ń');
        let mut all: Vec<char> = (0..=255).map(byte_char).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 256);
    }

    #[test]
    fn the_lowest_rank_goes_first_and_the_leftmost_of_equals() {
        let tokens = ["a", "b", "b</w>", "aa", "ab", "aab", "ab</w>"];
        let vocab: HashMap<String, u32> = tokens.iter().map(|t| t.to_string()).zip(0..).collect();
        let merges = [("a", "a"), ("a", "b"), ("aa", "b"), ("a", "b</w>")]
            .map(|(l, r)| (l.to_owned(), r.to_owned()));
        let bpe = Bpe::new(&vocab, &merges, 99, Path::new("merges.txt")).unwrap();
        assert_eq!(bpe.encode("aaab"), [(3, 2), (6, 2)]);
        assert_eq!(bpe.encode("aabab"), [(5, 3), (6, 2)]);
        assert_eq!(bpe.encode("ac"), [(0, 1), (99, 1)]);

        let stranger = [("b".to_owned(), "a".to_owned())];
        let error = Bpe::new(&vocab, &stranger, 99, Path::new("merges.txt")).unwrap_err();
        assert!(error.to_string().contains("`ba`"), "{error}");
    }
}
