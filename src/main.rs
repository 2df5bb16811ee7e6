//! The `wakeport` command.

fn main() {}
