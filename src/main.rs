//! The `wakeport` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    wakeport::cli::main()
}
