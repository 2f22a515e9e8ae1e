//! Elementary functions in f32 arithmetic that compilers vectorise: no branches, no tables, no calls.
//!
//! Each is a few units in the last place off, and NaN in gives NaN out. `FUSED` is as in [`Loop`](super::simd::Loop).

use crate::ops::Activation;

/// `a b + c`, rounded once where that is one instruction.
#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// `e^x` to 2 units in the last place, saturating at `e^-87` and `e^88`.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; `e^r` is the Taylor polynomial of degree 7, whose remainder there is below 6e-9, and `2^n` is
/// written into the exponent.
#[inline(always)]
pub(super) fn exp<const FUSED: bool>(x: f32) -> f32 {
    // Adding it rounds to the nearest integer and leaves that integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts: products of the first, 9 bits long, with n are exact.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = multiply_add::<FUSED>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = multiply_add::<FUSED>(-n, LN2_LOW, x - n * LN2_HIGH);
    let mut sum = 1.0 / 5040.0;
    for factor in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        sum = multiply_add::<FUSED>(sum, r, factor);
    }
    sum * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// `erfc(z) e^(z z)` for `z >= 0`, to a relative 3e-7: a polynomial in `t = 1 / (1 + 0.4 z)` without constant term, fitted by least
/// squares of the relative error at 400 Chebyshev nodes of `[0.02, 1]`.
#[inline(always)]
fn scaled_erfc<const FUSED: bool>(z: f32) -> f32 {
    const COEFFICIENTS: [f32; 9] = [
        0.050_886_333,
        -0.185_484_65,
        0.173_478_35,
        -0.009_564_81,
        0.143_460_3,
        0.167_950_81,
        0.207_934_81,
        0.225_662_98,
        0.225_676_02,
    ];
    let t = 1.0 / (1.0 + 0.4 * z);
    let mut sum = 0.0;
    for coefficient in COEFFICIENTS {
        sum = multiply_add::<FUSED>(sum, t, coefficient);
    }
    sum * t
}

/// GELU with the error function, as `max(x, 0) - |x| erfc(|x| / sqrt 2) / 2`: no cancellation on either side of zero.
#[inline(always)]
fn gelu<const FUSED: bool>(x: f32) -> f32 {
    let size = x.abs();
    let tail =
        scaled_erfc::<FUSED>(size * std::f32::consts::FRAC_1_SQRT_2) * exp::<FUSED>(-0.5 * x * x);
    let positive = if x > 0.0 { x } else { 0.0 };
    positive - 0.5 * size * tail
}

#[inline(always)]
fn silu<const FUSED: bool>(x: f32) -> f32 {
    x / (1.0 + exp::<FUSED>(-x))
}

#[inline(always)]
fn quick_gelu<const FUSED: bool>(x: f32) -> f32 {
    x / (1.0 + exp::<FUSED>(-1.702 * x))
}

/// Applies a non-linearity to every value.
#[inline(always)]
pub(super) fn activate<const FUSED: bool>(activation: Activation, values: &mut [f32]) {
    match activation {
        Activation::Silu => values.iter_mut().for_each(|x| *x = silu::<FUSED>(*x)),
        Activation::Gelu => values.iter_mut().for_each(|x| *x = gelu::<FUSED>(*x)),
        Activation::QuickGelu => values.iter_mut().for_each(|x| *x = quick_gelu::<FUSED>(*x)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exp_is_within_two_units_in_the_last_place<const FUSED: bool>() {
        let mut worst = 0.0f64;
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp::<FUSED>(x)) / exact - 1.0).abs());
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "{worst:e}");
        assert_eq!(exp::<FUSED>(0.0), 1.0);
        assert!(exp::<FUSED>(f32::NEG_INFINITY) < 1e-37 && exp::<FUSED>(f32::INFINITY) > 1e38);
        assert!(exp::<FUSED>(f32::NAN).is_nan());
    }

    /// The exponential of an argument that itself is rounded, a division and a handful of roundings: 16 half units, of the
    /// operand where the result is a difference.
    fn activations_are_close_to_their_definitions<const FUSED: bool>() {
        for activation in [Activation::Silu, Activation::Gelu, Activation::QuickGelu] {
            for i in -20_000..20_000 {
                let x = i as f32 * 1e-3;
                let mut y = [x];
                activate::<FUSED>(activation, &mut y);
                let expected = activation.apply(x);
                let bound = 8.0 * f32::EPSILON * expected.abs().max(1e-30) + f32::EPSILON * x.abs();
                let error = (y[0] - expected).abs();
                assert!(error <= bound, "{activation:?}({x}): {} {expected}", y[0]);
            }
            let mut y = [f32::NAN];
            activate::<FUSED>(activation, &mut y);
            assert!(y[0].is_nan());
        }
    }

    #[test]
    fn with_and_without_multiply_add() {
        exp_is_within_two_units_in_the_last_place::<false>();
        exp_is_within_two_units_in_the_last_place::<true>();
        activations_are_close_to_their_definitions::<false>();
        activations_are_close_to_their_definitions::<true>();
    }
}
