//! The instructions themselves, on a machine with a GPU. Every entry is a test: where one fails or never ends, each of the others can still be
//! asked, in a process of its own.

use crate::{answer, canonical, cases, check, check_hopper, emulator, relay};
use cases::Expected;
use latent_diffusion::cuda::{Cuda, Precision};
use std::sync::Arc;

macro_rules! entries {
    ($($entry:ident)*) => {
        /// All that are asked.
        pub const ENTRIES: &[&str] = &[$(stringify!($entry)),*];

        $(#[test]
        #[ignore = "needs a GPU"]
        fn $entry() {
            ask(stringify!($entry));
        })*
    };
}

entries! {
    primitive_vector primitive_shuffle primitive_reduce
    primitive_copy_async_16 primitive_copy_async_8 primitive_copy_async_4
    primitive_load_matrix primitive_load_matrix_transposed
    primitive_multiply primitive_multiply_half primitive_multiply_tile primitive_multiply_tile_half
    primitive_exp2 primitive_reciprocal primitive_maximum
    primitive_pack primitive_unpack primitive_narrow primitive_widen
    primitive_last_to_arrive primitive_relay primitive_rate
    primitive_tensor_load_sm90 primitive_tensor_store_sm90 primitive_multicast_sm90
    primitive_threads_sm90 primitive_cluster_sm90 primitive_relay_sm90
    primitive_store_matrix_sm90 primitive_store_matrix_transposed_sm90
    primitive_product_8_sm90 primitive_product_48_sm90 primitive_product_160_sm90 primitive_product_256_sm90
    primitive_product_48_transposed_sm90 primitive_product_160_transposed_sm90
    primitive_product_80_registers_sm90
    primitive_product_48_registers_transposed_sm90 primitive_product_72_registers_transposed_sm90
    primitive_product_88_registers_transposed_sm90 primitive_product_168_registers_transposed_sm90
    primitive_pipeline_sm90
}

/// The GPU to what the manual says of an entry's instructions, and to the emulator.
fn ask(entry: &str) {
    let gpu = Cuda::gpu(0, Precision::F16, 0, Arc::default()).unwrap();
    if entry.ends_with("_sm90") && gpu.target().compute_capability != 90 {
        return println!("left out: this GPU has none of the primitives of sm_90a");
    }
    if [relay::ENTRY, relay::HOPPER].contains(&entry) {
        return assert_eq!(relay::wrong(&gpu, entry), None);
    }
    if entry.ends_with("_sm90") {
        return check_hopper(&gpu, |case| case.entry == entry);
    }
    check(&gpu, |case| case.entry == entry);
    let emulator = emulator(0);
    for case in cases::all().iter().filter(|case| case.entry == entry) {
        let [found, expected] = [&gpu, &emulator].map(|device| answer(device, case));
        match &case.expected {
            // Approximations are defined up to a distance, which was measured above.
            Expected::Near(..) => {}
            kind => {
                let [found, expected] = [found, expected].map(|words| {
                    let same = words.iter().map(|&w| canonical(w, kind));
                    same.collect::<Vec<_>>()
                });
                assert!(found == expected, "{entry} {:?}", case.setting);
            }
        }
    }
}
