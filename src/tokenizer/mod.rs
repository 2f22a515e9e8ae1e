//! The tokenizers of CLIP and of BERT: a prompt to token ids of fixed number. Beside them, what models are told in other ways than
//! in words: `layout`s, and `classes` by their names.
//!
//! Written out by hand because the whole of it is small and is a contract: equal, id for id, to what Hugging Face's `CLIPTokenizer`
//! and `BertTokenizerFast` give for the same files (`tools/tokens.py` makes the comparison; `tests/tokenizer.rs` repeats it). CLIP's
//! `split` cuts a prompt into words and `bpe` merges the bytes of a word; `wordpiece` is all of BERT's; `files` reads a vocabulary.

mod bpe;
mod classes;
mod files;
mod layout;
mod split;
mod wordpiece;

pub use classes::ClassNames;
pub use layout::{Class, Layout, LayoutTokenizer, Object};

use crate::error::{Error, Result};
use bpe::Bpe;
use split::Special;
use std::path::Path;
use wordpiece::WordPiece;

/// The longest prompt accepted, in bytes: a thousand times what any text encoder reads.
pub const MAX_PROMPT_BYTES: usize = 64 << 10;

/// A tokenizer: CLIP's byte-level byte pairs, or BERT's word pieces.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    words: Words,
    specials: Vec<Special>,
    begin: u32,
    end: u32,
    pad: u32,
    max_length: usize,
    vocab_size: usize,
}

/// How a prompt becomes tokens.
#[derive(Clone, Debug)]
enum Words {
    Clip(Box<Bpe>),
    Bert(WordPiece),
}

/// A prompt as token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// Begin, the prompt, end, then padding: always [`Tokenizer::max_length`] ids.
    pub ids: Vec<u32>,
    /// The number of tokens of the whole prompt, without begin and end and before anything was dropped.
    pub count: usize,
    /// The end of the prompt that did not fit, as the tokenizer reads it (lower case, blanks for white space).
    pub dropped: Option<String>,
}

impl Tokenizer {
    /// Reads a tokenizer folder. CLIP's has `tokenizer.json`, or `vocab.json` with `merges.txt`; BERT's has `vocab.txt`, or a
    /// `tokenizer.json` of word pieces. The padding token and the length come from `special_tokens_map.json` and
    /// `tokenizer_config.json` where those are present; else they are CLIP's end token or `[PAD]`, and 77.
    ///
    /// # Errors
    /// If files are missing, damaged, of another tokenizer, or do not belong together.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        files::open(folder.as_ref())
    }

    /// CLIP's tokenizer from the contents of `vocab.json` and `merges.txt`, padded with the end token to 77 ids.
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
        let (text, tokens) = match &self.words {
            Words::Clip(bpe) => bpe.tokens(prompt, &self.specials),
            Words::Bert(pieces) => pieces.tokens(prompt, &self.specials),
        };
        let mut ids = vec![self.begin];
        ids.extend(tokens.iter().take(room).map(|(id, _)| id));
        ids.push(self.end);
        ids.resize(self.max_length, self.pad);
        // A token may begin inside a character; what is shown then starts with that character.
        let dropped = tokens.get(room).map(|&(_, at)| {
            let start = text.floor_char_boundary(at);
            text[start..].trim().to_owned()
        });
        Ok(Encoding {
            ids,
            count: tokens.len(),
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
