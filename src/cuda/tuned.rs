//! Tiles that were measured to be quicker on one GPU than those the model of time picks: a small table that people can read.
//!
//! ```text
//! ldm tiles 1
//! device NVIDIA H200, sm_90, 132 multiprocessors
//! conv2d 2x64x64x320 of 320x320x3x3: 128x160
//! attention 2x4096x320 of 4096x320: 128x64
//! ```
//!
//! A table changes how fast results are made, and none of their bytes: over how many blocks a sum is split stays the model's answer, and every
//! tile of a family adds in the same order.

use super::kernel::Target;
use super::{Cuda, attention_sm90, tile, tile_sm90};
use crate::error::{Error, Result};
use crate::ops::Op;
use crate::tensor::Shape;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The first line of a table.
const HEAD: &str = "ldm tiles 1";

/// Rows and columns of a tile of a product; queries and keys of an attention's.
pub type TileSize = [usize; 2];

/// The tiles that one device takes, by shape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuned {
    device: String,
    tiles: BTreeMap<String, TileSize>,
}

/// A node as a table names it: what decides how long its product takes. `None` for operations that have no tiles.
pub fn shape_name(op: &Op, inputs: &[Shape], output: Shape) -> Option<String> {
    let joined = |shape: &Shape| -> String {
        let sizes: Vec<String> = shape.dims().iter().map(usize::to_string).collect();
        sizes.join("x")
    };
    let factor = match op {
        Op::Linear(_) | Op::Conv2d(_) => {
            let params = op.operator().params();
            joined(&params.first()?.shape)
        }
        Op::Attention(attention) => {
            let [_, keys, _] = attention.roles(inputs)?[1].tokens()?;
            format!("{keys} keys in {} heads", attention.heads)
        }
        _ => return None,
    };
    Some(format!("{} {} of {factor}", op.name(), joined(&output)))
}

/// Every tile that a table may name.
pub fn tile_sizes() -> Vec<TileSize> {
    let products = tile::sizes().chain(tile_sm90::sizes());
    let mut sizes: Vec<TileSize> = products.chain(attention_sm90::sizes()).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

impl Tuned {
    /// A table without tiles for a device, as [`Cuda::described`] names it.
    pub fn new(device: impl Into<String>) -> Self {
        Self {
            device: device.into(),
            tiles: BTreeMap::new(),
        }
    }

    /// The device it was measured on.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// How many shapes have a tile.
    pub fn len(&self) -> usize {
        self.tiles.len()
    }

    /// Whether no shape has a tile.
    pub fn is_empty(&self) -> bool {
        self.tiles.is_empty()
    }

    /// Gives the shape of this [name](shape_name) a tile.
    pub fn set(&mut self, shape: String, tile: TileSize) {
        self.tiles.insert(shape, tile);
    }

    /// Reads a table.
    ///
    /// # Errors
    /// If a line is not as they should be: a sentence that names it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text
            .lines()
            .enumerate()
            .map(|(number, line)| (number + 1, line.trim()));
        if lines.next().is_none_or(|(_, line)| line != HEAD) {
            return Err(format!(
                "the first line is not `{HEAD}`: this is no table of `ldm tune`"
            ));
        }
        let device = lines
            .next()
            .and_then(|(_, line)| line.strip_prefix("device "));
        let mut table = Self::new(
            device.ok_or("line 2: expected `device` and what the table was measured on")?,
        );
        for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let expected =
                || format!("line {number}: expected `SHAPE: ROWSxCOLUMNS`, not `{line}`");
            let (shape, tile) = line.rsplit_once(": ").ok_or_else(expected)?;
            let (rows, columns) = tile.split_once('x').ok_or_else(expected)?;
            let [rows, columns] = [rows, columns].map(|side| side.parse().map_err(|_| expected()));
            let tile = [rows?, columns?];
            if !tile_sizes().contains(&tile) {
                return Err(format!(
                    "line {number}: no kernel computes tiles of {}x{}",
                    tile[0], tile[1]
                ));
            }
            if table.tiles.insert(shape.to_owned(), tile).is_some() {
                return Err(format!("line {number}: `{shape}` has a tile already"));
            }
        }
        Ok(table)
    }

    /// An error unless it was measured on `device`.
    pub(super) fn fits(&self, device: &str) -> Result<()> {
        match self.device == device {
            true => Ok(()),
            false => Err(Error::request(format!(
                "the table of tiles is of another device: {}, not {device}; `ldm tune` makes one for this",
                self.device
            ))),
        }
    }

    /// `target`, preferring the tile of a node if it has one.
    pub(super) fn target(
        &self,
        target: &Target,
        op: &Op,
        inputs: &[Shape],
        output: Shape,
    ) -> Target {
        let found = match self.is_empty() {
            true => None,
            false => {
                shape_name(op, inputs, output).and_then(|shape| self.tiles.get(&shape).copied())
            }
        };
        Target {
            prefer: found.or(target.prefer),
            ..*target
        }
    }
}

