//! The options of `wakeport run`: what was typed, and how it becomes a [`Config`].

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args};

use super::Fatal;
use super::observed::{InstanceName, Observed};
use crate::config::address::{Address, Bound};
use crate::config::{
    CommandLine, Config, Limits, Liveness, Manager, Named, ProxyVersion, Readiness, ReadyKind,
    Service, Timing, UnitName, span,
};
use crate::sd::journal::{LogFormat, LogLevel};

/// Waits for clients, and wakes the service for them
///
/// Every option can be given as a variable of the environment, so that a unit's drop-in can set
/// it. There, lists are separated by white space, an empty value counts as unset, and switches
/// take yes or no. Spans of time are written as in systemd: 90s, 5min 20s, infinity; a bare
/// number counts seconds, and 0 means at once.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Where to relay to: host:port, host (the listener's own port), /path, @abstract
    ///
    /// An IPv6 address goes in brackets. NAME ties the target to the listener whose
    /// FileDescriptorName= is NAME; without a name it serves every listener that has no target of
    /// its own. May be repeated.
    #[arg(long, env = "WAKEPORT_TO", value_name = "[NAME=]ADDR")]
    to: Vec<Words<Named<Address>>>,

    /// Start and stop this unit over D-Bus; a name without a suffix means .service
    ///
    /// May be repeated: the units are started together and stopped together, and if one fails the
    /// wake fails.
    #[arg(
        long,
        env = "WAKEPORT_UNIT",
        value_name = "UNIT",
        help_heading = "Service"
    )]
    unit: Vec<Words<UnitName>>,

    /// Talk to the user's service manager instead of the system's
    #[arg(long, env = "WAKEPORT_USER", value_name = "yes|no", help_heading = "Service",
          num_args = 0..=1, require_equals = true, default_missing_value = "yes",
          default_value = "no", hide_default_value = true, action = ArgAction::Set,
          value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    user: bool,

    /// Start the service with this program; split as a shell would, but no shell runs
    ///
    /// Exit code 0: done. 75: try again within the start time-out. Anything else: failed. It is
    /// not run while the target answers already.
    #[arg(
        long,
        env = "WAKEPORT_START_HOOK",
        value_name = "CMD",
        help_heading = "Service"
    )]
    start_hook: Option<CommandLine>,

    /// Stop the service with this program; tried again with a back-off until it exits with 0
    #[arg(
        long,
        env = "WAKEPORT_STOP_HOOK",
        value_name = "CMD",
        help_heading = "Service"
    )]
    stop_hook: Option<CommandLine>,

    /// Run the service as a child process, which ends when we end
    #[arg(
        long,
        env = "WAKEPORT_EXEC",
        value_name = "CMD",
        help_heading = "Service"
    )]
    exec: Option<CommandLine>,

    /// What the target does when it is ready: connect, banner (it sends a first byte), or
    /// http://HOST:PORT/PATH (it answers below 500; http:///PATH asks the target itself)
    #[arg(
        long,
        env = "WAKEPORT_READY",
        value_name = "KIND",
        default_value = "connect",
        help_heading = "Service"
    )]
    ready: ReadyKind,

    /// This program has to exit with 0 before the target is asked
    #[arg(
        long,
        env = "WAKEPORT_READY_HOOK",
        value_name = "CMD",
        help_heading = "Service"
    )]
    ready_hook: Option<CommandLine>,

    /// Tell the target who the client is, by a PROXY header of this version: v1 or v2
    ///
    /// The header comes first on every connection to the target; those that only ask whether it
    /// answers say that they are our own (LOCAL; UNKNOWN in v1). The target has to expect it.
    #[arg(
        long,
        env = "WAKEPORT_SEND_PROXY",
        value_name = "VERSION",
        help_heading = "PROXY protocol"
    )]
    send_proxy: Option<ProxyVersion>,

    /// Take the client's address from the PROXY header, v1 or v2, that the load balancer in front
    /// of us sends
    ///
    /// Whoever sends none within 5 s is reset and does not wake the service, nor does a health
    /// check that only connects. Let nobody but the load balancer reach the port: whoever can
    /// may claim any address.
    #[arg(long, env = "WAKEPORT_ACCEPT_PROXY", value_name = "yes|no", help_heading = "PROXY protocol",
          num_args = 0..=1, require_equals = true, default_missing_value = "yes",
          default_value = "no", hide_default_value = true, action = ArgAction::Set,
          value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    accept_proxy: bool,

    /// How long after the last client left the service sleeps
    #[arg(long, env = "WAKEPORT_COOLDOWN", value_name = "TIME", default_value = Timing::COOLDOWN,
          value_parser = span::parse, help_heading = "Times")]
    cooldown: Duration,

    /// How long the service may take to start and answer
    #[arg(long, env = "WAKEPORT_START_TIMEOUT", value_name = "TIME",
          default_value = Timing::START_TIMEOUT, value_parser = span::parse, help_heading = "Times")]
    start_timeout: Duration,

    /// How long the service may take to stop
    #[arg(long, env = "WAKEPORT_STOP_TIMEOUT", value_name = "TIME",
          default_value = Timing::STOP_TIMEOUT, value_parser = span::parse, help_heading = "Times")]
    stop_timeout: Duration,

    /// How long connections may go on after SIGTERM
    #[arg(long, env = "WAKEPORT_DRAIN_TIMEOUT", value_name = "TIME",
          default_value = Timing::DRAIN_TIMEOUT, value_parser = span::parse, help_heading = "Times")]
    drain_timeout: Duration,

    /// End a connection that has moved no byte for so long
    ///
    /// Forgotten keep-alive connections cannot keep the service awake then.
    #[arg(long, env = "WAKEPORT_CLIENT_IDLE_TIMEOUT", value_name = "TIME",
          default_value = Liveness::IDLE_TIMEOUT, value_parser = span::parse,
          help_heading = "Connections")]
    client_idle_timeout: Duration,

    /// How long a silent peer is left alone before TCP asks whether it is still there
    #[arg(long, env = "WAKEPORT_KEEPALIVE_TIME", value_name = "TIME",
          default_value = Liveness::KEEPALIVE_TIME, value_parser = whole_seconds,
          help_heading = "Connections")]
    keepalive_time: Duration,

    /// How long until it is asked again
    #[arg(long, env = "WAKEPORT_KEEPALIVE_INTERVAL", value_name = "TIME",
          default_value = Liveness::KEEPALIVE_INTERVAL, value_parser = whole_seconds,
          help_heading = "Connections")]
    keepalive_interval: Duration,

    /// How many questions may remain without an answer; the connection ends then
    #[arg(long, env = "WAKEPORT_KEEPALIVE_PROBES", value_name = "N",
          default_value_t = Liveness::KEEPALIVE_PROBES, help_heading = "Connections",
          value_parser = clap::value_parser!(u32).range(1..=127))]
    keepalive_probes: u32,

    /// How long bytes may remain without an acknowledgement; infinity leaves it to the kernel
    ///
    /// It gives up after some 15 minutes. A reader that stalls for so long counts as vanished, too
    /// (TCP_USER_TIMEOUT, tcp(7)).
    #[arg(long, env = "WAKEPORT_USER_TIMEOUT", value_name = "TIME",
          default_value = Liveness::USER_TIMEOUT, value_parser = span::parse,
          help_heading = "Connections")]
    user_timeout: Duration,

    /// Listen on this address ourselves: ADDRESS:PORT, PORT, /path, @abstract
    ///
    /// For running by hand or in a container; implies --stay. May be repeated.
    #[arg(
        long,
        env = "WAKEPORT_LISTEN",
        value_name = "[NAME=]ADDR",
        help_heading = "Process"
    )]
    listen: Vec<Words<Named<Bound>>>,

    /// Relay at most so many clients at once; the others wait in the kernel's backlog [default:
    /// as many as the limit on open files allows]
    #[arg(
        long,
        env = "WAKEPORT_MAX_CONNECTIONS",
        value_name = "N",
        help_heading = "Process"
    )]
    max_connections: Option<NonZeroUsize>,

    /// Let at most so many clients wait for the service; the others wait in the backlog
    #[arg(long, env = "WAKEPORT_MAX_WAITING", value_name = "N", help_heading = "Process",
          default_value_t = Limits::MAX_WAITING)]
    max_waiting: NonZeroUsize,

    /// Relay on at most so many threads; they are started as clients come [default: one for each
    /// core]
    #[arg(
        long,
        env = "WAKEPORT_THREADS",
        value_name = "N",
        help_heading = "Process"
    )]
    threads: Option<NonZeroUsize>,

    /// On SIGTERM, put the service to sleep after draining
    #[arg(long, env = "WAKEPORT_STOP_ON_EXIT", value_name = "yes|no", help_heading = "Process",
          num_args = 0..=1, require_equals = true, default_missing_value = "yes",
          default_value = "no", hide_default_value = true, action = ArgAction::Set,
          value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    stop_on_exit: bool,

    /// Do not exit when idle
    #[arg(long, env = "WAKEPORT_STAY", value_name = "yes|no", help_heading = "Process",
          num_args = 0..=1, require_equals = true, default_missing_value = "yes",
          default_value = "no", hide_default_value = true, action = ArgAction::Set,
          value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    stay: bool,

    /// What `wakeport status` and the metrics call this instance; by default as its unit is called,
    /// without wakeport@
    #[arg(
        long,
        env = "WAKEPORT_NAME",
        value_name = "NAME",
        help_heading = "Observation"
    )]
    name: Option<InstanceName>,

    /// Keep in this directory what `wakeport status` shows: instances/NAME.json, for everybody to
    /// read [default: the unit's StateDirectory=; by hand nothing is kept]
    #[arg(
        long,
        env = "WAKEPORT_STATE_DIR",
        value_name = "DIR",
        help_heading = "Observation"
    )]
    state_dir: Option<PathBuf>,

    /// With --listen, serve metrics for Prometheus on this address, at /metrics: ADDRESS:PORT,
    /// PORT, /path, @abstract
    ///
    /// Under systemd wakeport-exporter.socket serves the metrics of all instances.
    #[arg(
        long,
        env = "WAKEPORT_METRICS",
        value_name = "ADDR",
        help_heading = "Observation"
    )]
    metrics: Option<Bound>,

    /// How much to log
    #[arg(
        long,
        env = "WAKEPORT_LOG_LEVEL",
        value_name = "LEVEL",
        default_value = "info",
        help_heading = "Process"
    )]
    pub(super) log_level: LogLevel,

    /// Where to log
    #[arg(
        long,
        env = "WAKEPORT_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "auto",
        help_heading = "Process"
    )]
    pub(super) log_format: LogFormat,
}

