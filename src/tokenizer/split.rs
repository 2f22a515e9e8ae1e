//! From a prompt to the pieces that byte-pair merges may not cross.
//!
//! Three passes, in the order the reference makes them: special tokens are cut out, what lies between is normalised (NFC, white
//! space collapsed, lower case), and the rest is split by CLIP's pattern
//! `<|startoftext|>|<|endoftext|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+`.
//! The pattern is a page of code rather than a regular expression: its alternatives never overlap but in their first
//! character. Letters and numbers are the general categories of Unicode 16, as in the reference; `char::is_alphabetic` is another
//! property (it counts Roman numerals and vowel signs as letters).
//!
//! One known difference: the reference composes by tables of about Unicode 9. A letter under several marks of which one is
//! younger (Sogdian, Kawi and other historic scripts) may keep them in another order there.

use std::ops::Range;
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// Text that stands for one token wherever it occurs in a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Special {
    pub content: String,
    pub id: u32,
    /// Whether it is looked for after normalisation (so in any letter case) instead of before.
    pub normalized: bool,
}

/// A prompt as the tokenizer reads it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pieces {
    /// The normalised prompt.
    pub text: String,
    /// Runs of `text` in order, each with its id if it is a special token.
    pub runs: Vec<(Range<usize>, Option<u32>)>,
}

/// Cuts a prompt into words and special tokens.
pub(super) fn split(prompt: &str, specials: &[Special]) -> Pieces {
    let mut pieces = Pieces::default();
    for (raw, id) in cut(prompt, specials, false) {
        if id.is_some() {
            pieces.push(raw, id);
            continue;
        }
        for (text, id) in cut(&normalize(raw), specials, true) {
            match id {
                Some(_) => pieces.push(text, id),
                None => pieces.push_words(text),
            }
        }
    }
    pieces
}

impl Pieces {
    fn push(&mut self, text: &str, id: Option<u32>) {
        let start = self.text.len();
        self.text.push_str(text);
        self.runs.push((start..self.text.len(), id));
    }

    fn push_words(&mut self, text: &str) {
        let start = self.text.len();
        self.text.push_str(text);
        let words = words(text).into_iter();
        self.runs
            .extend(words.map(|word| (start + word.start..start + word.end, None)));
    }
}

/// NFC, every run of white space as one blank, lower case character by character (so a final sigma stays a plain one).
pub(super) fn normalize(text: &str) -> String {
    let mut normalized = String::with_capacity(text.len());
    let mut blank = false;
    for c in text.nfc() {
        if !c.is_whitespace() {
            normalized.extend(c.to_lowercase());
        } else if !blank {
            normalized.push(' ');
        }
        blank = c.is_whitespace();
    }
    normalized
}

/// The text between special tokens and the tokens themselves; of several that start at one place, the longest.
pub(super) fn cut<'a>(
    text: &'a str,
    specials: &[Special],
    normalized: bool,
) -> Vec<(&'a str, Option<u32>)> {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    while let Some(c) = text[at..].chars().next() {
        let found = specials
            .iter()
            .filter(|s| s.normalized == normalized && text[at..].starts_with(&s.content))
            .max_by_key(|s| s.content.len());
        let Some(special) = found else {
            at += c.len_utf8();
            continue;
        };
        if start < at {
            parts.push((&text[start..at], None));
        }
        start = at + special.content.len();
        parts.push((&text[at..start], Some(special.id)));
        at = start;
    }
    if start < text.len() {
        parts.push((&text[start..], None));
    }
    parts
}

/// What the pattern tells apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Number,
    Space,
    Other,
}

fn class(c: char) -> Class {
    match c.general_category_group() {
        GeneralCategoryGroup::Letter => Class::Letter,
        GeneralCategoryGroup::Number => Class::Number,
        _ if c.is_whitespace() => Class::Space,
        _ => Class::Other,
    }
}

const CONTRACTIONS: [&str; 7] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];
const MARKERS: [&str; 2] = ["<|startoftext|>", "<|endoftext|>"];

/// The words of a normalised text, as byte ranges.
fn words(text: &str) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let starts = |patterns: &[&'static str]| {
            let found = patterns.iter().find(|p| rest.starts_with(**p));
            found.map(|p| p.len())
        };
        if let Some(length) = starts(&MARKERS) {
            // A marker that is not a special token here: the reference's byte-level pass splits it once more.
            words.extend([
                at..at + 2,
                at + 2..at + length - 2,
                at + length - 2..at + length,
            ]);
            at += length;
            continue;
        }
        let length = match (starts(&CONTRACTIONS), class(first)) {
            (Some(length), _) => length,
            (None, Class::Number) => first.len_utf8(),
            (None, class_of_run) => rest
                .find(|c| class(c) != class_of_run)
                .unwrap_or(rest.len()),
        };
        if class(first) != Class::Space {
            words.push(at..at + length);
        }
        at += length;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(prompt: &str, specials: &[Special]) -> Vec<String> {
        let pieces = split(prompt, specials);
        let runs = pieces.runs.iter();
        runs.map(|(range, id)| {
            format!(
                "{}{}",
                &pieces.text[range.clone()],
                if id.is_some() { "*" } else { "" }
            )
        })
        .collect()
    }

    #[test]
    fn words_follow_the_pattern() {
        assert_eq!(
            texts("It's  A\tDog!!, 42ⅷ", &[]),
            ["it", "'s", "a", "dog", "!!,", "4", "2", "ⅷ"]
        );
        assert_eq!(
            texts("we'll o'clock ''s", &[]),
            ["we", "'ll", "o", "'", "clock", "''", "s"]
        );
        assert_eq!(texts("  \u{3000} ", &[]), [""; 0]);
        assert_eq!(texts("<|EndOfText|>!", &[]), ["<|", "endoftext", "|>", "!"]);
    }

    #[test]
    fn normalisation_composes_collapses_and_lowers_each_character() {
        assert_eq!(normalize("E\u{301}\r\n\u{a0}X"), "é x");
        assert_eq!(normalize("ΟΔΟΣ İ"), "οδοσ i\u{307}");
    }

    #[test]
    fn special_tokens_are_cut_out_before_or_after_normalisation() {
        let special = |normalized| Special {
            content: "<|endoftext|>".into(),
            id: 7,
            normalized,
        };
        assert_eq!(
            texts("A<|endoftext|>B", &[special(false)]),
            ["a", "<|endoftext|>*", "b"]
        );
        assert_eq!(texts("<|ENDOFTEXT|>", &[special(true)]), ["<|endoftext|>*"]);
        assert_eq!(
            texts("<|ENDOFTEXT|>", &[special(false)]),
            ["<|", "endoftext", "|>"]
        );
    }
}
