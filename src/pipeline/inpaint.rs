//! A part of an image drawn anew.
//!
//! Two kinds of models were trained for it and are told of the image and the mask by channels; they differ in the order, the scale, and
//! in what stands where the image is hidden. Every other model keeps to the known part: each step begins with it in its place, with as
//! much noise as the rest has. Either way the decoded image is only pasted into the original, which an autoencoder does not give back to
//! the last bit.

use super::condition::repeated;
use super::{Event, InitImage, Kept, Pipeline, Request, Task};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::image::crop;
use crate::models::config::Condition;
use crate::rng::Noise;
use crate::tensor::Tensor;

/// Which part of an image is drawn anew.
#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    /// `[1, H, W, 1]`: 1 where the image is drawn, 0 where it is kept.
    pub drawn: Tensor,
    /// Of the same shape: the share of the new image in the result, between 0 and 1. A blurred mask hides the seam.
    pub pasted: Tensor,
}

impl InitImage {
    /// Refuses an image and a mask that are not of the size `[height, width]`, and a mask that asks for nothing.
    pub(super) fn check(&self, [height, width]: [usize; 2]) -> Result<()> {
        let expected = [1, height, width, 3].into();
        if self.image.shape() != expected {
            return Err(Error::request(format!(
                "the initial image is {}, but the request is for {expected}",
                self.image.shape()
            )));
        }
        let Some(mask) = &self.mask else {
            return Ok(());
        };
        let expected = [1, height, width, 1].into();
        if [&mask.drawn, &mask.pasted].map(Tensor::shape) != [expected; 2] {
            return Err(Error::request(format!(
                "the mask is {}, but the request is for {expected}",
                mask.drawn.shape()
            )));
        }
        match mask.drawn.data().contains(&1.0) {
            true => Ok(()),
            false => Err(Error::request(
                "the mask is black all over, which keeps the whole image: white is what is drawn anew",
            )),
        }
    }
}

impl Request {
    /// The mask, if a part of an image is asked for.
    pub(super) fn mask(&self) -> Option<&Mask> {
        self.init.as_ref()?.mask.as_ref()
    }

    /// What becomes of a decoded image: it is cut to the part that is kept, is pasted into the initial one where there is a mask, and
    /// stays as it is elsewhere.
    ///
    /// # Shapes
    /// `[1, H, W, 3]`, about -1..1, gives the same, or the size that is kept.
    ///
    /// # Errors
    /// If the image has another shape than the initial one, or is smaller than what is kept.
    ///
    /// # Source
    /// The end of CompVis's `scripts/inpaint.py`.
    pub fn finish(&self, image: Tensor) -> Result<Tensor> {
        if let Some([width, height]) = self.keep {
            return crop(&image, width, height);
        }
        let (Some(init), Some(mask)) = (&self.init, self.mask()) else {
            return Ok(image);
        };
        if image.shape() != init.image.shape() {
            return Err(Error::shape(
                "image",
                format!("expected {}, found {}", init.image.shape(), image.shape()),
            ));
        }
        let pixels = image.data().chunks(3).zip(init.image.data().chunks(3));
        let shares = mask.pasted.data().iter();
        let pasted = pixels.zip(shares).flat_map(|((new, old), share)| {
            let mixed =
                |(new, old): (&f32, &f32)| share * new.clamp(-1.0, 1.0) + (1.0 - share) * old;
            new.iter().zip(old).map(mixed).collect::<Vec<_>>()
        });
        Tensor::new(image.shape(), pasted.collect())
    }
}

impl<B: Backend> Pipeline<B> {
    /// The image and the mask as channels, for the models that were trained on them: `[N, h, w, K]`.
    ///
    /// # Source
    /// `make_batch` of CompVis's `scripts/inpaint.py`, where what is hidden is black, the mask follows the image and is -1 or 1, and the
    /// latent is not scaled; `LatentInpaintDiffusion` of runwayml's continuation of Stable Diffusion, where it is grey, the mask
    /// comes first and is 0 or 1, and the latent is drawn and scaled as any other.
    pub(super) fn masked_image(
        &self,
        request: &Request,
        streams: &mut [Noise],
        report: &mut dyn FnMut(Event),
    ) -> Result<Tensor> {
        let (Some(init), Some(mask)) = (&request.init, request.mask()) else {
            return Err(self.model.cannot(Task::Unconditional));
        };
        let (config, _) = self.model.autoencoder()?;
        let small = nearest(&mask.drawn, config.factor())?;
        if self.model.config.condition == Condition::TextAndMaskedImage {
            let seen = self.posterior(&hidden(&init.image, mask, 0.0)?, streams, report)?;
            return repeated(&small, streams.len())?.beside(&seen);
        }
        let (seen, ..) = self.moments(&hidden(&init.image, mask, -1.0)?, report)?;
        let small = small.data().iter().map(|m| 2.0 * m - 1.0).collect();
        let small = Tensor::new(
            [1, seen.shape().dims()[1], seen.shape().dims()[2], 1],
            small,
        )?;
        repeated(&seen.beside(&small)?, streams.len())
    }

