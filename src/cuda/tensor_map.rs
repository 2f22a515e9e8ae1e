//! Tensor maps: what the copy engine of a Hopper GPU is told of a tensor, as data.
//!
//! A map says where the elements of a tensor of up to five axes lie and which box of them one load or store moves. It is a pure function of
//! shapes like every other argument of a launch, so it can be printed and reviewed, and is held to the engine's limits before a driver sees
//! it. Only its address is missing, which comes with the launch: then a GPU's driver, or the emulator, makes its 128 bytes of it.
//!
//! # Source
//! CUDA driver API, `cuTensorMapEncodeTiled`.

use std::fmt;

/// The most axes of a map.
const MOST_AXES: usize = 5;

/// The most elements that a box may have along an axis.
const MOST_OF_BOX: usize = 256;

/// The longest step along an axis.
const MOST_OF_STEP: usize = 8;

/// What addresses and pitches are multiples of, in bytes.
const ALIGNMENT: usize = 16;

/// Pitches are less, in bytes.
const PITCH_LIMIT: usize = 1 << 40;

/// Bytes of an element: a half.
const ELEMENT: usize = 2;

/// One axis of a tensor of halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Elements along it.
    pub extent: usize,
    /// Bytes from one element to the next; of the first axis always those of an element.
    pub pitch: usize,
    /// Elements of it that a box spans.
    pub span: usize,
    /// Of those that a box spans, whole steps of so many, the first of each is moved.
    pub step: usize,
}

impl Axis {
    /// An axis of which a box holds `span` elements side by side.
    pub const fn new(extent: usize, pitch: usize, span: usize) -> Self {
        Self {
            extent,
            pitch,
            span,
            step: 1,
        }
    }
}

/// In which order the 16-byte pieces of a box's rows lie in shared memory, so that reading a column meets every bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swizzle {
    /// One after another.
    None,
    /// Exchanged within 32 bytes.
    Bytes32,
    /// Exchanged within 64 bytes.
    Bytes64,
    /// Exchanged within 128 bytes.
    Bytes128,
}

impl Swizzle {
    /// The bytes that it exchanges within; a row of a box is no longer.
    pub fn bytes(self) -> usize {
        match self {
            Self::None => 0,
            Self::Bytes32 => 32,
            Self::Bytes64 => 64,
            Self::Bytes128 => 128,
        }
    }
}

/// A tensor of halves and the box of it that one load or store moves. What lies outside of the tensor is loaded as zero and stored nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Bytes from the operand's start to the first element.
    offset: usize,
    axes: [Axis; MOST_AXES],
    rank: usize,
    swizzle: Swizzle,
}

/// A map as it is passed to a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(128))]
pub struct Encoded(pub [u64; 16]);

impl TensorMap {
    /// The map of a tensor with these axes, the contiguous one first, `offset` bytes behind an operand's start.
    ///
    /// # Errors
    /// A sentence, if the copy engine has no such maps.
    pub fn new(offset: usize, axes: &[Axis], swizzle: Swizzle) -> Result<Self, String> {
        let rank = axes.len();
        if !(1..=MOST_AXES).contains(&rank) {
            return Err(format!(
                "a tensor map of {rank} axes, where 1 to {MOST_AXES} are possible"
            ));
        }
        if !offset.is_multiple_of(ALIGNMENT) {
            return Err(format!(
                "a tensor map that starts at byte {offset}, which is no multiple of {ALIGNMENT}"
            ));
        }
        for (number, axis) in axes.iter().enumerate() {
            check(number, axis).map_err(|problem| {
                format!("axis {number} of a tensor map ({axis:?}) has {problem}")
            })?;
        }
        let (row, most) = (axes[0].span * ELEMENT, swizzle.bytes());
        if !row.is_multiple_of(ALIGNMENT) || (swizzle != Swizzle::None && row > most) {
            return Err(format!(
                "a tensor map whose boxes have rows of {row} bytes, where {swizzle:?} takes multiples of {ALIGNMENT}{}",
                if most > 0 {
                    format!(" up to {most}")
                } else {
                    String::new()
                }
            ));
        }
        let mut all = [Axis::new(1, 0, 1); MOST_AXES];
        all[..rank].copy_from_slice(axes);
        Ok(Self {
            offset,
            axes: all,
            rank,
            swizzle,
        })
    }

    /// Bytes from the operand's start to the first element.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The axes, the contiguous one first.
    pub fn axes(&self) -> &[Axis] {
        &self.axes[..self.rank]
    }

    /// The order of pieces in shared memory.
    pub fn swizzle(&self) -> Swizzle {
        self.swizzle
    }

    /// Bytes from the operand's start to the end of the last element.
    pub fn end(&self) -> usize {
        let last = |axis: &Axis| (axis.extent - 1) * axis.pitch;
        self.offset + ELEMENT + self.axes().iter().map(last).sum::<usize>()
    }

    /// The map of an operand at `address`, as the emulator reads it: address; number of axes and bytes of the swizzle; extents; pitches of all
    /// axes but the first; spans and steps of the box, two to a word.
    pub fn described(&self, address: u64) -> Encoded {
        let mut words = [0; 16];
        words[0] = address + self.offset as u64;
        words[1] = self.rank as u64 | (self.swizzle.bytes() as u64) << 32;
        for (index, axis) in self.axes.iter().enumerate() {
            words[2 + index] = axis.extent as u64;
            if index > 0 {
                words[6 + index] = axis.pitch as u64;
            }
            for (place, value) in [(index, axis.span), (MOST_AXES + index, axis.step)] {
                words[11 + place / 2] |= (value as u64) << (place % 2 * 32);
            }
        }
        Encoded(words)
    }
}

