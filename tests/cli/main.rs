//! The `ldm` binary from outside: what it accepts, says, writes and returns.

mod bad_input;
mod batch;
mod bench;
mod codec;
#[cfg(target_os = "linux")]
mod computed;
mod convert;
#[cfg(target_os = "linux")]
mod driver;
mod inpaint;
mod interval;
#[cfg(target_os = "linux")]
mod libcuda;
mod output;
mod packed;
mod plan;
mod shown;
mod stop;
mod support;
mod tasks;
mod tune;
mod users;
#[path = "../ckpt/writer.rs"]
mod writer;
