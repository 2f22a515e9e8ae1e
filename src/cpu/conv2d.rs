//! Convolutions: rows are the pixels under the filter, read straight from the image.

use super::epilogue::Finish;
use super::matmul::{self, Factor, Rows};
use super::simd::{self, BLOCK, Loop, Row, Stored};
use crate::ops::{Conv2d, Slice};
use crate::plan::pack::Depth;
use crate::weights::TensorView;
use std::ops::Range;

/// Channels per block of a 3x3 filter where there are many: runs of this length are copied without a call.
const RUN: usize = 32;

/// The windows of a filter over a batch of images.
struct Windows<'a> {
    op: &'a Conv2d,
    x: &'a [f32],
    image: [usize; 4],
    /// Rows and columns of the filter.
    filter: [usize; 2],
    /// Rows and columns of the result.
    result: [usize; 2],
}

impl Rows for Windows<'_> {
    fn count(&self) -> usize {
        self.image[0] * self.result[0] * self.result[1]
    }

    fn gather(&self, rows: Range<usize>, channels: Range<usize>, out: &mut [Row]) {
        simd::vectorised(Gather {
            windows: self,
            rows,
            channels,
            out,
        });
    }
}

impl Windows<'_> {
    /// The pixel of the stored image at `at` of the padded and upsampled one, along one axis; `None` in the padding.
    #[inline(always)]
    fn source(&self, at: usize, before: usize, size: usize) -> Option<usize> {
        let at = at.checked_sub(before)?;
        let at = if self.op.upsample { at / 2 } else { at };
        (at < size).then_some(at)
    }
}

struct Gather<'a, 'b> {
    windows: &'a Windows<'a>,
    rows: Range<usize>,
    channels: Range<usize>,
    out: &'b mut [Row],
}

impl Loop for Gather<'_, '_> {
    #[inline(always)]
    fn run(self) {
        let windows = self.windows;
        let [_, h, w, c] = windows.image;
        let [height, width] = windows.result;
        let [filter_h, filter_w] = windows.filter;
        let (stride, padding) = (windows.op.stride, windows.op.padding);
        let run = self.channels.len();
        let first = self.rows.start;
        let [mut image, mut y, mut x] = [
            first / (height * width),
            first / width % height,
            first % width,
        ];
        for out in self.out {
            for i in 0..filter_h {
                let source_y = windows.source(y * stride + i, padding.top, h);
                for j in 0..filter_w {
                    let source_x = windows.source(x * stride + j, padding.left, w);
                    let out = &mut out[(i * filter_w + j) * run..][..run];
                    let (Some(sy), Some(sx)) = (source_y, source_x) else {
                        out.fill(0.0);
                        continue;
                    };
                    let pixel = ((image * h + sy) * w + sx) * c;
                    let pixel = &windows.x[pixel + self.channels.start..][..run];
                    match (out.first_chunk_mut::<RUN>(), pixel.first_chunk::<RUN>()) {
                        (Some(out), Some(pixel)) if run == RUN => *out = *pixel,
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

/// Runs the operation, or returns `false` if its filter is larger than a block of a sum can be.
pub(super) fn run(
    op: &Conv2d,
    inputs: &[Slice],
    weights: &[TensorView],
    output: &mut [f32],
) -> bool {
    let [x, operands @ ..] = inputs else {
        return false;
    };
    let (Some(image), Some([outputs, channels, filter_h, filter_w])) =
        (x.shape.image(), op.weight.shape.image())
    else {
        return false;
    };
    let Some(depth) = Depth::new(channels, filter_h * filter_w, BLOCK) else {
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
        x: x.data,
        image,
        filter: [filter_h, filter_w],
        result,
    };
    let factor = Factor {
        stored: Stored::from(&weights[0]),
        outputs,
        depth,
    };
    let bias = weights.get(1).map(TensorView::to_f32);
    let finish = Finish::new(op.epilogue, outputs, bias, result[0] * result[1], operands);
    matmul::multiply(&windows, &factor, &finish, output);
    true
}
