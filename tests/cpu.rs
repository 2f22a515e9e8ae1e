//! The CPU device against the definitions of the operations, on shapes chosen to leave remainders everywhere, and against
//! itself: the same bits on one and two threads, and for an image alone and in a batch.

use latent_diffusion::backend::Backend;
use latent_diffusion::cpu::Cpu;
use latent_diffusion::graph::{Graph, Value};
use latent_diffusion::ops::{Activation, Axis, Op, Padding, Slice};
use latent_diffusion::{Result, Session, Tensor, Weights};
use std::sync::Arc;

/// Half a unit in the last place of 1.
const ROUNDOFF: f64 = f32::EPSILON as f64 / 2.0;

fn cpu(threads: usize) -> Arc<Cpu> {
    Arc::new(Cpu::new(threads, Arc::default()).unwrap())
}

/// Values near 1 in size that look random; other images of a batch get others.
fn noise(shape: latent_diffusion::Shape, seed: usize) -> Tensor {
    let value = |i: usize| {
        let bits = (i + 1 + seed * 7919).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        (bits as f32 / (1 << 23) as f32 - 1.0) * 1.7
    };
    Tensor::from_fn(shape, value)
}

/// A graph and its inputs' shapes, built for a batch size.
type Build = fn(&mut Graph, usize) -> Result<Value>;

fn graph(build: Build, batch: usize) -> Graph {
    let mut g = Graph::new();
    let y = g.scope("m", |g| build(g, batch)).unwrap();
    g.output("y", y);
    g
}

/// Every input of the graph; where `batch` images are asked for, image `i` has the values of `noise(.., i)`.
fn inputs(g: &Graph, batch: usize) -> Vec<(String, Tensor)> {
    g.inputs()
        .enumerate()
        .map(|(k, (name, value))| {
            let item = g.shape(value).with_batch(g.shape(value).batch() / batch);
            let items: Vec<_> = (0..batch).map(|i| noise(item, 10 * k + i)).collect();
            (name.to_owned(), Tensor::stack(&items).unwrap())
        })
        .collect()
}

fn run<B: Backend>(
    device: &Arc<B>,
    g: Graph,
    weights: &Weights,
    values: &[(String, Tensor)],
) -> Tensor {
    let mut session = Session::new(device, g, weights).unwrap();
    for (name, value) in values {
        session.set(name, value).unwrap();
    }
    session.run().unwrap();
    session.get("y").unwrap()
}

/// The result by the operations' definitions.
fn define(g: &Graph, weights: &Weights, values: &[(String, Tensor)]) -> Tensor {
    let mut results: Vec<Tensor> = Vec::new();
    for (index, node) in g.nodes().iter().enumerate() {
        let params: Vec<Tensor> = node
            .op
            .operator()
            .params()
            .iter()
            .map(|p| {
                Tensor::new(p.shape, weights.get(&p.name, &p.shape).unwrap().to_f32()).unwrap()
            })
            .collect();
        let mut result = Tensor::zeros(node.shape);
        if let Op::Input(_) = node.op {
            let input = g.inputs().find(|(_, v)| v.index() == index).unwrap().0;
            result = values
                .iter()
                .find(|(name, _)| name == input)
                .unwrap()
                .1
                .clone();
        } else {
            let operands: Vec<Slice> = node
                .inputs
                .iter()
                .map(|v| as_slice(&results[v.index()]))
                .collect();
            let params: Vec<Slice> = params.iter().map(as_slice).collect();
            node.op
                .operator()
                .eval(&operands, &params, result.data_mut());
        }
        results.push(result);
    }
    results.swap_remove(g.outputs()[0].1.index())
}

fn as_slice(tensor: &Tensor) -> Slice<'_> {
    Slice {
        shape: tensor.shape(),
        data: tensor.data(),
    }
}

