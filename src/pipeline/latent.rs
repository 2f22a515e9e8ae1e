//! Between images and latents.

use super::bands::Half;
use super::{Event, Pipeline, draw, finite};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::models::autoencoder;
use crate::rng::Noise;
use crate::session::Session;
use crate::tensor::Tensor;
use std::sync::Arc;

impl<B: Backend> Pipeline<B> {
    /// The image of a latent.
    ///
    /// # Shapes
    /// `[N, h, w, C]`, at the diffusion model's scale, gives `[N, f h, f w, 3]`, about -1..1.
    ///
    /// # Errors
    /// If the model has no autoencoder, or the image is not finite.
    pub fn decode(&self, latent: &Tensor, report: &mut dyn FnMut(Event)) -> Result<Tensor> {
        let (config, weights) = self.model.autoencoder()?;
        let Some([_, h, w, _]) = latent.shape().image() else {
            return Err(Error::request(format!(
                "a latent is [N, h, w, C], not {}",
                latent.shape()
            )));
        };
        let scaled = self.scaled(latent, 1.0 / self.model.config.scale_factor)?;
        let decoder = Half {
            build: &|batch| autoencoder::build_decoder(config, batch, [h, w]),
            weights,
            input: "latent",
            output: "image",
            stage: "the decoder",
        };
        self.autoencode(&decoder, &scaled, report)
    }

    /// Mean and log variance of an image's latent, at the autoencoder's own scale. With a codebook, the latent itself, not
    /// quantised, and no variance.
    ///
    /// # Shapes
    /// `[N, H, W, 3]` in -1..1 gives once or twice `[N, H / f, W / f, C]`.
    ///
    /// # Errors
    /// If the model has no autoencoder, the sides are no multiples of `f`, or the result is not finite.
    pub fn moments(
        &self,
        image: &Tensor,
        report: &mut dyn FnMut(Event),
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (config, weights) = self.model.autoencoder()?;
        let [_, h, w] = encodable(image, config.factor())?;
        let encoder = Half {
            build: &|batch| autoencoder::build_encoder(config, batch, [h, w]),
            weights,
            input: "image",
            output: match config.codebook {
                None => "moments",
                Some(_) => "latent",
            },
            stage: "the encoder",
        };
        let encoded = self.autoencode(&encoder, image, report)?;
        match config.codebook {
            None => {
                let (mean, logvar) = autoencoder::split_moments(&encoded)?;
                Ok((mean, Some(logvar)))
            }
            Some(_) => Ok((encoded, None)),
        }
    }

    /// The latent of an image as [`encode`](Self::encode) gives it, and the numbers of the codes nearest to it. Both are computed
    /// in 32 bits on every device: half of a latent may have another nearest code.
    ///
    /// # Shapes
    /// `[N, H, W, 3]` in -1..1 gives `[N, H / f, W / f, C]` and `[N, H / f, W / f]`.
    ///
    /// # Errors
    /// As [`moments`](Self::moments), and if the autoencoder has no codebook.
    pub fn codes(&self, image: &Tensor) -> Result<(Tensor, Tensor)> {
        let (config, weights) = self.model.autoencoder()?;
        let [n, h, w] = encodable(image, config.factor())?;
        let graph = autoencoder::build_codes(config, n, [h, w])?;
        let backend = self.backend.wider().map_or(self.backend.clone(), Arc::new);
        let mut session = Session::new(&backend, graph, weights)?;
        session.set("image", image)?;
        session.run()?;
        let latent = finite(session.get("latent")?, "the encoder", &mut session)?;
        let indices = session.get("indices")?;
        let scaled = self.scaled(&latent, self.model.config.scale_factor)?;
        Ok((scaled, indices))
    }

    /// The latent of an image, or the mean of its distribution, at the diffusion model's scale: what [`decode`](Self::decode) takes.
    ///
    /// # Errors
    /// As [`moments`](Self::moments).
    pub fn encode(&self, image: &Tensor, report: &mut dyn FnMut(Event)) -> Result<Tensor> {
        let (mean, _) = self.moments(image, report)?;
        self.scaled(&mean, self.model.config.scale_factor)
    }

    /// A latent of the image per stream, drawn from its distribution if it has one, at the diffusion model's scale.
    pub(super) fn posterior(
        &self,
        image: &Tensor,
        streams: &mut [Noise],
        report: &mut dyn FnMut(Event),
    ) -> Result<Tensor> {
        let (mean, logvar) = self.moments(image, report)?;
        let Some([_, h, w, c]) = mean.shape().image() else {
            return Err(Error::request("the encoder answered no image"));
        };
        let Some(logvar) = logvar else {
            let latents = Tensor::stack(&vec![mean; streams.len()])?;
            return self.scaled(&latents, self.model.config.scale_factor);
        };
        let mut latent = draw(streams, [h, w, c])?;
        for item in latent.data_mut().chunks_mut(h * w * c) {
            for ((z, mean), logvar) in item.iter_mut().zip(mean.data()).zip(logvar.data()) {
                *z = mean + (0.5 * logvar).exp() * *z;
            }
        }
        self.scaled(&latent, self.model.config.scale_factor)
    }

    fn scaled(&self, tensor: &Tensor, factor: f64) -> Result<Tensor> {
        let scaled = tensor
            .data()
            .iter()
            .map(|&x| (f64::from(x) * factor) as f32);
        Tensor::new(tensor.shape(), scaled.collect())
    }
}

/// `[N, H, W]` of images that are encoded whole: the network would drop rows and columns that are left over.
fn encodable(image: &Tensor, factor: usize) -> Result<[usize; 3]> {
    match sizes(image)? {
        [n, h, w] if h.is_multiple_of(factor) && w.is_multiple_of(factor) => Ok([n, h, w]),
        [_, h, w] => Err(Error::request(format!(
            "an image of {w}x{h} does not fit the encoder, which takes multiples of {factor} along both sides"
        ))),
    }
}

/// `[N, H, W]` of images.
fn sizes(image: &Tensor) -> Result<[usize; 3]> {
    match image.shape().image() {
        Some([n, h, w, _]) => Ok([n, h, w]),
        None => Err(Error::request(format!(
            "an image is [N, H, W, 3], not {}",
            image.shape()
        ))),
    }
}
