//! The options of `wakeport run`: what was typed, and how it becomes a [`Config`].

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{BoolishValueParser, Resettable};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::observed::{InstanceName, METRICS_GO_WITH_LISTEN, Observed};
use super::{Fatal, one_line, variable_of};
use crate::config::access::{AccessList, Networks};
use crate::config::address::{Address, Bound};
use crate::config::{
    Admission, CommandLine, Config, Limits, Liveness, Manager, Named, ProcessConfig, ProxyVersion,
    Readiness, ReadyKind, ServiceConfig, ServiceKind, Timing, UnitName, WakeRate, span,
};
use crate::systemd::journal::{LogFormat, LogLevel};

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

    /// Let clients from this network in: 192.0.2.0/24, 2001:db8::1, any, localhost, link-local
    ///
    /// Whoever comes from none of these networks is reset, and neither wakes the service nor keeps
    /// it awake. The most specific network of --allow and --deny decides. With --accept-proxy it
    /// is the address in the header that counts; clients of Unix sockets are always let in. May be
    /// repeated.
    #[arg(
        long,
        env = "WAKEPORT_ALLOW",
        value_name = "CIDR",
        help_heading = "Clients"
    )]
    allow: Vec<Words<Networks>>,

    /// Reset clients from this network, before they wake the service
    ///
    /// Between equal networks it is --deny that decides. May be repeated.
    #[arg(
        long,
        env = "WAKEPORT_DENY",
        value_name = "CIDR",
        help_heading = "Clients"
    )]
    deny: Vec<Words<Networks>>,

    /// Take for a client only who has sent something: a port scan wakes nobody
    ///
    /// Not for protocols in which the server speaks first, such as SSH, SMTP, FTP and MySQL: their
    /// clients would wait for ever.
    #[arg(long, env = "WAKEPORT_WAKE_ON_DATA", value_name = "yes|no", help_heading = "Clients",
          num_args = 0..=1, require_equals = true, default_missing_value = "yes",
          default_value = "no", hide_default_value = true, action = ArgAction::Set,
          value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    wake_on_data: bool,

    /// Wake the service at most N times in any such TIME, as in 6/1h; clients for whom it would be
    /// woken once more are reset
    ///
    /// Whoever comes while it runs or starts is served. Earlier wakes are known from the record in
    /// the state directory; without one, only those since wakeport was started count.
    #[arg(
        long,
        env = "WAKEPORT_WAKE_RATE",
        value_name = "N/TIME",
        help_heading = "Clients"
    )]
    wake_rate: Option<WakeRate>,

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
          default_value = ProcessConfig::DRAIN_TIMEOUT, value_parser = span::parse, help_heading = "Times")]
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

/// The options of `run` for a command that does not run, but writes them down.
#[derive(Debug)]
pub(super) struct Typed {
    /// What they mean.
    pub(super) options: Options,
    /// What was typed, as variables: name and value.
    pub(super) settings: Vec<(String, String)>,
}

