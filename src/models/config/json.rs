//! JSON as Python's library writes it, which has words for numbers that JSON has none for.

use serde_json::{Error, Value};

/// The value of a JSON text, where `NaN`, `Infinity` and `-Infinity` count as absent: diffusers writes one of them into every
/// configuration of a DPM-Solver.
///
/// # Errors
/// If the text is not JSON in any other place.
pub fn from_python_json(text: &str) -> Result<Value, Error> {
    serde_json::from_str(text).or_else(|error| match without_words(text) {
        Some(json) => serde_json::from_str(&json),
        None => Err(error),
    })
}

/// The text with `null` in the place of each word, at its place; `None` where there is none.
fn without_words(text: &str) -> Option<String> {
    const WORDS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    let mut json = String::with_capacity(text.len());
    let (mut rest, mut found) = (text, false);
    while let Some(next) = rest.chars().next() {
        let word = WORDS.into_iter().find(|word| rest.starts_with(word));
        let taken = match word {
            Some(word) => word.len(),
            None if next == '"' => string(rest),
            None => next.len_utf8(),
        };
        let (head, tail) = rest.split_at(taken);
        json.push_str(word.map_or(head, |_| "null"));
        (rest, found) = (tail, found || word.is_some());
    }
    found.then_some(json)
}

/// The length of the string that a text begins with, its quotes included.
fn string(text: &str) -> usize {
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|&(_, c)| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |(at, _)| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_that_are_none_are_absent_and_texts_stay() {
        let text = r#"{"a": -Infinity, "b": [NaN, Infinity], "c\\": "é \" -Infinity\\", "d": 1}"#;
        let value = json!({"a": null, "b": [null, null], "c\\": "é \" -Infinity\\", "d": 1});
        assert_eq!(from_python_json(text).unwrap(), value);
    }

    #[test]
    fn what_is_no_json_is_refused_where_it_ends_to_be() {
        for text in ["{", "{\"a\": Infinite}", "\"NaN", "{\"a\": NaN, b}"] {
            assert!(from_python_json(text).is_err(), "{text}");
        }
    }
}
