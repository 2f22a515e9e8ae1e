//! The kernels that some GPUs have for themselves, in every tile: on few multiprocessors a small product takes the tile that a large one takes on
//! many. Only cases are run for which one of these kernels is chosen.

use crate::cases::Case;
use crate::checks::{Check, every};
use latent_diffusion::cuda::{Launch, Target};

/// Kernels of one kind.
pub struct Family {
    /// How the names of their entries end.
    pub ending: &'static str,
    /// GPUs that between them take every tile.
    pub targets: [Target; 3],
}

impl Family {
    /// The launches of such kernels that compute a case.
    pub fn launches(&self, case: &Case, target: &Target) -> Vec<Launch> {
        let launches = case.kernel(target).launches.into_iter();
        launches
            .filter(|launch| launch.entry.ends_with(self.ending))
            .collect()
    }

    /// Asks `check` of every case that runs such a kernel, on each GPU that has other launches for it.
    pub fn every(&self, what: &str, check: impl Fn(&Target, &Case) -> Check) {
        every(what, |case| {
            let mut met = vec![vec![]];
            for target in &self.targets {
                let launches = self.launches(case, target);
                if !met.contains(&launches) {
                    met.push(launches);
                    check(target, case)?;
                }
            }
            Ok(())
        });
    }
}

/// Asks of the family `FAMILY` what is asked of a device; `agrees` holds a result to the definition.
macro_rules! family {
    ($agrees:path) => {
        #[test]
        #[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
        fn they_compute_what_the_definitions_say() {
            FAMILY.every("the definition", |target, case| {
                $agrees(&crate::emulator_of(*target), case)
            });
        }

        #[test]
        #[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
        fn they_give_each_image_what_it_gets_alone_and_again() {
            FAMILY.every("one image's bits", |target, case| {
                crate::checks::reproducible(&crate::emulator_of(*target), case)
            });
        }

        #[test]
        #[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
        fn they_pass_nan_on_and_keep_it_in_its_image() {
            FAMILY.every("NaN", |target, case| {
                crate::checks::passes_nan_on(&crate::emulator_of(*target), case)
            });
        }

        #[test]
        #[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
        fn the_order_of_threads_and_blocks_changes_nothing() {
            FAMILY.every("one schedule's bits", |target, case| {
                let expected = crate::checks::result(&crate::emulator_of(*target), case)?;
                for seed in [1, 2] {
                    let found = crate::checks::result(&crate::emulated(seed, *target), case)?;
                    crate::checks::same_bits(&format!("schedule {seed}"), &expected, &found)?;
                }
                Ok(())
            });
        }
    };
}
pub(crate) use family;
