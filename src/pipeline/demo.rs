//! The models that are part of the program: text to small landscapes, and inpainting of those, trained by `tools/train`.
//!
//! The first is the whole of the paper's text-to-image system in 17 MB (a KL autoencoder, a UNet with cross-attention, a CLIP text
//! encoder), the second its inpainting in 6 (an autoencoder with a codebook, a UNet that is told by channels), so the engine can be
//! tried, tested and measured on a machine that has nothing but this program.

use super::Model;
use crate::error::Result;
use crate::models::from_embedded;
use crate::tokenizer::Tokenizer;

const NAME: &str = "demo";
const CONFIG: &str = include_str!("../../assets/demo/config.yaml");
const WEIGHTS: &[u8] = include_bytes!("../../assets/demo/model.safetensors");
const VOCAB: &[u8] = include_bytes!("../../assets/demo/vocab.json");
const MERGES: &[u8] = include_bytes!("../../assets/demo/merges.txt");

const INPAINT_NAME: &str = "inpaint-demo";
const INPAINT_CONFIG: &str = include_str!("../../assets/inpaint/config.yaml");
const INPAINT_WEIGHTS: &[u8] = include_bytes!("../../assets/inpaint/model.safetensors");

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

    /// The inpainting demo model.
    ///
    /// # Errors
    /// If the program was built with damaged assets.
    pub fn inpaint_demo() -> Result<Self> {
        let files = from_embedded(INPAINT_NAME, INPAINT_CONFIG, INPAINT_WEIGHTS)?;
        Self::new(files, None)
    }
}
