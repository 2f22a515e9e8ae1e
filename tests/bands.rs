//! Networks in bands of rows: the bytes of the whole image, in the memory that was allowed.

#[allow(dead_code, reason = "the benchmarks use the rest")]
#[path = "cases/networks.rs"]
mod networks;

use latent_diffusion::backend::Backend;
use latent_diffusion::cpu::Cpu;
use latent_diffusion::cuda::{Cuda, Emulation, Precision, Target};
use latent_diffusion::models::autoencoder;
use latent_diffusion::models::config::{AutoencoderConfig, AutoencoderLevel};
use latent_diffusion::plan::bands::schedule::Schedule;
use latent_diffusion::session::{Bands, Program};
use latent_diffusion::{Graph, Session, Tensor, Weights};
use std::sync::Arc;

fn cpu() -> Arc<Cpu> {
    Arc::new(Cpu::new(2, Arc::default()).unwrap())
}

fn emulator(precision: Precision) -> Arc<Cuda> {
    emulator_of(Target::a100(precision))
}

fn emulator_of(target: Target) -> Arc<Cuda> {
    let emulation = Emulation {
        threads: 2,
        check: false,
        seed: 0,
    };
    Arc::new(Cuda::emulator(emulation, target, Arc::default()).unwrap())
}

/// Three levels with attention at the coarsest and in the middle, or without any.
fn config(attention: bool) -> AutoencoderConfig {
    let level = |channels, attention| AutoencoderLevel {
        channels,
        attention,
    };
    AutoencoderConfig {
        base_channels: 12,
        levels: vec![level(12, false), level(20, false), level(28, attention)],
        res_blocks: 1,
        norm_groups: 4,
        middle_attention: attention,
        ..networks::tiny().autoencoder.unwrap()
    }
}

fn decoder(attention: bool, latent: [usize; 2]) -> Graph {
    autoencoder::build_decoder(&config(attention), 1, latent).unwrap()
}

fn encoder(attention: bool, image: [usize; 2]) -> Graph {
    autoencoder::build_encoder(&config(attention), 1, image).unwrap()
}

/// The only result of a network on the inputs that every test has.
fn whole<B: Backend>(backend: &Arc<B>, graph: &Graph) -> Tensor {
    let mut session = Session::new(backend, graph.clone(), &Weights::synthetic(5)).unwrap();
    for (name, input) in networks::inputs(graph) {
        session.set(&name, &input).unwrap();
    }
    session.run().unwrap();
    session.get(&graph.outputs()[0].0).unwrap()
}

fn in_bands<B: Backend>(bands: &Bands<B>, graph: &Graph) -> Tensor {
    let inputs = networks::inputs(graph);
    let inputs: Vec<_> = (inputs.iter().map(|(name, x)| (name.as_str(), x))).collect();
    let name = &graph.outputs()[0].0;
    bands.run(&Weights::synthetic(5), &inputs, name).unwrap()
}

fn arena_bytes<B: Backend>(backend: &Arc<B>, graph: &Graph) -> usize {
    let program = Program::new(&**backend, graph.clone()).unwrap();
    program.plan().arena_bytes
}

/// The most bands of a pass.
fn most_bands(schedule: &Schedule) -> usize {
    let bands = schedule.passes.iter().map(|pass| pass.bands.len());
    bands.max().unwrap_or(0)
}

/// Every pass's wanted rows are all rows once, and each band has them.
fn check(schedule: &Schedule, limit: usize) {
    assert!(schedule.peak_bytes <= limit);
    for pass in &schedule.passes {
        let mut next = 0;
        for band in &pass.bands {
            assert_eq!(band.wanted[0], next);
            assert!(band.first <= next && band.wanted[1] <= band.first + band.rows);
            next = band.wanted[1];
        }
        assert_eq!(next, pass.rows);
    }
}

