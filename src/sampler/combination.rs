//! Linear combinations as values: a sampler's formula, evaluated on these, leaves its coefficients behind.

use std::ops::{Add, Mul, Sub};

/// How many earlier results a sampler may keep: PLMS needs three.
pub const MAX_MEMORY: usize = 3;

/// How many vectors a [`Combination`] ranges over: the state, the network's output, fresh noise, the memory, and the quantised image.
pub const TERMS: usize = 4 + MAX_MEMORY;

/// A sum of the vectors at hand, each times its coefficient.
///
/// The order is: state `x`, network output, noise, then the memory, latest first, then the quantised image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Combination([f64; TERMS]);

impl Combination {
    /// The state, where the network was evaluated.
    pub const X: Self = Self::term(0);
    /// What the network answered there, guidance included.
    pub const OUTPUT: Self = Self::term(1);
    /// Fresh standard normal noise.
    pub const NOISE: Self = Self::term(2);
    /// What earlier rows kept, latest first.
    pub const MEMORY: [Self; MAX_MEMORY] = [Self::term(3), Self::term(4), Self::term(5)];

    /// The predicted image, made of a codebook's nearest codes: see [`Row::quantised`](super::Row::quantised).
    pub const QUANTISED: Self = Self::term(TERMS - 1);

    /// One vector alone.
    const fn term(index: usize) -> Self {
        let mut coefficients = [0.0; TERMS];
        coefficients[index] = 1.0;
        Self(coefficients)
    }

    /// The coefficients of state, output, noise, `MEMORY[0..]` and the quantised image, in that order.
    pub fn coefficients(&self) -> &[f64; TERMS] {
        &self.0
    }

    /// The coefficient of the state.
    pub(super) fn of_state(self) -> f64 {
        self.0[0]
    }

    /// The coefficient of the network's output.
    pub(super) fn of_output(self) -> f64 {
        self.0[1]
    }

    /// The coefficient of fresh noise.
    pub fn of_noise(self) -> f64 {
        self.0[2]
    }

    /// The coefficient of the quantised image.
    pub fn of_quantised(&self) -> f64 {
        self.0[TERMS - 1]
    }

    /// Whether every coefficient is a finite number.
    pub(super) fn is_finite(self) -> bool {
        self.0.iter().all(|c| c.is_finite())
    }
}

impl Add for Combination {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }
}

impl Sub for Combination {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] - other.0[i]))
    }
}

impl Mul<Combination> for f64 {
    type Output = Combination;
    fn mul(self, combination: Combination) -> Combination {
        Combination(combination.0.map(|c| self * c))
    }
}
