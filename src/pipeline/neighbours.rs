//! A database of images, as vectors of CLIP's: what a retrieval-augmented model is shown besides the prompt.
//!
//! The search is exact. The device scores every row in its own precision, which may be halves; rows that could be among the nearest, for
//! all that precision leaves open, are then scored again in f64.
//!
//! # Source
//! Blattmann et al., arXiv:2204.11824; `Searcher` in CompVis's `knn2img.py`.

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::image::read_npz;
use crate::session::Session;
use crate::tensor::Tensor;
use crate::weights::Weights;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows that are scored at once.
const CHUNK: usize = 1 << 13;

/// How far a device's score of two vectors of length 1 may be from the true one: both are rounded to halves, and so is their product's
/// sum, each by at most 2^-11 of it; what is too small for a normal half adds less than as much again.
const UNCERTAINTY: f64 = 1.0 / 512.0;

/// Vectors of images, a row each.
#[derive(Clone, Debug)]
pub struct Database {
    path: PathBuf,
    rows: Tensor,
}

/// A row of a database, and how near it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbour {
    /// Its number.
    pub row: usize,
    /// The cosine of the angle between it and what was searched for.
    pub score: f64,
}

impl Database {
    /// Reads the array `embedding` of a .npz archive.
    ///
    /// # Errors
    /// If the file cannot be read, or holds no such array of rows, or one that holds NaN or infinity.
    pub fn open(path: &Path) -> Result<Self> {
        let rows = read_npz(path, "embedding")?;
        let problem = match (rows.shape().dims(), rows.count_not_finite()) {
            ([_, _], 0) if !rows.data().is_empty() => None,
            ([_, _], 0) => Some("is empty".to_owned()),
            ([_, _], bad) => Some(format!("holds NaN or infinity in {bad} places")),
            (other, _) => Some(format!(
                "has the sizes {other:?}, where rows of one width are expected"
            )),
        };
        match problem {
            None => Ok(Self {
                path: path.to_owned(),
                rows,
            }),
            Some(problem) => Err(Error::file(path, format!("array `embedding` {problem}"))),
        }
    }

    /// Refuses a database whose vectors are not of `width` numbers.
    ///
    /// # Errors
    /// As said.
    pub fn check_width(&self, width: usize) -> Result<()> {
        let found = self.rows.shape().channels();
        match found == width {
            true => Ok(()),
            false => Err(Error::file(
                &self.path,
                format!("holds vectors of {found} numbers, and the model takes {width}"),
            )),
        }
    }

    /// How many rows there are.
    pub fn count(&self) -> usize {
        self.rows.shape().rows()
    }

    /// A row, as it is stored.
    pub fn row(&self, index: usize) -> &[f32] {
        let width = self.rows.shape().channels();
        &self.rows.data()[index * width..][..width]
    }

    /// The `count` rows nearest to `query` by their angle, nearest first; of equally near ones the lowest numbers.
    ///
    /// # Errors
    /// If the query has another width or no direction, there are fewer rows, or the device fails.
    pub fn nearest<B: Backend>(
        &self,
        backend: &Arc<B>,
        query: &[f32],
        count: usize,
    ) -> Result<Vec<Neighbour>> {
        self.check_width(query.len())?;
        if count > self.count() {
            return Err(Error::request(format!(
                "{count} neighbours were asked for, and {} holds {} vectors",
                self.path.display(),
                self.count()
            )));
        }
        let query = direction(query).ok_or_else(|| {
            Error::request("the vector to search for is zero, or not finite: it has no neighbours")
        })?;
        if count == 0 {
            return Ok(vec![]);
        }
        let scores = self.scores(backend, &query)?;
        let mut sorted = scores.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let least = f64::from(sorted[count - 1]) - 2.0 * UNCERTAINTY;
        let candidates = scores
            .iter()
            .enumerate()
            .filter(|(_, score)| f64::from(**score) >= least);
        let mut exact: Vec<Neighbour> = candidates
            .map(|(row, _)| Neighbour {
                row,
                score: self.cosine(row, &query),
            })
            .collect();
        exact.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.row.cmp(&b.row)));
        exact.truncate(count);
        Ok(exact)
    }

    /// The device's score of every row.
    fn scores<B: Backend>(&self, backend: &Arc<B>, query: &[f32]) -> Result<Vec<f32>> {
        let width = query.len();
        let weights = Weights::of([("query.weight", &Tensor::new([1, width], query.to_vec())?)])?;
        let chunk = CHUNK.min(self.count());
        let mut graph = Graph::new();
        let rows = graph.input("rows", [chunk, width]);
        let scores = graph.scope("query", |g| g.linear(rows, 1, false))?;
        graph.output("scores", scores);
        let mut session = Session::new(backend, graph, &weights)?;
        let mut scores = Vec::with_capacity(self.count());
        for first in (0..self.count()).step_by(chunk) {
            let mut directions = Vec::with_capacity(chunk * width);
            for row in first..(first + chunk).min(self.count()) {
                directions.extend(direction(self.row(row)).unwrap_or_else(|| vec![0.0; width]));
            }
            directions.resize(chunk * width, 0.0);
            session.set("rows", &Tensor::new([chunk, width], directions)?)?;
            session.run()?;
            scores.extend_from_slice(session.get("scores")?.data());
        }
        scores.truncate(self.count());
        Ok(scores)
    }

    fn cosine(&self, row: usize, query: &[f32]) -> f64 {
        let row = self.row(row);
        let product = |a: &[f32], b: &[f32]| -> f64 {
            a.iter()
                .zip(b)
                .map(|(&a, &b)| f64::from(a) * f64::from(b))
                .sum()
        };
        let length = product(row, row).sqrt();
        if length > 0.0 {
            product(row, query) / length
        } else {
            0.0
        }
    }
}

/// A vector of length 1; `None` for one that has no direction.
fn direction(vector: &[f32]) -> Option<Vec<f32>> {
    let length = vector
        .iter()
        .map(|&x| f64::from(x) * f64::from(x))
        .sum::<f64>()
        .sqrt();
    let usable = length > 0.0 && length.is_finite();
    usable.then(|| {
        vector
            .iter()
            .map(|&x| (f64::from(x) / length) as f32)
            .collect()
    })
}
