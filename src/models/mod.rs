//! The published networks: what a model on disk is, and the graphs its configuration describes.

mod attention_block;
pub mod autoencoder;
pub mod bert;
mod blocks;
pub mod clip;
pub mod condition;
pub mod config;
mod files;
mod hub;
mod networks;
mod open;
mod original;
mod spatial_transformer;
mod systems;
pub mod text;
pub mod unet;

pub use files::{Average, ModelFiles};
pub use networks::{Network, Part, networks};
pub use open::{OpenOptions, from_embedded, open};
pub use systems::System;
