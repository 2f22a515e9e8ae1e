//! Convolutions.

use super::kernel::{self, Argument};
use super::moments::Asked;
use super::product::{self, Factor, Pixels, Product, Rows, Sources};
use super::{Kernel, Layout, Recipe, Target};
use crate::ops::{Conv2d, Upsampling};
use crate::tensor::Shape;

/// The launches, and what is asked for besides the result.
pub(super) fn select(
    op: &Conv2d,
    inputs: &[Shape],
    output: Shape,
    target: &Target,
    asked: Asked,
) -> Result<Kernel, String> {
    let image = |shape: Option<&Shape>| shape.and_then(Shape::image).ok_or("takes images");
    let [_, h, w, _] = image(inputs.first())?;
    let [_, mut out_h, mut out_w, _] = image(Some(&output))?;
    let [_, _, mut filter_h, mut filter_w] = image(Some(&op.weight.shape))?;
    if op.upsampling == Upsampling::Phases {
        // The entries are told of one phase over the image itself, and which it is by the grid.
        [out_h, out_w, filter_h, filter_w] = [h, w, 2, 2];
    }
    let beside = op.beside.as_ref().map_or(0, |beside| beside.sources);
    let (shapes, others) = inputs
        .split_at_checked(op.sources + beside)
        .ok_or("takes one or two sources, and as many beside")?;
    let pointers = [
        product::pair(0, op.sources),
        product::pair(op.sources, beside),
    ];
    let sources = Sources {
        shapes,
        pointers: pointers.concat(),
        others,
    };
    let product = Product::new("conv2d", sources, factor(op), &op.epilogue, output)?;
    let product = product.and(asked);
    let (own, beside) = shapes.split_at(op.sources);
    // Lines and columns of the padded, upsampled image are counted in 32 bits too.
    let [source_h, source_w] = op.source_size([1, h, w, 1]);
    let padding = op.padding;
    kernel::int(source_h + padding.top + padding.bottom)?;
    kernel::int(source_w + padding.left + padding.right)?;
    let sizes = [
        out_h,
        out_w,
        filter_h,
        filter_w,
        op.stride,
        padding.top,
        padding.left,
        usize::from(op.upsampling == Upsampling::Repeated),
    ];
    let sizes: Vec<Argument> = (sizes.into_iter().map(kernel::int)).collect::<Result<_, _>>()?;
    let image = [kernel::int(h)?, kernel::int(w)?];
    let beside_second = beside.get(1);
    let [own, widths] = [product::widths(own)?, product::widths(beside)?];
    let repeated = beside_second.filter(|x| x.batch() < output.batch());
    let rows = (op.upsampling != Upsampling::Repeated).then_some(Rows::Pixels(Pixels {
        own: op.sources,
        image: [h, w],
        output: [out_h, out_w],
        filter: [filter_h, filter_w],
        stride: op.stride,
        padding: [padding.top, padding.left],
        repeated: repeated.map(Shape::batch),
    }));
    let beside_rows = kernel::int(beside_second.map_or(1, Shape::rows))?;
    let sizes = [&image[..], &own, &widths, &[beside_rows], &sizes].concat();
    product.kernel(&sizes, rows, target)
}

/// How many products the result is made of.
pub(super) fn phases(op: &Conv2d) -> usize {
    match op.upsampling {
        Upsampling::Phases => 4,
        Upsampling::None | Upsampling::Repeated => 1,
    }
}

/// The filter, the matrix beside it, and the sum of their biases.
fn factor(op: &Conv2d) -> Factor {
    let n = op.weight.shape.batch();
    let depth = |shape: Shape| shape.len().checked_div(n).unwrap_or(0);
    let matrix = op.beside.as_ref().map(|beside| beside.map.weight.shape);
    let in_phases = op.upsampling == Upsampling::Phases;
    let bounded = match in_phases {
        true => depth(op.weight.shape) / 9 * 4,
        false => depth(op.weight.shape),
    };
    let k = bounded + matrix.map_or(0, depth);
    let [rows, columns] = [n, product::pitch(k)];
    // The node's tensors: the filter and its bias, then the matrix beside it and its own.
    let beside = 1 + usize::from(op.bias.is_some());
    let bias_beside = op.beside.as_ref().is_some_and(|b| b.map.bias.is_some());
    let biases = [
        op.bias.is_some().then_some(1),
        bias_beside.then_some(beside + 1),
    ];
    let biases: Vec<usize> = biases.into_iter().flatten().collect();
    let (layout, params) = match (&op.beside, in_phases) {
        (Some(_), _) => (Layout::Beside { rows, columns }, vec![0, beside]),
        (None, true) => (Layout::Phases { columns }, vec![0]),
        (None, false) => {
            let gated = false;
            let layout = Layout::Matrix {
                rows,
                columns,
                gated,
            };
            (layout, vec![0])
        }
    };
    let weight = Recipe { layout, params };
    let bias = (!biases.is_empty()).then_some(Recipe {
        layout: match biases.len() {
            1 => Layout::Vector,
            _ => Layout::Total,
        },
        params: biases,
    });
    Factor {
        n,
        k,
        phases: phases(op),
        bounded,
        recipes: std::iter::once(weight).chain(bias).collect(),
    }
}