/// A list: repeated on the command line, separated by white space in a variable.
#[derive(Clone, Debug)]
struct Words<T>(Vec<T>);

impl<T: FromStr> FromStr for Words<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        text.split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// The kernel takes 1 s to 32767 s (`MAX_TCP_KEEPIDLE` in include/net/tcp.h).
fn whole_seconds(text: &str) -> Result<Duration, String> {
    let span = span::parse(text)?;
    if span.subsec_nanos() == 0 && (1..=32_767).contains(&span.as_secs()) {
        Ok(span)
    } else {
        Err("TCP takes whole seconds, from 1s to 32767s".into())
    }
}

fn flatten<T>(words: Vec<Words<T>>) -> Vec<T> {
    words.into_iter().flat_map(|Words(words)| words).collect()
}

impl Options {
    /// How the instance lets itself be observed.
    pub(super) fn observed(&self) -> Observed {
        Observed {
            name: self.name.clone(),
            state_dir: self.state_dir.clone(),
            metrics: self.metrics.clone(),
        }
    }

    /// What the options mean, taken together.
    pub(super) fn config(self) -> Result<Config, Fatal> {
        let units = flatten(self.unit);
        let hooks = self.start_hook.is_some() || self.stop_hook.is_some();
        let ways =
            usize::from(!units.is_empty()) + usize::from(hooks) + usize::from(self.exec.is_some());
        if ways > 1 {
            return Err(Fatal::usage(
                "give only one of `--unit`, hooks and `--exec`; a drop-in takes the template's unit back with `Environment=WAKEPORT_UNIT=`",
            ));
        }
        let service = if let Some(command) = self.exec {
            Service::Exec(command)
        } else if hooks {
            Service::Hooks {
                start: self.start_hook,
                stop: self.stop_hook,
            }
        } else if units.is_empty() {
            Service::Relay
        } else {
            let manager = if self.user {
                Manager::User
            } else {
                Manager::System
            };
            Service::Units { units, manager }
        };
        let routes = flatten(self.to);
        if routes.is_empty() {
            return Err(Fatal::usage(
                "`--to` is missing: say where the service listens, as in `--to 127.0.0.1:8080` or `Environment=WAKEPORT_TO=127.0.0.1:8080`",
            ));
        }
        for (index, route) in routes.iter().enumerate() {
            if routes[..index].iter().any(|other| other.name == route.name) {
                let whose = route.name.as_deref().unwrap_or("every listener");
                return Err(Fatal::usage(format!(
                    "two targets are given for {whose}; tie each `--to` to its listener with `NAME=`"
                )));
            }
        }
        let listen = flatten(self.listen);
        Ok(Config {
            routes,
            stay: self.stay || !listen.is_empty(),
            listen,
            service,
            readiness: Readiness {
                kind: self.ready,
                hook: self.ready_hook,
            },
            timing: Timing {
                cooldown: self.cooldown,
                start_timeout: self.start_timeout,
                stop_timeout: self.stop_timeout,
                drain_timeout: self.drain_timeout,
            },
            liveness: Liveness {
                idle_timeout: self.client_idle_timeout,
                keepalive_time: self.keepalive_time,
                keepalive_interval: self.keepalive_interval,
                keepalive_probes: self.keepalive_probes,
                user_timeout: self.user_timeout,
            },
            limits: Limits {
                max_connections: self.max_connections.map(usize::from),
                max_waiting: self.max_waiting.into(),
                threads: self.threads,
            },
            send_proxy: self.send_proxy,
            accept_proxy: self.accept_proxy,
            stop_on_exit: self.stop_on_exit,
        })
    }
}