impl Cuda {
    /// The same device, taking the tiles of a table. Results stay the same, to the bit.
    ///
    /// # Errors
    /// If the table is of another device.
    pub fn with_tuned(self, tuned: Tuned) -> Result<Self> {
        tuned.fits(&self.described())?;
        Ok(Self {
            tuned: Arc::new(tuned),
            ..self
        })
    }

    /// The same device, its memory and weights too, taking tiles of this size wherever a product or attention has them.
    pub fn preferring(&self, tile: Option<[usize; 2]>) -> Self {
        Self {
            tuned: Arc::default(),
            ..self.at(Target {
                prefer: tile,
                ..self.target
            })
        }
    }

    /// The device as tables of tiles name it.
    pub fn described(&self) -> String {
        let name = match self.door.gpu() {
            Some(gpu) => &gpu.name,
            None => "emulator",
        };
        let Target {
            compute_capability,
            multiprocessors,
            ..
        } = self.target;
        let tier = self.tier();
        format!("{name}, sm_{compute_capability}, {multiprocessors} multiprocessors{tier}")
    }
}

impl fmt::Display for Tuned {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "{HEAD}\ndevice {}", self.device)?;
        (self.tiles.iter())
            .try_for_each(|(shape, [rows, columns])| writeln!(f, "{shape}: {rows}x{columns}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_as_they_are_written() {
        let mut table = Tuned::new("NVIDIA H200, sm_90, 132 multiprocessors");
        table.set("conv2d 2x64x64x320 of 320x320x3x3".to_owned(), [128, 64]);
        table.set("linear 2x4096x320 of 320x320".to_owned(), [64, 64]);
        assert_eq!(Tuned::parse(&table.to_string()), Ok(table.clone()));
        let commented = format!("{table}\n# a remark\n");
        assert_eq!(Tuned::parse(&commented), Ok(table));
    }

    #[test]
    fn what_is_no_table_is_refused_by_its_line() {
        for (text, expected) in [
            ("", "the first line"),
            ("PNG", "the first line"),
            ("ldm tiles 1\nlinear", "line 2"),
            (
                "ldm tiles 1\ndevice x\nlinear 1x2 of 3x4",
                "line 3: expected",
            ),
            ("ldm tiles 1\ndevice x\n\nlinear: 64xb", "line 4: expected"),
            ("ldm tiles 1\ndevice x\nlinear: 63x64", "line 3: no kernel"),
            (
                "ldm tiles 1\ndevice x\na: 64x64\na: 128x64",
                "line 4: `a` has a tile already",
            ),
        ] {
            let problem = Tuned::parse(text).unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        }
        let other = Tuned::new("A100").fits("H200").unwrap_err().to_string();
        assert!(other.contains("A100, not H200"), "{other}");
    }
}
