//! Latent diffusion (Rombach et al., [arXiv:2112.10752](https://arxiv.org/abs/2112.10752)) on a compute engine written for it.
//!
//! A latent diffusion model draws in a small space: an autoencoder turns images into latents and back, a UNet learns to remove
//! noise from latents, and a text encoder says what the picture shall be of. Here each of these is a [`Graph`] of textbook
//! operations, built from a model's configuration; a [`Session`] makes a graph runnable on a device, with [`Weights`] that stay
//! mapped as they are on disk; a [`sampler`] is a table of coefficients; and a [`Pipeline`](pipeline::Pipeline) joins them. A device
//! is the processor ([`cpu`]), or an NVIDIA GPU through kernels of our own, which an emulator runs on the processor too ([`cuda`]).
//!
//! ```no_run
//! use latent_diffusion::cpu::Cpu;
//! use latent_diffusion::image::{Existing, write_png};
//! use latent_diffusion::pipeline::{Model, Pipeline, Request};
//! use std::sync::Arc;
//!
//! # fn main() -> latent_diffusion::Result<()> {
//! let model = Model::open("stable-diffusion-v1-5", &Default::default())?;
//! let request = Request::new(&model, "a red balloon over snowy mountains")?;
//! let device = Cpu::new(0, Arc::default())?; // a thread per core, and never stopped
//! let images = Pipeline::new(Arc::new(device), model).sample(&request, &mut |event| eprintln!("{event:?}"))?;
//! write_png("balloon.png".as_ref(), &images[0], &[], Existing::Keep)?;
//! # Ok(())
//! # }
//! ```
//!
//! The rooms stand on floors, and a room names only what is below it: [`error`], [`tensor`]; [`graph`] with [`ops`], and
//! [`weights`]; [`plan`]; the [`backend`] seam; [`cpu`], [`cuda`]; [`session`]; [`models`], [`tokenizer`], [`rng`], [`image`];
//! [`schedule`], [`selfcheck`]; [`sampler`]; [`pipeline`]; [`parity`]. So any of them can be read, tested and replaced without what stands on it.
//!
//! Nothing here reads the environment, prints or exits, and nothing panics on input: every failure is an [`Error`], one sentence
//! that says what, where, and what to do.
#![deny(missing_docs)]

pub mod backend;
pub mod cpu;
pub mod cuda;
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
pub mod selfcheck;
pub mod session;
pub mod tensor;
pub mod tokenizer;
pub mod weights;

pub use error::{Error, Result};
pub use graph::Graph;
pub use session::Session;
pub use tensor::{Shape, Tensor};
pub use weights::Weights;
