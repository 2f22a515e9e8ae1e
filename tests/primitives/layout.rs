//! Where the elements of matrices lie in a warp, written from the PTX ISA ("Warp-level matrix instructions") and from nothing of ours.

use half::f16;

/// Lanes of a warp.
pub const WARP: usize = 32;

/// Two halves in a word, the first in the low bits.
pub fn pair(low: f16, high: f16) -> u32 {
    u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16
}

/// A dense matrix of exact values.
#[derive(Clone)]
pub struct Matrix {
    pub columns: usize,
    pub values: Vec<f32>,
}

impl Matrix {
    /// `rows x columns` values, each made from its place.
    pub fn from_fn(rows: usize, columns: usize, value: impl Fn(usize, usize) -> f32) -> Self {
        let places = (0..rows * columns).map(|i| value(i / columns, i % columns));
        Self {
            columns,
            values: places.collect(),
        }
    }

    pub fn at(&self, row: usize, column: usize) -> f32 {
        self.values[row * self.columns + column]
    }

    fn half(&self, row: usize, column: usize) -> f16 {
        f16::from_f32(self.at(row, column))
    }

    /// `self * right + sum`, in f64.
    pub fn multiply_add(&self, right: &Self, sum: &Self) -> Self {
        let rows = self.values.len() / self.columns;
        Self::from_fn(rows, right.columns, |row, column| {
            let products = (0..self.columns)
                .map(|k| f64::from(self.at(row, k)) * f64::from(right.at(k, column)));
            (products.sum::<f64>() + f64::from(sum.at(row, column))) as f32
        })
    }
}

/// The place of a lane in a fragment: `groupID` and `threadID_in_group`.
fn place(lane: usize) -> (usize, usize) {
    (lane / 4, lane % 4)
}

/// The words of lane `lane` of A, `16 x 16` halves from `(0, 0)`: element `i` of eight lies in row `groupID`, or 8 below for `i` in 2, 3, 6, 7,
/// and in column `2 threadID_in_group + i % 2`, or 8 to the right from `i = 4` on.
pub fn fragment_a(a: &Matrix, lane: usize) -> [u32; 4] {
    let (group, thread) = place(lane);
    let element = |i: usize| {
        let row = group + if matches!(i, 2 | 3 | 6 | 7) { 8 } else { 0 };
        let column = 2 * thread + i % 2 + if i >= 4 { 8 } else { 0 };
        a.half(row, column)
    };
    [0, 2, 4, 6].map(|i| pair(element(i), element(i + 1)))
}

/// The words of lane `lane` of B, `16 x 8` halves: element `i` of four lies in row `2 threadID_in_group + i % 2`, or 8 below from `i = 2` on,
/// and in column `groupID`.
pub fn fragment_b(b: &Matrix, lane: usize) -> [u32; 2] {
    let (group, thread) = place(lane);
    let element = |i: usize| {
        let row = 2 * thread + i % 2 + if i >= 2 { 8 } else { 0 };
        b.half(row, group)
    };
    [0, 2].map(|i| pair(element(i), element(i + 1)))
}

/// The elements of lane `lane` of C or D, `16 x 8`: element `i` of four lies in row `groupID`, or 8 below from `i = 2` on, and in column
/// `2 threadID_in_group + i % 2`.
pub fn fragment_d(d: &Matrix, lane: usize) -> [f32; 4] {
    let (group, thread) = place(lane);
    [0, 1, 2, 3].map(|i| d.at(group + if i >= 2 { 8 } else { 0 }, 2 * thread + i % 2))
}

/// The same with elements of halves, two in a word.
pub fn fragment_d_halves(d: &Matrix, lane: usize) -> [u32; 2] {
    let elements = fragment_d(d, lane).map(f16::from_f32);
    [
        pair(elements[0], elements[1]),
        pair(elements[2], elements[3]),
    ]
}

/// What `ldmatrix.x4` gives lane `lane` of four `8 x 8` matrices: lane `8 i + r` names row `r` of matrix `i`, and every lane receives of each
/// matrix elements `2 threadID_in_group` and the next of row `groupID`; with `.trans`, of column `groupID`.
pub fn loaded(named: &[[u16; 8]; WARP], lane: usize, transposed: bool) -> [u32; 4] {
    let (group, thread) = place(lane);
    [0, 1, 2, 3].map(|matrix| {
        let element = |i: usize| {
            let along = 2 * thread + i;
            let (row, column) = if transposed {
                (along, group)
            } else {
                (group, along)
            };
            u32::from(named[8 * matrix + row][column])
        };
        element(0) | element(1) << 16
    })
}