    /// What a model that was not trained on masks keeps to: the latents of the image, and the mask. A latent's pixel is drawn if any of
    /// the image's under it is, so that all that is asked for is drawn.
    pub(super) fn kept(&self, latent: &Tensor, mask: &Mask) -> Result<Kept> {
        let (config, _) = self.model.autoencoder()?;
        let (factor, channels) = (config.factor(), latent.shape().channels());
        let [_, height, width, _] = mask.drawn.shape().image().unwrap_or_default();
        let drawn = |y: usize, x: usize| {
            let rows = (y * factor..(y + 1) * factor).map(|y| y * width + x * factor);
            let any = rows.flat_map(|start| &mask.drawn.data()[start..start + factor]);
            any.fold(0.0, |most: f32, m| most.max(*m))
        };
        let cells = (0..height / factor).flat_map(|y| (0..width / factor).map(move |x| (y, x)));
        let one = cells.flat_map(|(y, x)| vec![drawn(y, x); channels]);
        let one = Tensor::new(latent.shape().with_batch(1), one.collect())?;
        Ok(Kept {
            latent: latent.clone(),
            mask: repeated(&one, latent.shape().batch())?,
        })
    }
}

/// The image with `value` where it is drawn anew.
fn hidden(image: &Tensor, mask: &Mask, value: f32) -> Result<Tensor> {
    let pixels = image.data().chunks(3).zip(mask.drawn.data());
    let seen = pixels.flat_map(|(pixel, drawn)| {
        let pixel = [pixel[0], pixel[1], pixel[2]];
        if *drawn > 0.0 { [value; 3] } else { pixel }
    });
    Tensor::new(image.shape(), seen.collect())
}

/// The mask at the latent's size, as torch's nearest neighbour takes it: every `factor`-th pixel of every `factor`-th row.
fn nearest(mask: &Tensor, factor: usize) -> Result<Tensor> {
    let [_, height, width, _] = mask.shape().image().unwrap_or_default();
    let (height, width) = (height / factor, width / factor);
    Ok(Tensor::from_fn([1, height, width, 1], |i| {
        mask.data()[(i / width * width * factor + i % width) * factor]
    }))
}

#[cfg(test)]
mod tests {
    use super::super::Model;
    use super::*;
    use crate::cpu::Cpu;
    use std::sync::Arc;

    fn told(condition: Condition) -> (Pipeline<Cpu>, Request, Tensor) {
        let mut model = Model::demo().unwrap();
        model.config.condition = condition;
        model.config.scale_factor = 0.5;
        let mut request = Request::new(&model, "").unwrap();
        let mask = Tensor::from_fn([1, 64, 64, 1], |i| f32::from(u8::from(i % 64 < 20)));
        request.init = Some(InitImage {
            image: Tensor::from_fn([1, 64, 64, 3], |i| (i % 101) as f32 / 50.0 - 1.0),
            mask: Some(Mask {
                drawn: mask.clone(),
                pasted: mask,
            }),
        });
        let cpu = Cpu::new(1, Arc::default()).unwrap();
        let pipeline = Pipeline::new(Arc::new(cpu), model);
        let mut streams = [Noise::cpu(5), Noise::cpu(6)];
        let channels = pipeline.masked_image(&request, &mut streams, &mut |_| ());
        (pipeline, request, channels.unwrap())
    }

    /// The image with `value` in its first 20 columns.
    fn seen(request: &Request, value: f32) -> Tensor {
        let image = &request.init.as_ref().unwrap().image;
        Tensor::from_fn(image.shape(), |i| match i / 3 % 64 < 20 {
            true => value,
            false => image.data()[i],
        })
    }

    #[test]
    fn the_papers_model_is_told_the_black_image_and_then_the_mask() {
        let (pipeline, request, channels) = told(Condition::MaskedImage);
        let (mean, ..) = pipeline
            .moments(&seen(&request, -1.0), &mut |_| ())
            .unwrap();
        // Of 16 columns of the latent's mask, each is the image's at 0, 4, 8 and so on.
        let mask = |pixel: usize| if pixel % 16 < 5 { 1.0 } else { -1.0 };
        let expected = Tensor::from_fn([2, 16, 16, 5], |i| match (i / 5 % 256, i % 5) {
            (pixel, 4) => mask(pixel),
            (pixel, channel) => mean.data()[pixel * 4 + channel],
        });
        assert_eq!(channels, expected);
    }

    #[test]
    fn stable_diffusion_is_told_the_mask_and_then_the_grey_image() {
        let (pipeline, request, channels) = told(Condition::TextAndMaskedImage);
        let mut streams = [Noise::cpu(5), Noise::cpu(6)];
        let grey = seen(&request, 0.0);
        let drawn = pipeline
            .posterior(&grey, &mut streams, &mut |_| ())
            .unwrap();
        let mask = |pixel: usize| if pixel % 16 < 5 { 1.0 } else { 0.0 };
        let expected = Tensor::from_fn([2, 16, 16, 5], |i| match (i / 5, i % 5) {
            (pixel, 0) => mask(pixel),
            (pixel, channel) => drawn.data()[pixel * 4 + channel - 1],
        });
        assert_eq!(channels, expected);
    }

    #[test]
    fn what_is_not_trained_on_masks_draws_all_that_is_asked_for() {
        let (pipeline, request, _) = told(Condition::Text);
        let latent = Tensor::zeros([2, 16, 16, 4]);
        let mut mask = request.mask().unwrap().clone();
        // The 22nd column begins no latent's pixel.
        mask.drawn = Tensor::from_fn([1, 64, 64, 1], |i| f32::from(u8::from(i % 64 == 22)));
        let kept = pipeline.kept(&latent, &mask).unwrap();
        let expected = |i: usize| f32::from(u8::from(i / 4 % 16 == 5));
        assert_eq!(kept.mask, Tensor::from_fn([2, 16, 16, 4], expected));
    }

    #[test]
    fn the_nearest_pixels_are_every_fourth_from_the_first() {
        let mask = Tensor::from_fn([1, 8, 12, 1], |i| i as f32);
        let small = nearest(&mask, 4).unwrap();
        assert_eq!(small.data(), [0.0, 4.0, 8.0, 48.0, 52.0, 56.0]);
    }
}
