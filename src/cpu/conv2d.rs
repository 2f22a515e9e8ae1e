//! Convolutions: rows are the pixels under the filter, read straight from the image.

use super::epilogue::Finish;
use super::matmul::{self, Factor, Rows};
use super::simd::{self, BLOCK, Loop, Row, Stored};
use crate::ops::{Conv2d, Slice, Upsampling};
use crate::plan::depth::{Depth, PHASES};
use crate::weights::TensorView;
use std::ops::Range;

/// Runs of this many channels are copied without a call; blocks of a 3x3 filter have as many.
const RUN: usize = 32;

/// The windows of a filter over a batch of images.
struct Windows<'a> {
    op: &'a Conv2d,
    sources: &'a [Slice<'a>],
    image: [usize; 4],
    /// Rows and columns of the result.
    result: [usize; 2],
    /// Whether upsampling is folded into the filter.
    folded: bool,
}

/// Where one part's windows lie.
struct Geometry {
    /// Rows and columns of pixels under a window.
    window: [usize; 2],
    /// Rows and columns of windows.
    count: [usize; 2],
    stride: usize,
    /// Pixels by which the first window reaches beyond the image, above and to the left.
    before: [usize; 2],
    /// Each pixel stands for two rows and columns.
    upsample: bool,
}

impl Windows<'_> {
    fn geometry(&self, part: usize) -> Geometry {
        let [_, _, filter_h, filter_w] = self.op.weight.shape.image().unwrap_or([0; 4]);
        let [height, width] = self.result;
        if self.folded {
            return Geometry {
                window: [2, 2],
                count: [height / 2, width / 2],
                stride: 1,
                before: [1 - part / 2, 1 - part % 2],
                upsample: false,
            };
        }
        Geometry {
            window: [filter_h, filter_w],
            count: self.result,
            stride: self.op.stride,
            before: [self.op.padding.top, self.op.padding.left],
            upsample: self.op.upsampling == Upsampling::Repeated,
        }
    }
}

impl Rows for Windows<'_> {
    fn count(&self) -> usize {
        self.image[0] * self.result[0] * self.result[1]
    }

    fn part(&self, row: usize) -> usize {
        if self.folded {
            let [y, x] = [row / self.result[1], row % self.result[1]];
            y % 2 * 2 + x % 2
        } else {
            0
        }
    }

    fn gather(&self, part: usize, rows: Range<usize>, channels: Range<usize>, out: &mut [Row]) {
        for (source, own, at) in matmul::parts(self.sources, &channels) {
            let [n, h, w, _] = self.image;
            simd::vectorised(Gather {
                x: source.data,
                image: [n, h, w, source.shape.channels()],
                geometry: self.geometry(part),
                rows: rows.clone(),
                channels: own,
                at,
                run: channels.len(),
                out: &mut *out,
            });
        }
    }
}

struct Gather<'a> {
    x: &'a [f32],
    image: [usize; 4],
    geometry: Geometry,
    rows: Range<usize>,
    channels: Range<usize>,
    /// Where the channels go among those of a pixel.
    at: usize,
    /// How many there are of a pixel.
    run: usize,
    out: &'a mut [Row],
}

impl Loop for Gather<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let [_, h, w, c] = self.image;
        let Geometry {
            window: [window_h, window_w],
            count: [height, width],
            stride,
            before,
            upsample,
        } = self.geometry;
        let source = |at: usize, before: usize, size: usize| {
            let at = at.checked_sub(before)?;
            let at = if upsample { at / 2 } else { at };
            (at < size).then_some(at)
        };
        let (run, taken) = (self.run, self.channels.len());
        let first = self.rows.start;
        let [mut image, mut y, mut x] = [
            first / (height * width),
            first / width % height,
            first % width,
        ];
        for out in self.out {
            for (i, out) in out.chunks_mut(window_w * run).take(window_h).enumerate() {
                let Some(sy) = source(y * stride + i, before[0], h) else {
                    out.fill(0.0);
                    continue;
                };
                let pixels = &self.x[(image * h + sy) * w * c..][..w * c];
                for (j, out) in out.chunks_exact_mut(run).enumerate() {
                    let Some(sx) = source(x * stride + j, before[1], w) else {
                        out.fill(0.0);
                        continue;
                    };
                    let pixel = &pixels[sx * c + self.channels.start..][..taken];
                    let out = &mut out[self.at..][..taken];
                    match (out.first_chunk_mut::<RUN>(), pixel.first_chunk::<RUN>()) {
                        (Some(out), Some(pixel)) if taken == RUN => *out = *pixel,
                        _ => out.copy_from_slice(pixel),
                    }
                }
            }
            x += 1;
            if x == width {
                (x, y) = (0, y + 1);
                if y == height {
                    (y, image) = (0, image + 1);
                }
            }
        }
    }
}

/// The sums of each phase of a 3x3 filter over an image upsampled by two.
fn folded_depths(channels: usize) -> Option<Vec<Depth>> {
    let taps = PHASES.into_iter();
    taps.map(|taps| Depth::folded(channels, taps.to_vec(), BLOCK))
        .collect()
}

/// Runs the operation, or returns `false` if its filter is larger than a block of a sum can be.
pub(super) fn run(
    op: &Conv2d,
    inputs: &[Slice],
    weights: &[TensorView],
    output: &mut [f32],
) -> bool {
    // The CPU gains nothing by that, and no network has it here.
    if op.beside.is_some() {
        return false;
    }
    let (sources, operands) = inputs.split_at(op.sources);
    let (Some([n, h, w, _]), Some([outputs, channels, filter_h, filter_w])) =
        (sources[0].shape.image(), op.weight.shape.image())
    else {
        return false;
    };
    let image = [n, h, w, channels];
    let folded = op.upsampling == Upsampling::Phases;
    let depths = if folded {
        folded_depths(channels)
    } else {
        Depth::new(channels, filter_h * filter_w, BLOCK).map(|depth| vec![depth])
    };
    let Some(depths) = depths else {
        return false;
    };
    let [source_h, source_w] = op.source_size(image);
    let (stride, padding) = (op.stride, op.padding);
    let result = [
        (source_h + padding.top + padding.bottom - filter_h) / stride + 1,
        (source_w + padding.left + padding.right - filter_w) / stride + 1,
    ];
    let windows = Windows {
        op,
        sources,
        image,
        result,
        folded,
    };
    let factor = Factor {
        stored: Stored::from(&weights[0]),
        outputs,
        depths,
    };
    let bias = weights.get(1).map(TensorView::to_f32);
    let finish = Finish::new(op.epilogue, outputs, bias, result[0] * result[1], operands);
    matmul::multiply(&windows, &factor, &finish, output);
    true
}
