//! Guidance for some noise levels only: the steps at the others ask the network once and not twice.
//!
//! # Source
//! Kynkäänniemi et al., arXiv:2404.07724: at high levels guidance costs variety, and at low ones it changes next to nothing.

use crate::error::{Error, Result};
use crate::schedule::Level;
use std::fmt::{self, Display, Formatter};

/// The noise levels at which a request is guided: those above the first number and up to the second, as ratios of noise to signal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    start: f64,
    end: f64,
}

impl Interval {
    /// The levels above `start` and up to `end`, which may be infinite.
    ///
    /// # Errors
    /// If a number is negative or NaN, or the end is not beyond the start.
    pub fn new(start: f64, end: f64) -> Result<Self> {
        match 0.0 <= start && start < end {
            true => Ok(Self { start, end }),
            false => Err(refused(&format!("{start}:{end}"))),
        }
    }

    /// Reads `START:END`.
    ///
    /// # Errors
    /// If there are no two numbers there, or as [`new`](Self::new).
    pub fn parse(text: &str) -> Result<Self> {
        let ends = text.split_once([':', ',']);
        let ends = ends.and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
        let (start, end) = ends.ok_or_else(|| refused(text))?;
        Self::new(start, end)
    }

    /// Whether a level lies in it.
    pub fn holds(self, level: Level) -> bool {
        let ratio = level.ratio();
        self.start < ratio && ratio <= self.end
    }
}

impl Display for Interval {
    /// As [`parse`](Self::parse) reads it.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.start, self.end)
    }
}

fn refused(text: &str) -> Error {
    Error::request(format!(
        "guidance interval `{text}`: two noise levels START:END are expected, from 0 on and the second above the first, such as 0.3:5 (inf: no end)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_read_as_it_is_written_and_nothing_else_is() {
        for text in ["0.28:5.42", "0:inf", "1:1.5"] {
            assert_eq!(Interval::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Interval::parse("1, 2").unwrap().to_string(), "1:2");
        for text in [
            "", "3", "a:b", "1:", ":1", "1:2:3", "2:2", "3:2", "-1:2", "nan:2", "1:nan", "inf:inf",
        ] {
            let refused = Interval::parse(text).unwrap_err();
            assert_eq!(refused.exit_code(), 2, "{text}");
            assert!(refused.to_string().contains("START:END"), "{refused}");
        }
    }

    #[test]
    fn a_level_at_the_end_is_guided_and_one_at_the_start_is_not() {
        let interval = Interval::new(1.0, 3.0).unwrap();
        let holds = |ratio| interval.holds(Level::from_ratio(0.0, ratio));
        assert!(holds(1.5) && !holds(0.5) && !holds(3.5));
        let exact = |alpha: f64, sigma: f64| {
            interval.holds(Level {
                timestep: 0.0,
                alpha,
                sigma,
            })
        };
        assert!(exact(0.25, 0.75) && !exact(0.5, 0.5));
        assert!(!exact(0.0, 1.0), "noise alone");
        let all = Interval::new(0.0, f64::INFINITY).unwrap();
        assert!(all.holds(Level {
            alpha: 0.0,
            sigma: 1.0,
            ..Level::CLEAN
        }));
    }
}
