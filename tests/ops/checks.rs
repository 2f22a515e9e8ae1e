//! What is asked of a device, for one case at a time.

use crate::bound::{Bound, Elements, device_roundoff};
use crate::cases::{self, Case, IMAGES, Operand};
use half::{bf16, f16};
use latent_diffusion::backend::Backend;
use latent_diffusion::graph::Param;
use latent_diffusion::ops::{Op, Slice, Upsampling};
use latent_diffusion::weights::Dtype;
use latent_diffusion::{Session, Shape, Tensor, Weights};
use safetensors::tensor::TensorView;
use std::sync::Arc;

/// What went wrong.
pub type Check = Result<(), String>;

/// Asks `check` of every awkward case, and lists all that fail.
pub fn every(what: &str, check: impl Fn(&Case) -> Check) {
    let cases = cases::awkward();
    let failed: Vec<String> = cases
        .iter()
        .filter_map(|case| Some(format!("{}: {}", case.name, check(case).err()?)))
        .collect();
    let [count, all] = [failed.len(), cases.len()];
    assert!(
        failed.is_empty(),
        "{what}: {count} of {all} fail\n{}",
        failed.join("\n")
    );
}

/// The result is within rounding of the definition's.
pub fn agrees<B: Backend>(backend: &Arc<B>, case: &Case) -> Check {
    agrees_with(backend, case, &synthetic())
}

/// So it is with weights stored as bf16 and f32 (the synthetic ones are f16).
pub fn agrees_stored<B: Backend>(backend: &Arc<B>, case: &Case) -> Check {
    if case.op.operator().params().is_empty() {
        return Ok(());
    }
    for dtype in [Dtype::BF16, Dtype::F32] {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let path = folder.path().join("model.safetensors");
        store(case, dtype, &path);
        let weights = Weights::open(&path).map_err(|e| e.to_string())?;
        agrees_with(backend, case, &weights).map_err(|problem| format!("{dtype:?}: {problem}"))?;
    }
    Ok(())
}

fn agrees_with<B: Backend>(backend: &Arc<B>, case: &Case, weights: &Weights) -> Check {
    agrees_within(backend, case, weights, |bound| bound)
}

/// The result is within a bound that is made of rounding's.
fn agrees_within<B: Backend>(
    backend: &Arc<B>,
    case: &Case,
    weights: &Weights,
    widen: impl Fn(Bound) -> Bound,
) -> Check {
    let (held, found) = run(backend, case, weights, &case.inputs())?;
    let (expected, bound) = definition(case, weights, &held, device_roundoff(&**backend));
    widen(bound).check(found.data(), expected.data())
}

/// The result is within rounding of the definition's where sums of 64 products are kept in halves.
pub fn agrees_in_halves<B: Backend>(backend: &Arc<B>, case: &Case) -> Check {
    agrees_within(backend, case, &synthetic(), |bound| {
        bound.of_sums_in_halves(&case.op)
    })
}

/// A second run, and each image of the batch run alone, give the same bits.
pub fn reproducible<B: Backend>(backend: &Arc<B>, case: &Case) -> Check {
    let inputs = case.inputs();
    let batch = answer(backend, case, &inputs)?;
    same_bits("again", &batch, &answer(backend, case, &inputs)?)?;
    let Some(single) = alone(case) else {
        return Ok(());
    };
    for image in 0..IMAGES {
        let inputs = inputs_of(case, &inputs, image);
        let found = answer(backend, &single, &inputs)?;
        let expected = items_of(&batch, found.shape().batch(), image);
        same_bits(&format!("image {image} alone"), &expected, &found)?;
    }
    Ok(())
}

/// A NaN in the first image's part of any operand reaches every element the definition says it reaches, and no other image.
pub fn passes_nan_on<B: Backend>(backend: &Arc<B>, case: &Case) -> Check {
    let clean = case.inputs();
    let healthy = answer(backend, case, &clean)?;
    for (index, operand) in case.operands.iter().enumerate() {
        if operand.is_exact() {
            continue;
        }
        let mut inputs = clean.clone();
        let middle = operand.shape.len() / operand.shape.batch() / 2;
        inputs[index].data_mut()[middle] = f32::NAN;
        let found = answer(backend, case, &inputs)?;
        let (expected, _) = definition(case, &synthetic(), &inputs, device_roundoff(&**backend));
        let swallowed = |(y, e): (&f32, &f32)| e.is_nan() && !y.is_nan();
        let lost = found
            .data()
            .iter()
            .zip(expected.data())
            .filter(|p| swallowed(*p))
            .count();
        if lost > 0 {
            return Err(format!("operand {index}: {lost} elements swallow it"));
        }
        if alone(case).is_some() {
            for image in 1..IMAGES {
                let [found, healthy] = [&found, &healthy].map(|t| t.item(image));
                let (Ok(found), Ok(healthy)) = (found, healthy) else {
                    return Err("the batch is lost".to_owned());
                };
                same_bits(&format!("operand {index}, image {image}"), &healthy, &found)?;
            }
        }
    }
    Ok(())
}

