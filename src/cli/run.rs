//! `wakeport run`: takes the sockets, reads the settings, and serves.

use std::io;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::thread;

use super::options::Options;
use super::{Fatal, runtime};
use crate::config::Config;
use crate::net::listen::{self, Inherited, Listener};
use crate::server::{self, Instance, Reload, Routes, SHORTEST_LIFE, Setup};
use crate::systemd::journal;

/// Runs to the end.
pub(super) fn run(options: Options) -> ExitCode {
    // Before anything else: this changes the environment, which threads could be reading.
    let mut inherited = listen::inherit();
    let (format, level) = options.log();
    let log = journal::start(format, level);
    let code = match set_up(options, &mut inherited) {
        Err(fatal) => fail(&fatal, &inherited),
        Ok(setup) => match serve_to_the_end(setup) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let code = fail(&error.into(), &Inherited::default());
                // Connections in the backlog are left to the next instance.
                thread::sleep(SHORTEST_LIFE);
                code
            }
        },
    };
    drop(log);
    code
}

fn set_up(options: Options, inherited: &mut Inherited) -> Result<Setup, Fatal> {
    let mut observed = options.observed();
    let config = options.load()?;
    if let Some(error) = inherited.errors.pop() {
        return Err(Fatal::config(error));
    }
    let activated = !inherited.listeners.is_empty();
    let mut bound = bind(&config, activated)?;
    let listeners: Vec<&Listener> = inherited.listeners.iter().chain(&bound).collect();
    let routes = Routes::new(&config, &listeners).map_err(Fatal::config)?;
    let metrics = observed.listen(activated)?;
    let keda = observed.listen_for_keda(&config, activated)?;
    let mut listeners = std::mem::take(&mut inherited.listeners);
    listeners.append(&mut bound);
    let instance: Instance = observed.instance();
    let reload = config
        .has_file()
        .then(|| -> Reload { Box::new(move || options.load().map_err(|fatal| fatal.message)) });
    Ok(Setup {
        config,
        listeners,
        routes,
        control: std::mem::take(&mut inherited.control),
        stored: std::mem::take(&mut inherited.stored),
        instance,
        metrics,
        keda,
        reload,
    })
}

/// Binds what is to be bound where systemd has passed nothing.
fn bind(config: &Config, activated: bool) -> Result<Vec<Listener>, Fatal> {
    match (activated, config.process.listen.is_empty()) {
        (true, false) => Err(Fatal::usage(BOTH)),
        (false, true) => Err(Fatal::usage(
            "no sockets were passed in; start the `.socket` unit, or give `--listen ADDR` to run by hand",
        )),
        (true, true) => Ok(Vec::new()),
        (false, false) => listen::bind_all(&config.process.listen).map_err(Fatal::config),
    }
}

/// What is wrong where systemd has passed sockets, and others were asked for.
pub(super) const BOTH: &str =
    "sockets were passed in and `--listen` was given; use one or the other";

/// Ends with an error before clients can be served: says so, and resets who waits.
pub(super) fn fail(fatal: &Fatal, inherited: &Inherited) -> ExitCode {
    tracing::error!("{fatal}");
    inherited.reject_all(SHORTEST_LIFE);
    ExitCode::from(fatal.exit as u8)
}

impl From<io::Error> for Fatal {
    fn from(error: io::Error) -> Self {
        Self::software(format!("cannot go on: {error}"))
    }
}

/// Serves until the end.
fn serve_to_the_end(setup: Setup) -> io::Result<()> {
    // tokio begins with six files, and panics where it cannot have the two for its signals.
    drop([
        UnixStream::pair()?,
        UnixStream::pair()?,
        UnixStream::pair()?,
    ]);
    let runtime = runtime()?;
    let result = runtime.block_on(server::serve(setup));
    // A name that is still being resolved holds nothing up.
    runtime.shutdown_background();
    result
}
