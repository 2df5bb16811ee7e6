//! What the commands make of what is typed and read, for the tests of others (tests/fuzz, too).

use clap::{Args, FromArgMatches};

use super::init::{self, Init};
use super::options::Options;
use super::{config_file, one_line, status};
use crate::admin::Instance;
use crate::config::Config;
use crate::config::settings::File;
use crate::report::record::{Moment, Record};

/// What `wakeport run` makes of these arguments and variables.
pub fn run(arguments: &[String], variables: &[(String, String)]) -> Result<Config, String> {
    let options = Options::read(arguments, variables)?;
    options.config().map_err(|fatal| fatal.message)
}

/// What `wakeport run` makes of a file that is called `file.toml`, with these variables.
pub fn file(bytes: &[u8], variables: &[(String, String)]) -> Result<Config, String> {
    let options = Options::read(&[], variables)?;
    let mut file = File::default();
    let read = file.read("file.toml", bytes);
    read.map_err(|invalid| invalid.to_string())?;
    let Ok(path) = "file.toml".parse();
    config_file::config(&options, &path, &file).map_err(|fatal| fatal.message)
}

/// What `wakeport init` makes of these arguments.
pub fn init(arguments: &[&str]) -> Result<Instance, String> {
    let command = clap::Command::new("init").no_binary_name(true);
    let command = init::adjust(Init::augment_args(command));
    let matches = command.try_get_matches_from(arguments);
    let init = matches.and_then(|matches| Init::from_arg_matches(&matches));
    let init = init.map_err(|error| one_line(&error))?;
    init.instance(None).map_err(|fatal| fatal.message)
}

/// What `wakeport status` says of an instance: its line, all about it, and as JSON.
pub fn status(record: &Record, alive: bool, now: Moment) -> [String; 3] {
    status::shown(record, alive, now)
}
