//! Functions of one number or two.

use crate::cases::{Case, DENORMAL, Expected, bits, each};

/// `2^x` is denormal below -126, and then zero.
pub fn exp2() -> Case {
    let special = [
        (0.0, 1.0),
        (-0.0, 1.0),
        (DENORMAL, 1.0),
        (-DENORMAL, 1.0),
        (f32::NEG_INFINITY, 0.0),
        (f32::INFINITY, f64::INFINITY),
        (f32::NAN, f64::NAN),
        (128.0, f64::INFINITY),
        (-126.5, 0.0),
        (-140.0, 0.0),
        (-1e30, 0.0),
        (-126.0, 2f64.powi(-126)),
    ];
    let usual = (0..2000).map(|i| {
        let x = (i as f32 - 1000.0) * 0.125_37;
        (x, f64::from(x).exp2())
    });
    let (x, y): (Vec<f32>, Vec<f64>) = special.into_iter().chain(usual).unzip();
    each("primitive_exp2", bits(&x), x.len(), Expected::Near(y, 2.0))
}

/// Denormals are zeros, as operands and as results.
pub fn reciprocal() -> Case {
    let special = [
        (0.0, f64::INFINITY),
        (-0.0, f64::NEG_INFINITY),
        (DENORMAL, f64::INFINITY),
        (-DENORMAL, f64::NEG_INFINITY),
        (f32::INFINITY, 0.0),
        (f32::NEG_INFINITY, -0.0),
        (f32::MAX, 0.0),
        (-1.5e38, -0.0),
        (f32::NAN, f64::NAN),
    ];
    let usual = (0..2000).map(|i| {
        let x = 1.017_3f32.powi(i - 1000) * if i % 2 == 0 { 1.0 } else { -1.0 };
        (x, 1.0 / f64::from(x))
    });
    let (x, y): (Vec<f32>, Vec<f64>) = special.into_iter().chain(usual).unzip();
    each(
        "primitive_reciprocal",
        bits(&x),
        x.len(),
        Expected::Near(y, 1.0),
    )
}

/// NaN wins against everything, and a positive zero against a negative one.
pub fn maximum() -> Case {
    let special = [
        0.0,
        -0.0,
        1.5,
        -1.5,
        DENORMAL,
        f32::MAX,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        -f32::NAN,
    ];
    let pairs = special.iter().flat_map(|&a| special.map(|b| [a, b]));
    let pairs: Vec<[f32; 2]> = pairs.collect();
    let larger = pairs.iter().map(|&[a, b]| match a.partial_cmp(&b) {
        None => f32::NAN,
        Some(std::cmp::Ordering::Equal) if a.is_sign_negative() => b,
        Some(std::cmp::Ordering::Less) => b,
        Some(_) => a,
    });
    let expected = Expected::Floats(larger.collect());
    let (x, count) = (bits(pairs.as_flattened()), pairs.len());
    each("primitive_maximum", x, count, expected)
}