/// Compares with the definition, where `depth` products are summed per element: rounding errors of a sum of random terms grow
/// with the square root of their number.
fn check(name: &str, depth: usize, build: Build) {
    let weights = Weights::synthetic(1);
    for batch in [1, 3] {
        let g = graph(build, batch);
        let values = inputs(&g, batch);
        let expected = define(&g, &weights, &values);
        let one = run(&cpu(1), graph(build, batch), &weights, &values);
        let two = run(&cpu(2), g, &weights, &values);
        let error = one.relative_error(&expected);
        let bound = 4.0 * ROUNDOFF * (depth as f64).sqrt().max(2.0);
        assert!(
            error <= bound,
            "{name}, batch {batch}: {error:e} > {bound:e}"
        );
        assert!(
            bits(&one) == bits(&two),
            "{name}, batch {batch}: threads change bits"
        );
        for i in 0..batch {
            let single: Vec<_> = values
                .iter()
                .map(|(n, v)| (n.clone(), part(v, i, batch)))
                .collect();
            let alone = run(&cpu(2), graph(build, 1), &weights, &single);
            assert!(
                bits(&alone) == bits(&part(&one, i, batch)),
                "{name}: image {i} of {batch} differs"
            );
        }
    }
}

/// Image `i` of `batch`.
fn part(tensor: &Tensor, i: usize, batch: usize) -> Tensor {
    let shape = tensor.shape().with_batch(tensor.shape().batch() / batch);
    let data = tensor.data()[i * shape.len()..][..shape.len()].to_vec();
    Tensor::new(shape, data).unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.data().iter().map(|x| x.to_bits()).collect()
}

#[test]
fn linear() {
    check("a long sum", 2600, |g, n| {
        let x = g.input("x", [n, 5, 2600]);
        g.linear(x, 70, true)
    });
    check("one row", 37, |g, n| {
        let x = g.input("x", [n, 37]);
        g.linear(x, 1, false)
    });
    check("many rows and a narrow panel", 33, |g, n| {
        let x = g.input("x", [n, 23, 31, 33]);
        g.linear(x, 45, true)
    });
    check("more columns than a task takes", 48, |g, n| {
        let x = g.input("x", [n, 17, 48]);
        g.linear(x, 1100, true)
    });
}

#[test]
fn epilogues() {
    check("channels, then residual", 40, |g, n| {
        let x = g.input("x", [n, 6, 7, 40]);
        let v = g.input("v", [n, 50]);
        let r = g.input("r", [n, 6, 7, 50]);
        let y = g.linear(x, 50, true)?;
        let y = g.add_channels(y, v)?;
        g.add(r, y)
    });
    check("a gate of an odd number of channels", 24, |g, n| {
        let x = g.input("x", [n, 9, 24]);
        let y = g.linear(x, 2 * 39, true)?;
        g.geglu(y)
    });
    for (name, build) in [
        ("silu", (|g, n| activated(g, n, Activation::Silu)) as Build),
        ("gelu", |g, n| activated(g, n, Activation::Gelu)),
        ("quick_gelu", |g, n| activated(g, n, Activation::QuickGelu)),
    ] {
        check(name, 24, build);
    }
}

fn activated(g: &mut Graph, n: usize, activation: Activation) -> Result<Value> {
    let x = g.input("x", [n, 9, 24]);
    let y = g.linear(x, 40, true)?;
    g.activate(y, activation)
}

