//! What a device promises before it runs anything.

use super::*;

#[test]
fn a_program_that_does_not_fit_is_refused_before_loading() {
    let door = Arc::new(door::fake::Fake::new(3 << 20));
    let target = Target::a100(Precision::F16);
    let device = Cuda::new(door, target, 1, Arc::default()).unwrap();
    let param = Param {
        name: "w".to_owned(),
        shape: [1024, 1024].into(),
    };
    let mut kernel = Kernel::nothing();
    kernel.recipes = Recipe::each([Layout::Table]);
    let load = || Load {
        kernel: &kernel,
        params: vec![&param],
    };
    let weights = Weights::synthetic(1);
    assert!(device.admit(1 << 20, &[load(), load()], &weights).is_ok());
    let error = device.admit(2 << 20, &[load()], &weights).unwrap_err();
    assert_eq!(error.exit_code(), 5);
    let sentence = error.to_string();
    let numbers = ["3 MiB of memory free", "4 MiB are needed", "2 of weights"];
    assert!(numbers.iter().all(|n| sentence.contains(n)), "{sentence}");
    let loaded = device.load(&kernel, &[&param], &weights);
    assert!(loaded.is_ok());
    assert!(device.admit(1 << 20, &[load()], &weights).is_ok());
}
