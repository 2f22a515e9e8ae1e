//! A model small enough to sample in milliseconds, and a way to run the binary on it.

use latent_diffusion::Weights;
use latent_diffusion::models::config::from_yaml;
use latent_diffusion::models::{autoencoder, text, unet};
use latent_diffusion::weights::save;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

/// Images are 16x16, in 8x8 latents; sides are multiples of 4. Sampling takes two steps unless more are asked for.
pub const CONFIG: &str = "
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.00085
    linear_end: 0.012
    timesteps: 1000
    image_size: 8
    channels: 4
    scale_factor: 0.5
    conditioning_key: crossattn
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params: {image_size: 8, in_channels: 4, out_channels: 4, model_channels: 32, attention_resolutions: [2], num_res_blocks: 1,
        channel_mult: [1, 1], num_heads: 2, use_spatial_transformer: true, transformer_depth: 1, context_dim: 16, legacy: false}
    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: 4
        ddconfig: {double_z: true, z_channels: 4, resolution: 16, in_channels: 3, out_ch: 3, ch: 32, ch_mult: [1, 1],
          num_res_blocks: 1, attn_resolutions: [], dropout: 0.0}
    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenCLIPEmbedder
      params:
        text_config: {vocab_size: 514, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2,
          max_position_embeddings: 16, hidden_act: quick_gelu, layer_norm_eps: 1.0e-5, bos_token_id: 512, eos_token_id: 513,
          pad_token_id: 513}
sampling: {sampler: ddim, steps: 2, cfg_scale: 2.0}
";

/// The folder of a small model with random weights, made once.
pub fn model() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path());
        folder
    });
    folder.path()
}

/// Writes the model in CompVis's layout.
pub fn write_model(folder: &Path) {
    let config = from_yaml(Path::new("config.yaml"), CONFIG).unwrap();
    let (unet, first, text) = (
        config.unet.unwrap(),
        config.autoencoder.unwrap(),
        config.text.unwrap(),
    );
    let graphs = [
        (
            "model.diffusion_model.",
            unet::build(&unet, 1, [8, 8], 16).unwrap(),
        ),
        (
            "first_stage_model.",
            autoencoder::build_encoder(&first, 1, [16, 16]).unwrap(),
        ),
        (
            "first_stage_model.",
            autoencoder::build_decoder(&first, 1, [8, 8]).unwrap(),
        ),
        (
            "cond_stage_model.transformer.",
            text::build(&text, 1, 16).unwrap(),
        ),
    ];
    let weights = Weights::synthetic(1);
    let mut tensors = BTreeMap::new();
    for (prefix, graph) in &graphs {
        for param in graph.params() {
            tensors.insert(
                format!("{prefix}{}", param.name),
                (&weights, param.name.as_str(), param.shape),
            );
        }
    }
    let tensors = tensors
        .into_iter()
        .map(|(name, (weights, own, shape))| (name, weights, own, shape));
    save(&folder.join("model.safetensors"), tensors).unwrap();
    fs::write(folder.join("config.yaml"), CONFIG).unwrap();
    let (vocab, merges) = tokenizer();
    fs::write(folder.join("vocab.json"), vocab).unwrap();
    fs::write(folder.join("merges.txt"), merges).unwrap();
}

/// CLIP's vocabulary without any merge: the 256 bytes, inside a word and at its end, and the two special tokens.
fn tokenizer() -> (String, &'static str) {
    let printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let others = (0..256)
        .filter(|byte| !printable(byte))
        .zip(256..)
        .map(|(_, letter)| letter);
    let letters: Vec<char> = (0..256)
        .filter(printable)
        .chain(others)
        .filter_map(char::from_u32)
        .collect();
    let inside = letters.iter().map(char::to_string);
    let at_end = letters.iter().map(|letter| format!("{letter}</w>"));
    let special = ["<|startoftext|>", "<|endoftext|>"].map(str::to_owned);
    let tokens: BTreeMap<String, usize> = inside.chain(at_end).chain(special).zip(0..).collect();
    (serde_json::to_string(&tokens).unwrap(), "#version: 0.2\n")
}

/// A folder to run the binary in.
pub struct Place(TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Names of the files below a folder, sorted.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path().join(folder)).into_iter().flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// The binary with these arguments, on one thread, in this folder, and with no cache of anybody's.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ldm"));
        command
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .env("HOME", self.path());
        command.env("TMPDIR", self.path()).stdin(Stdio::null());
        command
    }

    /// Runs the binary.
    pub fn ldm(&self, arguments: &[&str]) -> Run {
        Run::of(self.command(arguments).output().unwrap())
    }

    /// Runs the words of `line`, a command first, with these arguments besides.
    pub fn line(&self, line: &str, arguments: &[&str]) -> Run {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.ldm(&[&words, arguments].concat())
    }

    /// The same on the small model.
    pub fn on_model(&self, line: &str, arguments: &[&str]) -> Run {
        let model = ["-m", model().to_str().unwrap()];
        self.line(line, &[&model, arguments].concat())
    }

    /// Runs `ldm sample` on the small model.
    pub fn sample(&self, arguments: &[&str]) -> Run {
        self.on_model("sample -t 1", arguments)
    }
}

/// What a run of the binary did.
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The lines of standard output of a run that must have succeeded.
    #[track_caller]
    pub fn lines(&self) -> Vec<&str> {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self.stdout.lines().collect()
    }

    /// Checks that the run was refused with this exit code, in one sentence that holds all of `words`.
    #[track_caller]
    pub fn refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        let errors: Vec<&str> = self
            .stderr
            .lines()
            .filter(|line| line.starts_with("error: "))
            .collect();
        assert_eq!(errors.len(), 1, "{}", self.stderr);
        for word in words {
            assert!(
                self.stderr.contains(word),
                "no `{word}` in: {}",
                self.stderr
            );
        }
        assert_eq!(self.stdout, "");
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}