/// Limits from what the whole takes downwards, as long as there is a plan: each gives the whole's bits. Answers the most bands there were.
fn equal_within_every_limit<B: Backend>(
    backend: &Arc<B>,
    graph: &Graph,
    eighths: &[usize],
) -> usize {
    let (expected, all) = (whole(backend, graph), arena_bytes(backend, graph));
    let mut most = 0;
    for eighth in eighths {
        let limit = all * eighth / 8;
        let bands = match Bands::new(backend, graph.clone(), limit) {
            Ok(bands) => bands,
            Err(error) => {
                assert_eq!(error.exit_code(), 5, "{error}");
                println!("{eighth}/8: {error}");
                continue;
            }
        };
        check(bands.schedule(), limit);
        let found = in_bands(&bands, graph);
        let different = found.data().iter().zip(expected.data());
        let different = different
            .filter(|(a, b)| a.to_bits() != b.to_bits())
            .count();
        let count = most_bands(bands.schedule());
        assert_eq!(
            different,
            0,
            "{eighth}/8, {count} bands, of {}",
            found.shape()
        );
        most = most.max(count);
    }
    most
}

#[test]
fn a_decoder_in_bands_gives_the_bytes_of_the_whole() {
    for (attention, latent) in [
        (true, [9, 8]),
        (true, [16, 5]),
        (false, [11, 7]),
        (false, [24, 9]),
    ] {
        let most =
            equal_within_every_limit(&cpu(), &decoder(attention, latent), &[16, 7, 6, 5, 4, 3]);
        assert!(most > 1, "{attention} {latent:?}: one band");
    }
}

#[test]
fn so_does_one_with_a_codebook() {
    let codes = AutoencoderConfig {
        codebook: Some(40),
        ..config(true)
    };
    let decoder = autoencoder::build_decoder(&codes, 1, [24, 6]).unwrap();
    let encoder = autoencoder::build_encoder(&codes, 1, [72, 24]).unwrap();
    for graph in [decoder, encoder] {
        let most = equal_within_every_limit(&cpu(), &graph, &[16, 7, 6, 5]);
        assert!(most > 1, "one band");
    }
}

