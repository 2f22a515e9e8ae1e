//! Numbers as they are typed, refused in words that are not the parser's own.

use std::num::{IntErrorKind, ParseIntError};
use std::str::FromStr;

/// A whole number, which may be negative: what it must be is said by who uses it.
///
/// # Errors
/// If the text is no such number, or has too many digits.
pub fn whole<T: FromStr<Err = ParseIntError>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: ParseIntError| {
        match error.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "the number is too large",
            _ => "expected a whole number",
        }
        .to_owned()
    })
}

/// A whole number that is not negative.
///
/// # Errors
/// As [`whole`].
pub fn count(text: &str) -> Result<usize, String> {
    whole(text).map_err(|problem| match text.starts_with('-') {
        true => "expected a whole number from 0 on".to_owned(),
        false => problem,
    })
}

/// A number.
///
/// # Errors
/// If the text is none.
pub fn real(text: &str) -> Result<f64, String> {
    text.parse()
        .map_err(|_| "expected a number such as 7.5".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_refused_in_plain_words() {
        assert_eq!(whole::<i64>("-12"), Ok(-12));
        assert!(whole::<i64>("1.5").unwrap_err().contains("whole number"));
        let large = whole::<i64>("99999999999999999999").unwrap_err();
        assert!(large.contains("too large"));
        assert_eq!(count("0"), Ok(0));
        assert!(count("-1").unwrap_err().contains("from 0 on"));
        assert_eq!(real("7.5"), Ok(7.5));
        assert!(real("7,5").unwrap_err().contains("such as 7.5"));
    }
}