/// The bound of f32 accepts the definition itself, and refuses it with one element off by a hundredth of the result's
/// largest: a comparison that could not fail would prove nothing.
pub fn bound_is_tight(case: &Case) -> Check {
    let (expected, bound) = definition(
        case,
        &synthetic(),
        &case.inputs(),
        f64::from(f32::EPSILON) / 2.0,
    );
    bound.check(expected.data(), expected.data())?;
    let mut wrong = expected.clone();
    let largest = expected
        .data()
        .iter()
        .fold(0f32, |most, y| most.max(y.abs()));
    let middle = wrong.data().len() / 2;
    wrong.data_mut()[middle] += largest * 0.01;
    match bound.check(wrong.data(), expected.data()) {
        Err(_) => Ok(()),
        Ok(()) => Err("a wrong element is accepted".to_owned()),
    }
}

/// The result of a case on a device.
pub fn result<B: Backend>(backend: &Arc<B>, case: &Case) -> Result<Tensor, String> {
    answer(backend, case, &case.inputs())
}

/// Fails unless both are the same to the bit.
pub fn same_bits(what: &str, expected: &Tensor, found: &Tensor) -> Check {
    let [a, b] = [expected, found].map(|t| t.data().iter().map(|x| x.to_bits()));
    let different = a.zip(b).filter(|(a, b)| a != b).count();
    if expected.shape() == found.shape() && different == 0 {
        return Ok(());
    }
    let all = expected.data().len();
    Err(format!("{what}: {different} of {all} elements differ"))
}

fn synthetic() -> Weights {
    Weights::synthetic(7)
}

/// The result of a case with the usual weights.
fn answer<B: Backend>(backend: &Arc<B>, case: &Case, inputs: &[Tensor]) -> Result<Tensor, String> {
    run(backend, case, &synthetic(), inputs).map(|(_, result)| result)
}

/// Runs a case twice, the second time as a device repeats what it has run, and fails if an operand is not what it was before (the
/// target of an assignment alone may change), or the results differ. Answers the operands as the device holds them, rounded to its elements, and the
/// result.
fn run<B: Backend>(
    backend: &Arc<B>,
    case: &Case,
    weights: &Weights,
    inputs: &[Tensor],
) -> Result<(Vec<Tensor>, Tensor), String> {
    let sentence = |error: latent_diffusion::Error| error.to_string();
    let mut session = Session::new(backend, case.graph(), weights).map_err(sentence)?;
    let operands = |session: &Session<B>| -> Vec<Tensor> {
        let names = (0..inputs.len()).map(|index| index.to_string());
        names.map(|name| session.get(&name).unwrap()).collect()
    };
    for (index, input) in inputs.iter().enumerate() {
        session.set(&index.to_string(), input).unwrap();
    }
    let before = operands(&session);
    session.run().map_err(sentence)?;
    let first = session.get("y").unwrap();
    session.run().map_err(sentence)?;
    let after = operands(&session);
    let mut expected = before.clone();
    if let Op::Assign(op) = &case.op {
        let (paired, shared) = before.split_at(op.paired(before.len()));
        for (pair, held) in paired.chunks(2).enumerate() {
            expected[2 * pair] = match pair < op.combined {
                true => combined(backend, &held[1], shared).map_err(sentence)?,
                false => held[1].clone(),
            };
        }
    }
    for (expected, after) in expected.iter().zip(&after) {
        same_bits("an operand after the run", expected, after)?;
    }
    let second = session.get("y").unwrap();
    same_bits("the second run", &first, &second)?;
    Ok((before, second))
}

/// A combination by itself: with these coefficients, of the row and the terms that are `shared`.
fn combined<B: Backend>(
    backend: &Arc<B>,
    coefficients: &Tensor,
    shared: &[Tensor],
) -> latent_diffusion::Result<Tensor> {
    let mut g = latent_diffusion::Graph::new();
    let table = g.input_exact("table", coefficients.shape());
    let row = g.input_exact("0", shared[0].shape());
    let terms = shared.iter().enumerate().skip(1);
    let terms = terms.map(|(index, term)| g.input(&index.to_string(), term.shape()));
    let terms: Vec<_> = terms.collect();
    let y = g.combine(table, row, &terms)?;
    g.output("y", y);
    let mut session = Session::new(backend, g, &synthetic())?;
    session.set("table", coefficients)?;
    for (index, value) in shared.iter().enumerate() {
        session.set(&index.to_string(), value)?;
    }
    session.run()?;
    session.get("y")
}