impl Args for Typed {
    fn augment_args(command: Command) -> Command {
        // What the command is about is not what `run` is about.
        let about = command.get_about().cloned().unwrap_or_default();
        let long_about = command.get_long_about().cloned();
        let command = Options::augment_args(command).about(about);
        match long_about {
            Some(long_about) => command.long_about(long_about),
            None => command,
        }
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Typed {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut settings = Vec::new();
        for argument in Options::augment_args(Command::new("run")).get_arguments() {
            let id = argument.get_id().as_str();
            if matches.value_source(id) != Some(ValueSource::CommandLine) {
                continue;
            }
            if let (Some(name), Some(values)) = (argument.get_env(), matches.get_raw(id)) {
                let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
                settings.push((name.to_string_lossy().into_owned(), values.join(" ")));
            }
        }
        let options = Options::from_arg_matches(matches)?;
        Ok(Self { options, settings })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
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

    /// What `wakeport run` would make of these arguments and variables; if it would not, why, in
    /// one line.
    pub(super) fn read(
        arguments: &[String],
        variables: &[(String, String)],
    ) -> Result<Self, String> {
        let known = Self::augment_args(Command::new("wakeport").no_binary_name(true));
        let command = known
            .clone()
            .mut_args(|argument| argument.env(Resettable::Reset));
        let typed = command.clone().try_get_matches_from(arguments);
        let typed = typed.map_err(|error| one_line(&error))?;
        let mut all = arguments.to_vec();
        for argument in known.get_arguments() {
            let (Some(name), Some(long)) = (argument.get_env(), argument.get_long()) else {
                continue;
            };
            let value = variables
                .iter()
                .rev()
                .find(|(variable, _)| name == variable.as_str());
            let id = argument.get_id().as_str();
            match value {
                Some((_, value))
                    if !value.is_empty()
                        && typed.value_source(id) != Some(ValueSource::CommandLine) =>
                {
                    all.push(format!("--{long}={value}"));
                }
                _ => (),
            }
        }
        let matches = command.try_get_matches_from(all);
        let options = matches.and_then(|matches| Self::from_arg_matches(&matches));
        options.map_err(|error| match variable_of(&error) {
            Some((_, name)) if variables.iter().any(|(variable, _)| *variable == name) => {
                format!(
                    "{} The value is that of the variable {name}.",
                    one_line(&error)
                )
            }
            _ => one_line(&error),
        })
    }

    /// The variables that look like ours, and are none.
    pub(super) fn unknown(variables: &[(String, String)]) -> Vec<String> {
        let known = Self::augment_args(Command::new("wakeport"));
        let known: Vec<_> = known
            .get_arguments()
            .filter_map(|argument| argument.get_env())
            .collect();
        let names = variables.iter().map(|(name, _)| name);
        names
            .filter(|name| {
                name.starts_with("WAKEPORT_") && !known.iter().any(|known| *known == name.as_str())
            })
            .cloned()
            .collect()
    }

    /// The same, for an instance of `wakeport@`: it wakes the unit that it is called after, unless
    /// something else was asked for.
    pub(super) fn for_instance(mut self, name: &UnitName) -> Self {
        let hooks = self.start_hook.is_some() || self.stop_hook.is_some();
        if self.unit.is_empty() && !hooks && self.exec.is_none() {
            self.unit.push(Words(vec![name.clone()]));
        }
        self
    }

    /// Whether an instance that systemd starts can do with them.
    pub(super) fn suit_an_instance(&self) -> Result<(), Fatal> {
        match self.metrics {
            Some(_) => Err(Fatal::usage(METRICS_GO_WITH_LISTEN)),
            None => Ok(()),
        }
    }

    /// Whose service manager is meant.
    pub(super) fn manager(&self) -> Manager {
        match self.user {
            true => Manager::User,
            false => Manager::System,
        }
    }

    /// What the options mean, taken together.
    pub(super) fn config(self) -> Result<Config, Fatal> {
        let manager = self.manager();
        let units = flatten(self.unit);
        let hooks = self.start_hook.is_some() || self.stop_hook.is_some();
        let ways =
            usize::from(!units.is_empty()) + usize::from(hooks) + usize::from(self.exec.is_some());
        if ways > 1 {
            return Err(Fatal::usage(
                "give only one of `--unit`, hooks and `--exec`; a drop-in takes the template's unit back with `Environment=WAKEPORT_UNIT=`",
            ));
        }
        let kind = if let Some(command) = self.exec {
            ServiceKind::Exec(command)
        } else if hooks {
            ServiceKind::Hooks {
                start: self.start_hook,
                stop: self.stop_hook,
            }
        } else if units.is_empty() {
            ServiceKind::Relay
        } else {
            ServiceKind::Units { units, manager }
        };
        if let (Some(rate), ServiceKind::Relay) = (self.wake_rate, &kind) {
            return Err(Fatal::usage(format!(
                "`--wake-rate {rate}` limits what wakeport starts, and it starts nothing without `--unit`, `--start-hook` or `--exec`"
            )));
        }
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
            process: ProcessConfig {
                stay: self.stay || !listen.is_empty(),
                listen,
                limits: Limits {
                    max_connections: self.max_connections.map(usize::from),
                    max_waiting: self.max_waiting.into(),
                    threads: self.threads,
                },
                drain_timeout: self.drain_timeout,
            },
            services: vec![ServiceConfig {
                name: None,
                listeners: None,
                routes,
                kind,
                readiness: Readiness {
                    kind: self.ready,
                    hook: self.ready_hook,
                },
                timing: Timing {
                    cooldown: self.cooldown,
                    start_timeout: self.start_timeout,
                    stop_timeout: self.stop_timeout,
                },
                liveness: Liveness {
                    idle_timeout: self.client_idle_timeout,
                    keepalive_time: self.keepalive_time,
                    keepalive_interval: self.keepalive_interval,
                    keepalive_probes: self.keepalive_probes,
                    user_timeout: self.user_timeout,
                },
                send_proxy: self.send_proxy,
                admission: Admission {
                    access: AccessList::new(&flatten(self.allow), &flatten(self.deny)),
                    accept_proxy: self.accept_proxy,
                    wake_on_data: self.wake_on_data,
                },
                wake_rate: self.wake_rate,
                stop_on_exit: self.stop_on_exit,
            }],
        })
    }
}
