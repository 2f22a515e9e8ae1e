//! Shapes nobody thought of.

use crate::cases::{self, Filter};
use crate::checks;
use latent_diffusion::backend::Backend;
use latent_diffusion::ops::{Activation, Channels, Epilogue, Padding, Upsampling};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::sync::Arc;

/// Shapes per operation. The seed is fixed, so that a failure is everyone's.
fn runner() -> TestRunner {
    let config = Config {
        cases: 40,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(11),
        ..Config::default()
    };
    TestRunner::new(config)
}

fn epilogue() -> impl Strategy<Value = Epilogue> {
    let activations = [Activation::Silu, Activation::Gelu, Activation::QuickGelu];
    let activation = proptest::option::of(proptest::sample::select(activations.to_vec()));
    let channels =
        proptest::sample::select(vec![None, Some(Channels::PerImage), Some(Channels::Row)]);
    (channels, activation, any::<bool>()).prop_map(|(channels, activation, residual)| Epilogue {
        channels,
        activation,
        gate: false,
        residual,
    })
}

/// Matrix products.
pub fn linear<B: Backend>(backend: &Arc<B>) {
    let shapes = (
        1..4usize,
        1..40usize,
        1..150usize,
        1..80usize,
        any::<bool>(),
        epilogue(),
    );
    let outcome = runner().run(&shapes, |(n, rows, channels, out, bias, epilogue)| {
        let case = cases::linear([n, rows, channels].into(), out, bias, epilogue);
        checks::agrees(backend, &case).map_err(TestCaseError::fail)
    });
    outcome.unwrap();
}

/// Convolutions.
pub fn conv2d<B: Backend>(backend: &Arc<B>) {
    let image = (1..3usize, 1..11usize, 1..11usize, 1..40usize);
    let padding = (0..3usize, 0..3usize, 0..3usize, 0..3usize);
    let shapes = (
        image,
        1..40usize,
        1..4usize,
        1..3usize,
        padding,
        any::<bool>(),
        epilogue(),
    );
    let outcome = runner().run(
        &shapes,
        |(image, out, size, stride, padding, upsample, epilogue)| {
            let (n, h, w, channels) = image;
            let (top, left, bottom, right) = padding;
            let padding = Padding {
                top,
                left,
                bottom,
                right,
            };
            let (scale, upsampling) = match upsample {
                true => (2, Upsampling::Repeated),
                false => (1, Upsampling::None),
            };
            prop_assume!(scale * h + top + bottom >= size && scale * w + left + right >= size);
            let filter = Filter {
                size,
                stride,
                padding,
                upsampling,
            };
            let case = cases::conv2d([n, h, w, channels].into(), out, filter, epilogue);
            checks::agrees(backend, &case).map_err(TestCaseError::fail)
        },
    );
    outcome.unwrap();
}

/// Attention.
pub fn attention<B: Backend>(backend: &Arc<B>) {
    let shapes = (
        1..50usize,
        1..120usize,
        1..5usize,
        1..50usize,
        any::<bool>(),
    );
    let outcome = runner().run(&shapes, |(queries, keys, heads, size, causal)| {
        let keys = if causal { queries } else { keys };
        let case = cases::attention([queries, keys, heads, size], causal, 1.0);
        checks::agrees(backend, &case).map_err(TestCaseError::fail)
    });
    outcome.unwrap();
}
