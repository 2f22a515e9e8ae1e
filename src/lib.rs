//! Latent diffusion on a hand-written compute engine.
#![deny(missing_docs)]

pub mod error;
pub mod graph;
pub mod ops;
pub mod tensor;
pub mod tokenizer;
pub mod weights;

pub use error::{Error, Result};
pub use graph::Graph;
pub use tensor::{Shape, Tensor};
