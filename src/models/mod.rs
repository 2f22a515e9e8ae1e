//! The published networks: what a model on disk is, and the graphs its configuration describes.

pub mod autoencoder;
pub mod bert;
mod blocks;
pub mod clip;
pub mod condition;
pub mod config;
mod hub;
mod open;
mod original;
mod spatial_transformer;
pub mod text;
pub mod unet;

pub use open::{ModelFiles, OpenOptions, from_embedded, open};
