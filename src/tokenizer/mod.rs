//! The CLIP tokenizer: a prompt to token ids of fixed number.
//!
//! Written out by hand because the whole of it is small and is a contract: equal, id for id, to what Hugging Face's `CLIPTokenizer`
//! gives for the same files (`tools/tokens.py` makes the comparison; `tests/tokenizer.rs` repeats it). `split` cuts a prompt into
//! words, `bpe` merges the bytes of a word, `files` reads a vocabulary.

mod bpe;
mod files;
mod split;

use crate::error::{Error, Result};
use bpe::Bpe;
use split::Special;
use std::path::Path;

/// The longest prompt accepted, in bytes: a thousand times what any text encoder reads.
pub const MAX_PROMPT_BYTES: usize = 64 << 10;

/// A byte-level byte-pair tokenizer in CLIP's manner.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    bpe: Bpe,
    specials: Vec<Special>,
    begin: u32,
    end: u32,
    pad: u32,
    max_length: usize,
    vocab_size: usize,
}

/// A prompt as token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// Begin, the prompt, end, then padding: always [`Tokenizer::max_length`] ids.
    pub ids: Vec<u32>,
    /// The number of tokens of the whole prompt, without begin and end and before anything was dropped.
    pub count: usize,
    /// The end of the prompt that did not fit, as the tokenizer reads it (lower case, single blanks).
    pub dropped: Option<String>,
}

impl Tokenizer {
    /// Reads a tokenizer folder: `tokenizer.json`, or `vocab.json` with `merges.txt`. The padding token and the length come from
    /// `special_tokens_map.json` and `tokenizer_config.json` where those are present; else they are the end token and 77.
    ///
    /// # Errors
    /// If files are missing, damaged, not CLIP's, or do not belong together.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        files::open(folder.as_ref())
    }

    /// A tokenizer from the contents of `vocab.json` and `merges.txt`, padded with the end token to 77 ids.
    ///
    /// # Errors
    /// If they are damaged or do not belong together.
    pub fn from_bytes(vocab: &[u8], merges: &[u8]) -> Result<Self> {
        files::from_bytes(vocab, merges)
    }

    /// The same tokenizer for a text encoder that reads `length` positions.
    ///
    /// # Errors
    /// If that leaves no room for the begin and end tokens.
    pub fn with_max_length(mut self, length: usize) -> Result<Self> {
        if length < 2 {
            return Err(Error::request(format!(
                "a text encoder of {length} positions: at least 2 are needed, for the begin and end tokens"
            )));
        }
        self.max_length = length;
        Ok(self)
    }

    /// The token ids of a prompt; what does not fit is dropped from its end and named.
    ///
    /// # Errors
    /// If the prompt is longer than [`MAX_PROMPT_BYTES`].
    pub fn encode(&self, prompt: &str) -> Result<Encoding> {
        if prompt.len() > MAX_PROMPT_BYTES {
            return Err(Error::request(format!(
                "the prompt is {} bytes long; at most {MAX_PROMPT_BYTES} are accepted, and a text encoder reads about {} tokens",
                prompt.len(),
                self.max_length - 2
            )));
        }
        let room = self.max_length - 2;
        let pieces = split::split(prompt, &self.specials);
        let mut ids = vec![self.begin];
        let mut count = 0;
        let mut dropped_from = None;
        for (run, special) in pieces.runs {
            let mut at = run.start;
            let tokens = match special {
                Some(id) => vec![(id, run.len())],
                None => self.bpe.encode(&pieces.text[run]),
            };
            for (id, bytes) in tokens {
                if count < room {
                    ids.push(id);
                } else {
                    dropped_from.get_or_insert(at);
                }
                count += 1;
                at += bytes;
            }
        }
        ids.push(self.end);
        ids.resize(self.max_length, self.pad);
        // A token may end inside a character; what is shown then starts with that character.
        let dropped = dropped_from.map(|at| {
            let start = pieces.text.floor_char_boundary(at);
            pieces.text[start..].trim().to_owned()
        });
        Ok(Encoding {
            ids,
            count,
            dropped,
        })
    }

    /// The id that opens every prompt.
    pub fn begin(&self) -> u32 {
        self.begin
    }

    /// The id that closes every prompt.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// The id that fills the positions after the end token.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// How many ids every encoding has.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// One more than the largest id: how many rows the text encoder's embedding must have.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }
}
