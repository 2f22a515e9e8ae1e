//! The published networks: what a model on disk is, and the graphs its configuration describes.

pub mod config;
mod hub;
mod open;
mod original;

pub use open::{ModelFiles, OpenOptions, from_embedded, open};