/// What is wrong with an axis.
fn check(number: usize, axis: &Axis) -> Result<(), String> {
    let Axis {
        extent,
        pitch,
        span,
        step,
    } = *axis;
    let within = |what: &str, value: usize, most: usize| match (1..=most).contains(&value) {
        true => Ok(()),
        false => Err(format!("{what} {value}, where 1 to {most} are possible")),
    };
    within("an extent of", extent, u32::MAX as usize)?;
    within("a span of", span, MOST_OF_BOX)?;
    within("a step of", step, MOST_OF_STEP)?;
    if !span.is_multiple_of(step) {
        return Err(format!(
            "a span of {span}, which is no whole steps of {step}"
        ));
    }
    match number {
        0 if pitch != ELEMENT || step != 1 => {
            Err(format!("elements that are not the next {ELEMENT} bytes"))
        }
        1.. if !pitch.is_multiple_of(ALIGNMENT) || pitch >= PITCH_LIMIT => Err(format!(
            "a pitch of {pitch} bytes, which is no multiple of {ALIGNMENT} or too long"
        )),
        _ => Ok(()),
    }
}

impl fmt::Display for TensorMap {
    /// Extents, pitches and boxes, each along all axes.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let list = |values: &dyn Fn(&Axis) -> usize, between: &str, axes: &[Axis]| {
            let values: Vec<String> = axes.iter().map(|axis| values(axis).to_string()).collect();
            values.join(between)
        };
        let axes = self.axes();
        if self.offset > 0 {
            write!(f, "+{}", self.offset)?;
        }
        write!(f, "[{}", list(&|axis| axis.extent, "x", axes))?;
        if self.rank > 1 {
            write!(f, " pitch {}", list(&|axis| axis.pitch, ",", &axes[1..]))?;
        }
        write!(f, " box {}", list(&|axis| axis.span, "x", axes))?;
        if axes.iter().any(|axis| axis.step != 1) {
            write!(f, " step {}", list(&|axis| axis.step, "x", axes))?;
        }
        match self.swizzle {
            Swizzle::None => write!(f, "]"),
            swizzle => write!(f, " swizzle {}]", swizzle.bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of 320 halves: two images of 64 x 48 pixels, every other pixel of a row in boxes of 64 channels.
    const AXES: [Axis; 4] = [
        Axis::new(320, 2, 64),
        Axis {
            step: 2,
            ..Axis::new(48, 640, 16)
        },
        Axis::new(64, 30_720, 4),
        Axis::new(2, 1_966_080, 1),
    ];

    #[test]
    fn a_map_is_printed_and_described_in_full() {
        let map = TensorMap::new(64, &AXES, Swizzle::Bytes128).unwrap();
        assert_eq!(
            map.to_string(),
            "+64[320x48x64x2 pitch 640,30720,1966080 box 64x16x4x1 step 1x2x1x1 swizzle 128]"
        );
        assert_eq!(map.end(), 64 + 2 * 64 * 48 * 320 * 2);
        let pair = |low: u64, high: u64| low | high << 32;
        let words = [
            vec![1 << 20 | 64, pair(4, 128)],
            vec![320, 48, 64, 2, 1],
            vec![640, 30_720, 1_966_080, 0],
            vec![pair(64, 16), pair(4, 1), pair(1, 1), pair(2, 1), pair(1, 1)],
        ];
        assert_eq!(map.described(1 << 20).0.to_vec(), words.concat());
        let plain = TensorMap::new(0, &[Axis::new(8, 2, 8)], Swizzle::None).unwrap();
        assert_eq!(plain.to_string(), "[8 box 8]");
        assert_eq!(align_of_val(&plain.described(0)), 128);
    }

    #[test]
    fn what_the_copy_engine_cannot_do_is_refused() {
        let changed = |number: usize, change: &dyn Fn(&mut Axis)| {
            let mut axes = AXES;
            change(&mut axes[number]);
            TensorMap::new(0, &axes, Swizzle::Bytes128)
        };
        for (map, words) in [
            (TensorMap::new(0, &[], Swizzle::None), "of 0 axes"),
            (TensorMap::new(0, &[AXES[0]; 6], Swizzle::None), "of 6 axes"),
            (
                TensorMap::new(8, &AXES, Swizzle::None),
                "byte 8, which is no multiple of 16",
            ),
            (
                TensorMap::new(0, &AXES, Swizzle::Bytes64),
                "rows of 128 bytes, where Bytes64 takes multiples of 16 up to 64",
            ),
            (changed(0, &|axis| axis.span = 12), "rows of 24 bytes"),
            (changed(0, &|axis| axis.pitch = 4), "the next 2 bytes"),
            (changed(1, &|axis| axis.pitch = 648), "a pitch of 648 bytes"),
            (changed(1, &|axis| axis.pitch = 1 << 40), "or too long"),
            (changed(2, &|axis| axis.extent = 0), "an extent of 0"),
            (changed(2, &|axis| axis.extent = 1 << 32), "axis 2"),
            (changed(3, &|axis| axis.span = 257), "a span of 257"),
            (changed(3, &|axis| axis.step = 9), "a step of 9"),
            (changed(1, &|axis| axis.span = 15), "no whole steps of 2"),
        ] {
            let problem = map.unwrap_err();
            assert!(problem.contains(words), "{problem}");
        }
    }
}
