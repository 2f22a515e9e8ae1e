//! A sampler whose predicted images are made of codes, to a plain loop.

#[allow(dead_code, reason = "the benchmarks use the rest")]
#[path = "cases/networks.rs"]
mod networks;

use latent_diffusion::cpu::Cpu;
use latent_diffusion::models::unet;
use latent_diffusion::pipeline::{Denoiser, FIRST_STAGE, Guided};
use latent_diffusion::sampler::{Options, Sampler};
use latent_diffusion::schedule::Schedule;
use latent_diffusion::{Session, Tensor, Weights};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The row of `table`, of four values each, that is nearest to a vector.
fn nearest<'a>(table: &'a [f32], vector: &[f64]) -> &'a [f32] {
    let distance = |code: &[f32]| -> f64 {
        let pairs = code.iter().zip(vector);
        pairs.map(|(e, x)| (f64::from(*e) - x).powi(2)).sum()
    };
    let rows = table.chunks(4);
    rows.min_by(|a, b| distance(a).total_cmp(&distance(b)))
        .unwrap()
}

#[test]
fn predicted_images_are_made_of_the_first_stages_codes() {
    let model = networks::tiny();
    let schedule = Schedule::new(&model.schedule).unwrap();
    let options = Options {
        quantise: true,
        ..Options::new(3)
    };
    let trajectory = Sampler::Ddim.plan(&schedule, &options).unwrap();
    let config = networks::parts(model).0;
    let context = Tensor::full([1, 9, 20], 0.5);
    let guided = Guided {
        context: Some(context.clone()),
        codebook: Some(30),
        ..Guided::unconditional(1)
    };
    let [network, first_stage] = [3, 4].map(Weights::synthetic);
    let both = network.with(FIRST_STAGE, &first_stage);
    let cpu = Arc::new(Cpu::new(2, Arc::default()).unwrap());
    let denoiser =
        |guided: &Guided| Denoiser::new(&cpu, (&config, &both), guided, [8, 8, 4], &trajectory);
    let x = Tensor::from_fn([1, 8, 8, 4], |i| (i as f32 * 0.7).sin());
    let mut draw = || panic!("DDIM draws nothing");
    let found = denoiser(&guided).unwrap().run(&x, &mut draw, &mut |_| ());

    let codes = first_stage.get("quantize.embedding.weight", &[30, 4].into());
    let codes = codes.unwrap().to_f32();
    let graph = unet::build(&config, 1, [8, 8], 9).unwrap();
    let mut session = Session::new(&cpu, graph, &network).unwrap();
    session.set("context", &context).unwrap();
    let mut used = BTreeSet::new();
    let expected = trajectory.run_quantised(
        x.data().iter().map(|&x| f64::from(x)).collect(),
        |_| panic!("DDIM draws nothing"),
        |state, timestep| {
            let sample = Tensor::from_fn(x.shape(), |i| state[i] as f32);
            session.set("sample", &sample).unwrap();
            let timestep = Tensor::full([1], timestep as f32);
            session.set("timestep", &timestep).unwrap();
            session.run().unwrap();
            let answer = session.get("sample").unwrap();
            answer.data().iter().map(|&y| f64::from(y)).collect()
        },
        |image| {
            let codes: Vec<&[f32]> = image.chunks(4).map(|x| nearest(&codes, x)).collect();
            used.extend(codes.iter().map(|code| code[0].to_bits()));
            codes.concat().into_iter().map(f64::from).collect()
        },
    );
    assert!(used.len() > 3, "{} codes", used.len());
    let expected = Tensor::from_fn(x.shape(), |i| expected[i] as f32);
    // Three steps of rounding to f32; another code anywhere is far off.
    let error = found.unwrap().relative_error(&expected);
    assert!(error < 1e-5, "{error}");

    let without = Guided {
        codebook: None,
        ..guided.clone()
    };
    let error = denoiser(&without).err().unwrap();
    assert!(error.to_string().contains("no codebook"), "{error}");
}