/// What the definition says, and how far a device may be from it.
pub fn definition(
    case: &Case,
    weights: &Weights,
    inputs: &[Tensor],
    roundoff: f64,
) -> (Tensor, Bound) {
    let operator = case.op.operator();
    let params: Vec<Elements> = operator
        .params()
        .iter()
        .map(|param| Elements {
            shape: param.shape,
            data: held(&case.op, weights, param, roundoff),
        })
        .collect();
    let inputs: Vec<Elements> = inputs
        .iter()
        .map(|input| Elements {
            shape: input.shape(),
            data: input.data().to_vec(),
        })
        .collect();
    let shapes: Vec<Shape> = inputs.iter().map(|input| input.shape).collect();
    let mut expected = Tensor::zeros(operator.infer(&shapes).unwrap());
    let [x, w] =
        [&inputs, &params].map(|all| all.iter().map(Elements::slice).collect::<Vec<Slice>>());
    operator.eval(&x, &w, expected.data_mut());
    let bound = Bound::new(&case.op, &inputs, &params, expected.data(), roundoff);
    (expected, bound)
}

/// A weight as a device of elements with that roundoff holds it: vectors stay f32 everywhere, and codes that a search compares;
/// weights of phases are rounded when they have been added up.
fn held(op: &Op, weights: &Weights, param: &Param, roundoff: f64) -> Vec<f32> {
    let mut values = weights.get(&param.name, &param.shape).unwrap().to_f32();
    let added_first = matches!(op, Op::Conv2d(conv) if conv.upsampling == Upsampling::Phases);
    let rounded = param.shape.rank() > 1 && !added_first && !matches!(op, Op::Codebook(_));
    if rounded && roundoff > f64::from(f32::EPSILON) {
        for value in &mut values {
            *value = f16::from_f32(*value).to_f32();
        }
    }
    values
}

/// The case for a batch of one, if it is a case of a batch.
pub fn alone(case: &Case) -> Option<Case> {
    let single = |operand: &Operand| {
        let of_batch = operand.shape.batch() == operand.per_image * IMAGES;
        let shape = match operand.per_image {
            0 => operand.shape,
            items => operand.shape.with_batch(items),
        };
        (of_batch || operand.per_image == 0).then(|| Operand {
            shape,
            ..operand.clone()
        })
    };
    let operands: Vec<Operand> = case.operands.iter().map(single).collect::<Option<_>>()?;
    let shapes: Vec<Shape> = operands.iter().map(|operand| operand.shape).collect();
    let all: Vec<Shape> = case.operands.iter().map(|operand| operand.shape).collect();
    let [output, of_batch] = [shapes, all].map(|shapes| case.op.operator().infer(&shapes));
    (of_batch.ok()?.batch() == output.ok()?.batch() * IMAGES).then(|| Case {
        operands,
        ..case.clone()
    })
}

/// One image's part of the operands.
fn inputs_of(case: &Case, inputs: &[Tensor], image: usize) -> Vec<Tensor> {
    let part = |(operand, input): (&Operand, &Tensor)| match operand.per_image {
        0 => input.clone(),
        items => items_of(input, items, image),
    };
    case.operands.iter().zip(inputs).map(part).collect()
}

/// The items that one image has of a batch: so many, each behind the same of all images.
pub fn items_of(batch: &Tensor, items: usize, image: usize) -> Tensor {
    let items = (0..items).map(|item| batch.item(item * IMAGES + image).unwrap());
    Tensor::stack(&items.collect::<Vec<_>>()).unwrap()
}

/// Writes a case's weights in a precision, with all its digits in use.
fn store(case: &Case, dtype: Dtype, path: &std::path::Path) {
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = case
        .op
        .operator()
        .params()
        .iter()
        .map(|param| {
            let values = synthetic().get(&param.name, &param.shape).unwrap().to_f32();
            let bytes = values
                .iter()
                .map(|x| x * 1.234_567_8)
                .flat_map(|x| match dtype {
                    Dtype::F16 => f16::from_f32(x).to_le_bytes().to_vec(),
                    Dtype::BF16 => bf16::from_f32(x).to_le_bytes().to_vec(),
                    Dtype::F32 => x.to_le_bytes().to_vec(),
                });
            (
                param.name.clone(),
                param.shape.dims().to_vec(),
                bytes.collect(),
            )
        })
        .collect();
    let stored = match dtype {
        Dtype::F16 => safetensors::Dtype::F16,
        Dtype::BF16 => safetensors::Dtype::BF16,
        Dtype::F32 => safetensors::Dtype::F32,
    };
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(stored, shape.clone(), bytes).unwrap();
        (name.clone(), view)
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}
