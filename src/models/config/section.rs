//! Reading a configuration's keys, with errors that say which key of which file, what was found and what was expected.

use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// One object of a configuration file. A key that is `null` counts as absent.
pub(super) struct Section<'a> {
    file: &'a Path,
    /// The keys that lead here, with a final dot; empty at the root.
    scope: String,
    map: &'a Map<String, Value>,
}

impl<'a> Section<'a> {
    /// The whole of a file.
    pub(super) fn root(file: &'a Path, value: &'a Value) -> Result<Self> {
        let map = value
            .as_object()
            .ok_or_else(|| Error::file(file, "is not a configuration: it has no keys"))?;
        Ok(Self {
            file,
            scope: String::new(),
            map,
        })
    }

    /// The value of a key that is there and not null.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether a key is there, null or not.
    pub(super) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// An error about the section as a whole.
    pub(super) fn error(&self, problem: &str) -> Error {
        let scope = self.scope.trim_end_matches('.');
        match scope {
            "" => Error::file(self.file, problem),
            _ => Error::file(self.file, format!("under `{scope}`, {problem}")),
        }
    }

    /// An error about a key.
    pub(super) fn refuse(&self, key: &str, problem: impl AsRef<str>) -> Error {
        let problem = format!("key `{}{key}` {}", self.scope, problem.as_ref());
        Error::file(self.file, problem)
    }

    /// An error about the value of a key.
    pub(super) fn unfit(&self, key: &str, expected: &str) -> Error {
        let found = self.get(key).map_or("nothing".into(), Value::to_string);
        let found: String = found.chars().take(80).collect();
        self.refuse(key, format!("is {found}, where {expected} is expected"))
    }

    /// The object under a key.
    pub(super) fn section(&self, key: &str) -> Result<Option<Section<'a>>> {
        self.get(key)
            .map(|value| {
                Ok(Section {
                    file: self.file,
                    scope: format!("{}{key}.", self.scope),
                    map: value
                        .as_object()
                        .ok_or_else(|| self.unfit(key, "an object"))?,
                })
            })
            .transpose()
    }

    /// The object under a key that must be there.
    pub(super) fn need_section(&self, key: &str) -> Result<Section<'a>> {
        self.section(key)?
            .ok_or_else(|| self.refuse(key, "is missing"))
    }

    /// A whole number that is not negative.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>> {
        self.get(key)
            .map(|value| whole(value).ok_or_else(|| self.unfit(key, "a whole number")))
            .transpose()
    }

    /// A whole number that must be there.
    pub(super) fn need_size(&self, key: &str) -> Result<usize> {
        self.size(key)?
            .ok_or_else(|| self.refuse(key, "is missing"))
    }

    /// A list of whole numbers; a single number is a list of one.
    pub(super) fn sizes(&self, key: &str) -> Result<Option<Vec<usize>>> {
        let unfit = || self.unfit(key, "a list of whole numbers");
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| whole(item).ok_or_else(unfit))
                .collect::<Result<_>>()
                .map(Some),
            Some(value) => Ok(Some(vec![whole(value).ok_or_else(unfit)?])),
        }
    }

    /// As [`sizes`](Self::sizes), with a single number repeated to `count`.
    pub(super) fn sizes_each(&self, key: &str, count: usize) -> Result<Option<Vec<usize>>> {
        match self.sizes(key)? {
            Some(sizes) if sizes.len() == 1 => Ok(Some(vec![sizes[0]; count])),
            Some(sizes) if sizes.len() != count => {
                Err(self.unfit(key, &format!("one number, or a list of {count}")))
            }
            sizes => Ok(sizes),
        }
    }

    /// A number.
    pub(super) fn real(&self, key: &str) -> Result<Option<f64>> {
        self.get(key)
            .map(|value| {
                value
                    .as_f64()
                    .filter(|number| number.is_finite())
                    .ok_or_else(|| self.unfit(key, "a number"))
            })
            .transpose()
    }

    /// A truth value, `default` where it is absent.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| self.unfit(key, "true or false")),
        }
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key)
            .map(|value| value.as_str().ok_or_else(|| self.unfit(key, "a text")))
            .transpose()
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        self.get(key)
            .map(|value| {
                value
                    .as_array()
                    .and_then(|items| items.iter().map(Value::as_str).collect())
                    .ok_or_else(|| self.unfit(key, "a list of texts"))
            })
            .transpose()
    }

    /// Refuses the file if one of these keys is there with another value than the one that is implemented, or a list of it.
    pub(super) fn only(&self, allowed: &[(&str, Value)]) -> Result<()> {
        for (key, implemented) in allowed {
            let found = self.get(key);
            let equal = |found: &Value| {
                found == implemented
                    || found.as_f64().is_some() && found.as_f64() == implemented.as_f64()
            };
            let same = found.is_none_or(|found| match found {
                Value::Array(each) => found == implemented || each.iter().all(equal),
                found => equal(found),
            });
            if !same {
                let only = if implemented.is_null() {
                    "it is not supported".into()
                } else {
                    format!("only {implemented} is supported")
                };
                let found = found.map(Value::to_string).unwrap_or_default();
                let found: String = found.chars().take(80).collect();
                return Err(self.refuse(key, format!("is {found}: {only}")));
            }
        }
        Ok(())
    }
}

/// A number that is whole and not negative, however it is written (`1000`, `1e3`).
fn whole(value: &Value) -> Option<usize> {
    if let Some(number) = value.as_u64() {
        return usize::try_from(number).ok();
    }
    let number = value.as_f64()?;
    (number >= 0.0 && number < 2f64.powi(52) && number.fract() == 0.0).then_some(number as usize)
}
