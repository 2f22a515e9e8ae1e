//! Every way the library can refuse, as sentences a person can act on.
//!
//! One enum for the whole crate: a caller matches on *kinds of trouble* (the model file, the request, the
//! device, the output), never on the room of the house that noticed. The command line maps each kind to
//! its documented exit code with [`Error::exit_code`], so the mapping stands beside the variants it covers.

use std::path::PathBuf;

/// The crate's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the library could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A request that cannot be carried out as it stands: sizes, steps, names of samplers.
    #[error("{0}")]
    Request(String),

    /// A model, tokenizer, configuration or image file that is missing, damaged or of the wrong kind.
    #[error("{path}: {problem}", path = path.display())]
    File {
        /// The file at fault.
        path: PathBuf,
        /// What is wrong with it and what to do, as a sentence without the path.
        problem: String,
    },

    /// A tensor that is missing, or whose shape or element type is not the one the network needs.
    #[error("{path}: tensor `{tensor}` {problem}", path = path.display())]
    Tensor {
        /// The file searched.
        path: PathBuf,
        /// The name asked for, as the graph knows it.
        tensor: String,
        /// What was expected and what was found.
        problem: String,
    },

    /// A graph whose operands do not fit together: a configuration that describes no network.
    #[error("node `{node}`: {problem}")]
    Shape {
        /// The node's path, equal to the checkpoint's module path.
        node: String,
        /// The rule that was broken, with the shapes met.
        problem: String,
    },

    /// A device that is absent or cannot be used.
    #[error("{0}")]
    Device(String),

    /// Not enough memory for the plan.
    #[error("{0}")]
    Memory(String),

    /// A result that holds NaN or infinity, with the stage that produced it.
    #[error("{stage} produced {what}; {hint}", stage = stage, what = what, hint = hint)]
    NotFinite {
        /// The stage or node: `unet, step 3`, `decode`.
        stage: String,
        /// What was found: `NaN in 12 of 4096 values`.
        what: String,
        /// What to do about it.
        hint: String,
    },

    /// An output that cannot be written.
    #[error("cannot write {path}: {problem}", path = path.display())]
    Output {
        /// The file or folder.
        path: PathBuf,
        /// The system's own words and what to do.
        problem: String,
    },

    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// A refused request.
    pub fn request(sentence: impl Into<String>) -> Self {
        Self::Request(sentence.into())
    }

    /// A file that cannot be used.
    pub fn file(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::File {
            path: path.into(),
            problem: problem.into(),
        }
    }

    /// Operands that do not fit a node.
    pub fn shape(node: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Shape {
            node: node.into(),
            problem: problem.into(),
        }
    }

    /// An output that cannot be written.
    pub fn output(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::Output {
            path: path.into(),
            problem: problem.into(),
        }
    }

    /// The process exit code documented in the README.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFinite { .. } => 1,
            Self::Request(_) => 2,
            Self::File { .. } | Self::Tensor { .. } | Self::Shape { .. } => 3,
            Self::Device(_) => 4,
            Self::Memory(_) => 5,
            Self::Output { .. } => 6,
            Self::Interrupted => 130,
        }
    }
}

/// The candidate nearest to `wanted` by edit distance, if any is near enough to be what was meant.
pub fn nearest<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (wanted.chars().count() / 3).max(2);
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(wanted, candidate), candidate))
        .min()
        .filter(|(distance, _)| *distance <= limit)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance, one row at a time.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_name_is_found_and_far_names_are_not() {
        assert_eq!(nearest("eular", ["ddim", "euler", "heun"]), Some("euler"));
        assert_eq!(nearest("banana", ["ddim", "euler", "heun"]), None);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }
}