#[test]
fn conv2d() {
    check("3x3 over whole runs of channels", 64 * 9, |g, n| {
        let x = g.input("x", [n, 7, 9, 64]);
        g.conv2d(x, 48, 3, 1, Padding::all(1))
    });
    check("few channels", 36, |g, n| {
        let x = g.input("x", [n, 9, 5, 4]);
        g.conv2d(x, 33, 3, 1, Padding::all(1))
    });
    check("stride two, padded on one side", 40 * 9, |g, n| {
        let x = g.input("x", [n, 8, 6, 40]);
        g.conv2d(x, 3, 3, 2, Padding::bottom_right())
    });
    check("5x5 with stride three", 17 * 25, |g, n| {
        let x = g.input("x", [n, 11, 13, 17]);
        g.conv2d(x, 20, 5, 3, Padding::all(2))
    });
    check("upsampled", 32 * 9, |g, n| upsampled(g, n, [5, 6, 32]));
    check("upsampled and folded", 33 * 9, |g, n| {
        upsampled(g, n, [9, 11, 33])
    });
    check("upsampled, with a skip", 24 * 9, |g, n| {
        let r = g.input("r", [n, 16, 18, 16]);
        let y = upsampled(g, n, [8, 9, 24])?;
        g.add(y, r)
    });
    check("a filter larger than a block", 18 * 18, |g, n| {
        let x = g.input("x", [n, 18, 19, 1]);
        g.conv2d(x, 5, 18, 1, Padding::default())
    });
    check("with a time embedding and a skip", 40 * 9, |g, n| {
        let x = g.input("x", [n, 4, 4, 40]);
        let v = g.input("v", [n, 40]);
        let y = g.conv2d(x, 40, 3, 1, Padding::all(1))?;
        let y = g.add_channels(y, v)?;
        g.add(x, y)
    });
}

fn upsampled(g: &mut Graph, n: usize, [h, w, c]: [usize; 3]) -> Result<Value> {
    let x = g.input("x", [n, h, w, c]);
    let x = g.upsample2x(x)?;
    g.conv2d(x, 16, 3, 1, Padding::all(1))
}

#[test]
fn attention() {
    check("one short head", 40, |g, n| {
        attend(g, n, [33, 7, 8], 1, false)
    });
    check("three heads, many queries", 96, |g, n| {
        attend(g, n, [300, 77, 120], 3, false)
    });
    check("causal", 64, |g, n| attend(g, n, [77, 77, 128], 2, true));
    check("more keys than a block", 700, |g, n| {
        attend(g, n, [40, 700, 48], 2, false)
    });
    check("a head wider than a block", 512, |g, n| {
        attend(g, n, [50, 50, 350], 1, false)
    });
}

fn attend(
    g: &mut Graph,
    n: usize,
    [t, l, c]: [usize; 3],
    heads: usize,
    causal: bool,
) -> Result<Value> {
    let q = g.input("q", [n, t, c]);
    let [k, v] = ["k", "v"].map(|name| g.input(name, [n, l, c]));
    g.attention([q, k, v], heads, causal)
}

#[test]
fn normalisations() {
    check("group_norm", 1, |g, n| {
        let x = g.input("x", [n, 33, 19, 96]);
        g.group_norm(x, 32, 1e-5)
    });
    check("group_norm and silu", 1, |g, n| {
        let x = g.input("x", [n, 3, 5, 20]);
        let y = g.group_norm(x, 4, 1e-6)?;
        g.activate(y, Activation::Silu)
    });
    check("layer_norm", 1, |g, n| {
        let x = g.input("x", [n, 77, 70]);
        g.layer_norm(x, 1e-5)
    });
}

#[test]
fn elementwise() {
    check("activation", 1, |g, n| {
        let x = g.input("x", [n, 77, 71]);
        g.activate(x, Activation::Gelu)
    });
    check("geglu", 1, |g, n| {
        let x = g.input("x", [n, 77, 70]);
        g.geglu(x)
    });
    check("sums", 1, |g, n| {
        let x = g.input("x", [n, 9, 9, 33]);
        let v = g.input("v", [n, 33]);
        let y = g.add_channels(x, v)?;
        g.add(x, y)
    });
    check("concat", 1, |g, n| {
        let x = g.input("x", [n, 9, 9, 33]);
        let y = g.input("y", [n, 9, 9, 7]);
        g.concat(&[x, y], Axis::Channels)
    });
    check("upsample", 1, |g, n| {
        let x = g.input("x", [n, 9, 5, 33]);
        g.upsample2x(x)
    });
}