#[test]
fn an_encoder_in_bands_gives_the_bytes_of_the_whole() {
    for (attention, image) in [(true, [72, 32]), (false, [96, 20])] {
        let most =
            equal_within_every_limit(&cpu(), &encoder(attention, image), &[16, 7, 6, 5, 4, 3]);
        assert!(most > 1, "{attention} {image:?}: one band");
    }
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn kernels_in_bands_give_the_bits_of_the_whole() {
    for (precision, eighths) in [(Precision::F16, &[5, 3][..]), (Precision::F32, &[4])] {
        let device = emulator(precision);
        let most = equal_within_every_limit(&device, &decoder(false, [24, 12]), eighths);
        assert!(most > 1, "{precision:?}: one band");
    }
    let with_attention = decoder(true, [10, 9]);
    equal_within_every_limit(&emulator(Precision::F16), &with_attention, &[16]);
}

/// Normalisations that whole images take from the products before them.
mod linked {
    use super::*;
    use latent_diffusion::cuda::Argument;
    use latent_diffusion::ops::Summed;
    use std::collections::BTreeSet;

    /// Channels in whole packs.
    fn config(channels: &[usize], attention: bool) -> AutoencoderConfig {
        let level = |&channels: &usize| AutoencoderLevel {
            channels,
            attention: false,
        };
        AutoencoderConfig {
            base_channels: channels[0],
            levels: channels.iter().map(level).collect(),
            middle_attention: attention,
            ..super::config(false)
        }
    }

    /// The same bits in bands; answers what bands gather.
    fn check(target: Target, graph: &Graph, eighths: &[usize]) -> BTreeSet<Summed> {
        let device = emulator_of(target);
        assert!(Program::new(&*device, graph.clone()).unwrap().is_linked());
        let most = equal_within_every_limit(&device, graph, eighths);
        assert!(most > 1, "one band");
        let bands = Bands::new(&device, graph.clone(), usize::MAX).unwrap();
        let passes = bands.schedule().passes.iter();
        let gathered = passes.flat_map(|pass| &pass.gathers);
        gathered.map(|of| of.blocks.summed).collect()
    }

    const EVERY: [Summed; 3] = [Summed::Groups, Summed::Channels, Summed::Phases];

    #[test]
    #[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
    fn decoders_in_bands_have_the_bits_of_the_whole() {
        let precision = Precision::F16;
        let build = |attention, latent| {
            let config = config(&[16, 24, 32], attention);
            autoencoder::build_decoder(&config, 1, latent).unwrap()
        };
        // The last level is 128 pixels wide, and its first normalisation of four phases; 192 are no two whole blocks of one.
        for (target, attention, latent, summed) in [
            (Target::a100(precision), true, [16, 32], &EVERY[1..]),
            (Target::rtx_4090(precision), false, [16, 32], &EVERY[1..]),
            (Target::rtx_4090(precision), false, [8, 48], &EVERY[..2]),
        ] {
            let found = check(target, &build(attention, latent), &[16, 7, 5, 3]);
            assert!(found.iter().eq(summed), "{latent:?}: {found:?}");
        }
    }

    #[test]
    #[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
    fn so_has_an_encoder() {
        let config = config(&[16, 24], true);
        let graph = autoencoder::build_encoder(&config, 1, [64, 128]).unwrap();
        let found = check(Target::a100(Precision::F16), &graph, &[16, 5]);
        assert!(found.iter().eq(&EVERY[1..2]), "{found:?}");
    }

    #[test]
    #[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
    fn so_have_decoders_by_the_products_of_hopper_gpus() {
        let target = Target {
            multiprocessors: 4,
            ..Target::h200(Precision::F16)
        };
        let graph = autoencoder::build_decoder(&config(&[64, 128], false), 1, [32, 64]).unwrap();
        let program = Program::new(&*emulator_of(target), graph.clone()).unwrap();
        let launches = program.kernels().flat_map(|kernel| &kernel.launches);
        let finds = launches.filter(|launch| {
            let mut arguments = launch.arguments.iter();
            arguments.any(|argument| matches!(argument, Argument::Tail(_)))
        });
        let phases: BTreeSet<u32> = finds
            .filter(|launch| launch.entry.ends_with("_sm90"))
            .map(|launch| launch.grid[2])
            .collect();
        assert!(phases.iter().eq(&[1, 4]), "{phases:?}");
        let found = check(target, &graph, &[5]);
        assert!(found.iter().eq(&EVERY[1..]), "{found:?}");
    }

    #[test]
    #[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
    fn an_image_has_the_same_bits_in_a_batch() {
        let device = emulator(Precision::F16);
        let decoder = |images| {
            autoencoder::build_decoder(&config(&[16, 24], true), images, [16, 32]).unwrap()
        };
        let (alone, pair) = (decoder(1), decoder(2));
        let name = &alone.outputs()[0].0;
        let results = [&alone, &pair].map(|graph| {
            let mut session = Session::new(&device, graph.clone(), &Weights::synthetic(5)).unwrap();
            for (input, x) in networks::inputs(&alone) {
                let images = graph.inputs().next().unwrap().1;
                let images = graph.shape(images).batch();
                let x = Tensor::stack(&vec![x.item(0).unwrap(); images]).unwrap();
                session.set(&input, &x).unwrap();
            }
            session.run().unwrap();
            session.get(name).unwrap()
        });
        let [alone, pair] = results;
        for index in 0..2 {
            assert_eq!(pair.item(index).unwrap().data(), alone.data());
        }
    }
}

#[test]
fn a_bound_that_nothing_fits_is_refused_in_a_sentence() {
    let refused = Bands::new(&cpu(), decoder(true, [16, 16]), 10_000)
        .err()
        .unwrap();
    assert_eq!(refused.exit_code(), 5);
    let sentence = refused.to_string();
    assert!(
        sentence.contains("decoder.") && sentence.contains("10 KiB"),
        "{sentence}"
    );
}
