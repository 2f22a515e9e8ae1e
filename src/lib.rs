//! Latent diffusion on a hand-written compute engine.
#![deny(missing_docs)]

pub mod backend;
pub mod cpu;
pub mod error;
pub mod graph;
pub mod image;
pub mod models;
pub mod ops;
pub mod parity;
pub mod pipeline;
pub mod plan;
pub mod rng;
pub mod sampler;
pub mod schedule;
pub mod session;
pub mod tensor;
pub mod tokenizer;
pub mod weights;

pub use error::{Error, Result};
pub use graph::Graph;
pub use session::Session;
pub use tensor::{Shape, Tensor};
pub use weights::Weights;
