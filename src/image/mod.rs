//! Images and latents on disk.
//!
//! Inside the engine an image is a tensor `[1, H, W, 3]` in -1..1; everything about bytes, file formats and metadata is here. Results
//! are PNG files, encoded by the `png` crate because only that one writes text chunks; images given by the user are read by the
//! `image` crate, which knows more formats. Every file appears whole or not at all.

mod file;
mod infotext;
mod labels;
mod latent;
mod mask;
mod metrics;
mod npz;
mod png;
mod read;

pub use file::{Existing, write_file, write_file_with};
pub use infotext::Infotext;
pub use labels::{read_labels, resize_labels};
pub use latent::{encode_latent, read_latent, write_latent};
pub use mask::{blur_mask, read_mask};
pub use metrics::Similarity;
pub use npz::{Array, NpzWriter, read_npz, write_npz};
pub use png::{TextChunk, encode_png, read_text_chunks, to_bytes, write_png};
pub use read::{MAX_PIXELS, crop, pad, read_image, resize};
