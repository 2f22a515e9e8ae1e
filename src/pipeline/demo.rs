//! The model that is part of the program: text to small landscapes, trained by `tools/train`.
//!
//! It is the whole of the paper's text-to-image system in 17 MB (a KL autoencoder, a UNet with cross-attention, a CLIP text encoder),
//! so the engine can be tried, tested and measured on a machine that has nothing but this program.

use super::Model;
use crate::error::Result;
use crate::models::from_embedded;
use crate::tokenizer::Tokenizer;

const NAME: &str = "demo";
const CONFIG: &str = include_str!("../../assets/demo/config.yaml");
const WEIGHTS: &[u8] = include_bytes!("../../assets/demo/model.safetensors");
const VOCAB: &[u8] = include_bytes!("../../assets/demo/vocab.json");
const MERGES: &[u8] = include_bytes!("../../assets/demo/merges.txt");

impl Model {
    /// The demo model.
    ///
    /// # Errors
    /// If the program was built with damaged assets.
    pub fn demo() -> Result<Self> {
        let files = from_embedded(NAME, CONFIG, WEIGHTS)?;
        let tokenizer = Tokenizer::from_bytes(VOCAB, MERGES)?;
        Self::new(files, Some(tokenizer))
    }
}
