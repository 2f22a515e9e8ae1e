//! Latents on disk: a safetensors file with one tensor, `latent`, laid out as PyTorch has it; the numbers of their codes, `indices`, may
//! be beside it.

use super::file::{Existing, write_file};
use crate::error::{Error, Result};
use crate::tensor::{Shape, Tensor};
use crate::weights::{Checkpoint, Naming};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::path::Path;
use std::sync::Arc;

const NAME: &str = "latent";

/// Writes latents, whole or not at all.
///
/// # Shapes
/// `latent`: `[N, h, w, Z]`; the file has `[N, Z, h, w]` in f32.
///
/// # Errors
/// If the latents hold NaN or infinity, or the file cannot be written; nothing is left behind then.
pub fn write_latent(path: &Path, latent: &Tensor, existing: Existing) -> Result<()> {
    write_file(path, &encode_latent(latent, None)?, existing)
}

/// The bytes of the file that [`write_latent`] writes, with the numbers of the nearest codes where there are some.
///
/// # Shapes
/// `latent [N, h, w, Z]`; `indices [N, h, w]`, which the file has in i32.
///
/// # Errors
/// If the latents hold NaN or infinity.
pub fn encode_latent(latent: &Tensor, indices: Option<&Tensor>) -> Result<Vec<u8>> {
    let bad = latent.count_not_finite();
    if bad > 0 {
        return Err(Error::NotFinite {
            stage: "encode".into(),
            what: format!("NaN or infinity in {bad} of {} values", latent.data().len()),
            hint: "no file was written; check the model's weights with `ldm inspect`".into(),
        });
    }
    let nchw = latent.nhwc_to_nchw();
    let values = nchw.data().iter();
    let bytes: Vec<u8> = values.flat_map(|x| x.to_le_bytes()).collect();
    let codes: Vec<u8> = (indices.iter())
        .flat_map(|indices| indices.data())
        .flat_map(|&index| (index as i32).to_le_bytes())
        .collect();
    let view = |dtype, shape: Shape, bytes| TensorView::new(dtype, shape.dims().to_vec(), bytes);
    let indices = indices
        .map(|indices| view(Dtype::I32, indices.shape(), &codes).map(|view| ("indices", view)));
    let latent = view(Dtype::F32, nchw.shape(), &bytes).map(|view| (NAME, view));
    let tensors = [Some(latent), indices].into_iter().flatten();
    (tensors.collect::<std::result::Result<Vec<_>, _>>())
        .and_then(|tensors| safetensors::serialize(tensors, None))
        .map_err(|error| Error::request(format!("the latent cannot be stored: {error}")))
}

/// Reads latents.
///
/// # Shapes
/// The file has `[N, Z, h, w]`; returns `[N, h, w, Z]`.
///
/// # Errors
/// If the file is missing or damaged, or holds no such tensor, or NaN or infinity.
pub fn read_latent(path: &Path) -> Result<Tensor> {
    let refuse = |problem: String| Error::Tensor {
        path: path.to_owned(),
        tensor: NAME.into(),
        problem,
    };
    let file = Arc::new(Checkpoint::open(path)?);
    let Some(&[n, channels, height, width]) = file.dims(NAME) else {
        let found = file
            .dims(NAME)
            .map_or("no such tensor".into(), |dims| format!("{dims:?}"));
        return Err(refuse(format!(
            "should have shape [N, Z, h, w]; found {found}"
        )));
    };
    let shape = Shape::new(&[n, channels, height, width]);
    if shape.is_empty() {
        return Err(refuse(format!("has shape {shape}, which holds nothing")));
    }
    let view = file.weights(Naming::bare()).get(NAME, &shape)?;
    let latent = Tensor::new(shape, view.to_f32())?;
    match latent.count_not_finite() {
        0 => Ok(latent.nchw_to_nhwc()),
        bad => Err(refuse(format!(
            "holds NaN or infinity in {bad} of {} values",
            shape.len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn latents_survive_a_round_trip_in_the_order_of_pytorch() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let latent = Tensor::from_fn([2, 3, 5, 4], |i| (i as f32 * 0.37).sin() * 1e3);
        write_latent(&path, &latent, Existing::Keep).unwrap();
        assert_eq!(read_latent(&path).unwrap(), latent);
        assert!(write_latent(&path, &latent, Existing::Keep).is_err());

        let bytes = fs::read(&path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let stored = file.tensor(NAME).unwrap();
        assert_eq!(stored.shape(), [2, 4, 3, 5]);
        // The second value in NCHW is the next pixel of the first channel.
        assert_eq!(stored.data()[4..8], latent.data()[4].to_le_bytes());
    }

    #[test]
    fn what_is_no_latent_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let bad = Tensor::full([1, 2, 2, 4], f32::INFINITY);
        let error = write_latent(&path, &bad, Existing::Keep).unwrap_err();
        assert!(matches!(error, Error::NotFinite { .. }));
        assert!(!path.exists());
        assert!(matches!(read_latent(&path), Err(Error::File { .. })));

        let refused = |name: &str, shape: &[usize], value: f32, word: &str| {
            let values = vec![value; shape.iter().product()];
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            let view = TensorView::new(Dtype::F32, shape.to_vec(), &bytes).unwrap();
            fs::write(&path, safetensors::serialize([(name, view)], None).unwrap()).unwrap();
            let error = read_latent(&path).unwrap_err();
            assert!(matches!(error, Error::Tensor { .. }), "{error:?}");
            assert!(error.to_string().contains(word), "{error}");
        };
        refused("other", &[1, 4, 2, 2], 0.0, "no such tensor");
        refused(NAME, &[4, 2, 2], 0.0, "[4, 2, 2]");
        refused(NAME, &[1, 4, 0, 2], 0.0, "holds nothing");
        refused(NAME, &[1, 4, 2, 2], f32::NAN, "NaN");
    }
}
