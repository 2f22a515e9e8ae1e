//! BERT's words and their pieces (Devlin et al., arXiv:1810.04805; Wu et al., arXiv:1609.08144): what `bert-base-uncased` reads.
//!
//! A prompt loses its control characters, its accents and its upper case; ideographs and punctuation become words of their own. A
//! word then gives up its longest beginning that the vocabulary holds, and again, where `##` marks what does not begin a word; a
//! word that cannot be covered so is unknown as a whole.
//!
//! Equal, id for id, to Hugging Face's `BertTokenizerFast`, which CompVis used, its ranges of ideographs included. One known
//! difference: the reference tells marks, format characters and punctuation by tables of Unicode 8, so a character of those kinds
//! that is younger (of historic scripts, mostly) is a letter there.

use super::split::{Special, cut};
use std::collections::HashMap;
use std::ops::Range;
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

/// Longer words are unknown, whatever they are made of.
const MAX_WORD_CHARS: usize = 100;

/// A vocabulary of word pieces.
#[derive(Clone, Debug)]
pub(super) struct WordPiece {
    /// The pieces that begin a word.
    first: HashMap<String, u32>,
    /// The pieces that continue one, without their `##`.
    inner: HashMap<String, u32>,
    unknown: u32,
}

impl WordPiece {
    /// The pieces of a vocabulary; `unknown` is the id of words that they do not cover.
    pub fn new(vocab: &HashMap<String, u32>, unknown: u32) -> Self {
        let (mut first, mut inner) = (HashMap::new(), HashMap::new());
        for (token, &id) in vocab {
            match token.strip_prefix("##") {
                Some(rest) => inner.insert(rest.to_owned(), id),
                None => first.insert(token.clone(), id),
            };
        }
        Self {
            first,
            inner,
            unknown,
        }
    }

    /// A prompt as the tokenizer reads it, and its tokens, each with where it begins there.
    pub fn tokens(&self, prompt: &str, specials: &[Special]) -> (String, Vec<(u32, usize)>) {
        let (mut text, mut tokens) = (String::new(), vec![]);
        for (part, special) in cut(prompt, specials, false) {
            let start = text.len();
            match special {
                Some(id) => {
                    text.push_str(part);
                    tokens.push((id, start));
                }
                None => {
                    text.push_str(&normalize(part));
                    self.push_words(&text, start, &mut tokens);
                }
            }
        }
        (text, tokens)
    }

    /// Appends the tokens of what follows `start` in `text`.
    fn push_words(&self, text: &str, start: usize, tokens: &mut Vec<(u32, usize)>) {
        let mut word = start;
        for (at, c) in text[start..].char_indices() {
            let (at, punctuation) = (start + at, is_punctuation(c));
            if !punctuation && !c.is_whitespace() {
                continue;
            }
            self.push_word(text, word..at, tokens);
            word = at + c.len_utf8();
            if punctuation {
                self.push_word(text, at..word, tokens);
            }
        }
        self.push_word(text, word..text.len(), tokens);
    }

    /// Appends the tokens of the word at `range` of `text`.
    fn push_word(&self, text: &str, range: Range<usize>, tokens: &mut Vec<(u32, usize)>) {
        match self.pieces(&text[range.clone()]) {
            Some(pieces) => {
                tokens.extend(pieces.into_iter().map(|(id, at)| (id, range.start + at)))
            }
            None => tokens.push((self.unknown, range.start)),
        }
    }

    /// The pieces of a word, each with where it begins, if the vocabulary covers it.
    fn pieces(&self, word: &str) -> Option<Vec<(u32, usize)>> {
        if word.chars().nth(MAX_WORD_CHARS).is_some() {
            return None;
        }
        let (mut pieces, mut at) = (vec![], 0);
        while at < word.len() {
            let known = if at == 0 { &self.first } else { &self.inner };
            let rest = &word[at..];
            let (end, id) = ends(rest).find_map(|end| Some((end, *known.get(&rest[..end])?)))?;
            pieces.push((id, at));
            at += end;
        }
        Some(pieces)
    }
}

/// Where a beginning of `text` may end, the whole text first.
fn ends(text: &str) -> impl Iterator<Item = usize> {
    text.char_indices().rev().map(|(at, c)| at + c.len_utf8())
}

/// Lower case without accents, every white space a blank, blanks around ideographs, no control characters.
fn normalize(text: &str) -> String {
    text.chars()
        .filter(|&c| !is_dropped(c))
        .flat_map(|c| {
            let blank = is_ideograph(c).then_some(' ');
            let c = if c.is_whitespace() { ' ' } else { c };
            blank.into_iter().chain([c]).chain(blank)
        })
        .nfd()
        .filter(|c| c.general_category() != GeneralCategory::NonspacingMark)
        .flat_map(char::to_lowercase)
        .collect()
}

fn is_dropped(c: char) -> bool {
    match c {
        '\t' | '\n' | '\r' => false,
        '\u{fffd}' => true,
        _ => matches!(
            c.general_category(),
            GeneralCategory::Control | GeneralCategory::Format | GeneralCategory::PrivateUse
        ),
    }
}

/// The blocks that the reference writes without blanks between words.
fn is_ideograph(c: char) -> bool {
    matches!(
        u32::from(c),
        0x3400..=0x4dbf
            | 0x4e00..=0x9fff
            | 0xf900..=0xfaff
            | 0x20000..=0x2a6df
            | 0x2a700..=0x2b81f
            | 0x2b920..=0x2ceaf
            | 0x2f800..=0x2fa1f
    )
}

fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || c.general_category_group() == GeneralCategoryGroup::Punctuation
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(prompt: &str) -> Vec<u32> {
        let tokens = [
            "[UNK]", "un", "##aff", "##able", "a", "##a", "!", "字", "aff",
        ];
        let vocab = tokens.iter().map(|t| t.to_string()).zip(0..).collect();
        let (_, tokens) = WordPiece::new(&vocab, 0).tokens(prompt, &[]);
        tokens.into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn the_longest_beginning_goes_first_and_what_is_left_must_be_covered() {
        assert_eq!(texts("unaffable aff"), [1, 2, 3, 8]);
        assert_eq!(texts("unaffably a"), [0, 4]);
        assert_eq!(texts("a!!a"), [4, 6, 6, 4]);
        assert_eq!(texts("a字a"), [4, 7, 4]);
        assert_eq!(texts(&"a".repeat(100)).len(), 100);
        assert_eq!(texts(&"a".repeat(101)), [0]);
    }

    #[test]
    fn normalisation_drops_case_accents_and_controls() {
        assert_eq!(normalize("Ünäff\u{0}\u{200b}ABLE\u{a0}É\n"), "unaffable e ");
        assert_eq!(normalize("x字y"), "x 字 y");
    }
}
