//! The published networks: what a model on disk is, and the graphs its configuration describes.

pub mod config;
