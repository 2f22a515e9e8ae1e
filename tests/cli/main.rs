//! The `ldm` binary from outside: what it accepts, says, writes and returns.

mod bad_input;
mod batch;
mod output;
mod stop;
mod support;
mod users;
