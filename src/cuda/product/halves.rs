//! Products that may be summed in halves ([`Sums`]), and their entries.

use super::Product;
use crate::cuda::kernel::{Sums, Target};
use crate::cuda::tile::{PART, Problem, Tile};

/// How the names of entries end that sum in halves.
pub(in crate::cuda) const HALVES: &str = "_half";

impl Product<'_> {
    /// The problem with sums in f32, or in halves if the node may have them and they take less time: one image's choice, as they are other bits.
    pub(super) fn quicker_sums(
        &self,
        target: &Target,
        clocks: impl Fn(&Problem, &Target) -> f64,
    ) -> Problem {
        let plain = self.problem();
        if target.sums != Sums::Halves || !plain.aligned {
            return plain;
        }
        let halves = Problem {
            in_halves: match self.bounded == self.k {
                true => self.k,
                false => self.bounded / PART * PART,
            },
            ..plain
        };
        match clocks(&halves, target) < clocks(&plain, target) {
            true => halves,
            false => plain,
        }
    }

    /// The entry that computes a tile of a problem.
    pub(super) fn entry(&self, problem: &Problem, tile: &Tile) -> String {
        let what = if problem.aligned { "" } else { "_any" };
        let sums = if problem.in_halves > 0 { HALVES } else { "" };
        let [rows, columns] = tile.size();
        format!("{}{what}_f16_{rows}x{columns}{sums}", self.name)
    }
}
