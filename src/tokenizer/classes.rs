//! Classes by their names.

use crate::error::{Error, Result, nearest};
use serde::Deserialize;
use std::path::Path;

/// The names of ImageNet's 1000 classes in their order, as torchvision has them (`assets/imagenet` holds its licence).
const IMAGENET: &str = include_str!("../../assets/imagenet/classes.txt");
/// Files of names are of some kilobytes.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// The classes that a model knows, by number and by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassNames {
    names: Vec<String>,
    stride: usize,
}

/// `classes.json`: a list, or names with what a layout's tokens are counted by.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a list of names is expected, or names with their stride"
)]
enum Listed {
    Names(Vec<String>),
    Counted { names: Vec<String>, stride: usize },
}

impl ClassNames {
    /// ImageNet's 1000 classes.
    pub fn imagenet() -> Self {
        Self::new(IMAGENET.lines().map(str::to_owned).collect())
    }

    fn new(names: Vec<String>) -> Self {
        let stride = names.len();
        Self { names, stride }
    }

    /// Reads a file of names, in the order of the classes' numbers: a text file with a name a line, or a JSON file with a list of
    /// them or with `{"names": [...], "stride": n}`.
    ///
    /// # Errors
    /// If the file cannot be read, or holds something else.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let unreadable =
            |error: std::io::Error| Error::file(path, format!("cannot be read: {error}"));
        if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_FILE_BYTES {
            return Err(Error::file(path, "is too large to be a list of classes"));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let names = match path.extension().is_some_and(|found| found == "json") {
            false => Self::new(text.lines().map(|line| line.trim().to_owned()).collect()),
            true => match serde_json::from_str(&text) {
                Ok(Listed::Names(names)) => Self::new(names),
                Ok(Listed::Counted { names, stride }) => Self { names, stride },
                Err(_) => {
                    return Err(Error::file(
                        path,
                        "is not a list of classes: expected [\"name\", ...] or {\"names\": [...], \"stride\": n}",
                    ));
                }
            },
        };
        if names.names.is_empty() {
            return Err(Error::file(path, "names no class"));
        }
        match names.names.iter().position(String::is_empty) {
            Some(number) => Err(Error::file(path, format!("has no name for class {number}"))),
            None if names.stride < names.names.len() => Err(Error::file(
                path,
                format!(
                    "has {} names and the stride {}, which must not be less",
                    names.names.len(),
                    names.stride
                ),
            )),
            None => Ok(names),
        }
    }

    /// How many classes have names.
    pub fn count(&self) -> usize {
        self.names.len()
    }

    /// How far apart the tokens of one class lie in a layout, for objects of different properties: the number of classes that were
    /// counted when the model was trained.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The name of a class.
    pub fn name(&self, class: usize) -> Option<&str> {
        self.names.get(class).map(String::as_str)
    }

    /// The class of this name; in any letter case, where no class has it exactly (`Cardigan` is a dog, `cardigan` a garment).
    ///
    /// # Errors
    /// If there is none, with the nearest name.
    pub fn find(&self, name: &str) -> Result<usize> {
        let wanted = name.trim();
        if let Some(class) = self.names.iter().position(|name| name == wanted) {
            return Ok(class);
        }
        let wanted = wanted.to_lowercase();
        let known: Vec<String> = self.names.iter().map(|name| name.to_lowercase()).collect();
        let place = |name: &str| known.iter().position(|known| known == name);
        place(&wanted).ok_or_else(|| {
            let nearest = nearest(&wanted, known.iter().map(String::as_str)).and_then(place);
            let hint = match nearest {
                Some(class) => format!("; the nearest is `{}` ({class})", self.names[class]),
                None => format!(
                    "; classes have numbers from 0 to {}, and names such as `{}`",
                    self.names.len().saturating_sub(1),
                    self.names.first().map_or("", String::as_str)
                ),
            };
            Error::request(format!(
                "no class is called `{}`{hint}",
                name.escape_debug()
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imagenet_has_a_thousand_names_and_each_is_found() {
        let names = ClassNames::imagenet();
        assert_eq!(names.count(), 1000);
        for class in 0..1000 {
            assert_eq!(names.find(names.name(class).unwrap()).unwrap(), class);
        }
        assert_eq!(names.find("Golden Retriever").unwrap(), 207);
        assert_eq!(names.name(1000), None);
    }

    #[test]
    fn the_nearest_name_is_told() {
        let error = ClassNames::imagenet().find("goldn retriver").unwrap_err();
        let error = error.to_string();
        assert!(error.contains("`golden retriever` (207)"), "{error}");
        let error = ClassNames::imagenet().find("qqqqqqqqqqq").unwrap_err();
        assert!(error.to_string().contains("from 0 to 999"), "{error}");
    }

    #[test]
    fn files_of_names_are_text_or_json() {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            ClassNames::open(path)
        };
        let lines = open("classes.txt", "Cat\n Dog \n").unwrap();
        assert_eq!(lines, open("list.json", r#"["Cat", "Dog"]"#).unwrap());
        let counted = open("counted.json", r#"{"names": ["Cat"], "stride": 7}"#).unwrap();
        assert_eq!((counted.count(), counted.stride()), (1, 7));
        for (name, text, word) in [
            ("gap.txt", "Cat\n\nDog\n", "class 1"),
            (
                "few.json",
                r#"{"names": ["a", "b"], "stride": 1}"#,
                "stride 1",
            ),
            ("other.json", "{}", "list of classes"),
        ] {
            let error = open(name, text).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
            assert_eq!(error.exit_code(), 3);
        }
    }
}
