//! What every choice of a tile keeps to, for the products of published networks.

use super::*;

/// Those the kernels are built for.
fn targets() -> [Target; 4] {
    [
        Target::a100,
        Target::rtx_3090,
        Target::rtx_4090,
        Target::h200,
    ]
    .map(|gpu| gpu(Precision::F16))
}

/// Rows of an image, columns and depth of the products of Stable Diffusion 1.5 at 512x512, and of its autoencoder.
const PUBLISHED: [[usize; 3]; 39] = [
    [4096, 320, 2880],
    [4096, 320, 5760],
    [4096, 320, 8640],
    [4096, 640, 5760],
    [4096, 320, 36],
    [4096, 4, 2880],
    [4096, 2560, 320],
    [4096, 320, 320],
    [4096, 320, 640],
    [4096, 320, 960],
    [4096, 320, 1280],
    [1024, 640, 2880],
    [1024, 640, 5760],
    [1024, 640, 8640],
    [1024, 640, 11520],
    [1024, 640, 17280],
    [1024, 1280, 11520],
    [1024, 5120, 640],
    [1024, 640, 640],
    [1024, 640, 2560],
    [256, 1280, 5760],
    [256, 1280, 11520],
    [256, 1280, 17280],
    [256, 1280, 23040],
    [256, 10240, 1280],
    [256, 1280, 1280],
    [256, 1280, 5120],
    [64, 1280, 11520],
    [64, 1280, 23040],
    [64, 10240, 1280],
    [64, 1280, 1280],
    [77, 1280, 768],
    [77, 3072, 768],
    [77, 768, 3072],
    [1, 1280, 1280],
    [1, 320, 1280],
    [16384, 512, 4608],
    [65536, 256, 2304],
    [262_144, 128, 1152],
];

fn problem([rows, n, k]: [usize; 3], images: usize) -> Problem {
    Problem {
        images,
        rows,
        phases: 1,
        n,
        k,
        aligned: k.is_multiple_of(8),
        moments: false,
        in_halves: 0,
    }
}

#[test]
fn parts_follow_from_one_image() {
    for target in targets() {
        for shape in PUBLISHED {
            let alone = problem(shape, 1).cut(&target).unwrap();
            for images in 2..=17 {
                let cut = problem(shape, images).cut(&target).unwrap();
                assert_eq!(
                    [cut.parts, cut.part],
                    [alone.parts, alone.part],
                    "{shape:?}"
                );
            }
        }
    }
}

#[test]
fn parts_cover_k_and_none_is_empty() {
    for target in targets() {
        for k in (1..2000).chain([5120, 11520, 17280, 23040]) {
            let cut = problem([64, 1280, k], 1).cut(&target).unwrap();
            assert!(
                cut.part.is_multiple_of(PART) && cut.parts * cut.part >= k,
                "{k}"
            );
            assert!((cut.parts - 1) * cut.part < k, "{k}");
        }
    }
}

#[test]
fn depths_divide_parts_and_rings_fit_everywhere() {
    for tile in ALIGNED.iter().chain(&ANY) {
        assert_eq!(PART % tile.depth, 0);
        for target in targets() {
            assert!(tile.shared_bytes() <= target.shared_bytes_per_block as usize);
        }
    }
}

#[test]
fn large_products_take_large_tiles_and_small_ones_fill_the_device() {
    for target in targets() {
        let large = problem([16384, 512, 4608], 1).cut(&target).unwrap();
        assert!(large.tile.rows == 128 && large.tile.columns >= 128 && large.parts == 1);
        let small = problem([64, 1280, 11520], 2).cut(&target).unwrap();
        let tiles = 128usize.div_ceil(small.tile.rows) * 1280usize.div_ceil(small.tile.columns);
        assert!(2 * tiles * small.parts > target.multiprocessors as usize);
        let one = problem([1, 1280, 1280], 2).cut(&target).unwrap();
        assert_eq!(one.tile.rows, 16);
    }
}

#[test]
fn moments_are_found_by_tiles_of_whole_blocks() {
    for target in targets() {
        for n in [4, 8, 64, 1280] {
            let few = problem([128, n, 2880], 1);
            let cut = Problem {
                moments: true,
                ..few
            }
            .cut(&target)
            .unwrap();
            assert!(cut.tile.rows.is_multiple_of(64), "{n}: {cut:?}");
        }
    }
}

#[test]
fn a_device_without_shared_memory_is_refused() {
    let target = Target {
        shared_bytes_per_block: 1024,
        ..targets()[0]
    };
    let refused = problem([64, 64, 64], 1).cut(&target).unwrap_err();
    assert!(refused.contains("1024 bytes"));
}
