//! The `superpeer` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    tools::run()
}
