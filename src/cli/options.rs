//! The options of `wakeport run`: what was given, and what it means.
//!
//! Each option is spelled once, as a field here: its flag, its variable and its key in a file are
//! derived from that. [`Options::load`] is what `run` does at its start and on SIGHUP: it reads the
//! file, too. [`Options::config`] is the same without any file.

use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{BoolishValueParser, Resettable};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::config_file::{self, ConfigPath};
use super::observed::{METRICS_GO_WITH_LISTEN, Observed};
use super::{Fatal, one_line, variable, with_variable};
use crate::config::access::{AccessList, Networks};
use crate::config::address::{Address, Bound};
use crate::config::busy::{Busy, DirectConnections, Percent, Rate};
use crate::config::host::{HostPattern, PathPrefix};
use crate::config::kubernetes::{self, Access, Replicas, Scale, Workload};
use crate::config::quiet::{Quiet, Rule};
use crate::config::settings::{self, Origin, Setting, Settings};
use crate::config::udp_wake::UdpWake;
use crate::config::{
    Admission, CommandLine, Config, Http, Limits, Liveness, Manager, Named, Pause, ProcessConfig,
    ProxyVersion, Readiness, ReadyKind, ServiceConfig, ServiceKind, TargetProtocol, Template,
    Timing, Tls, UdpSettings, UnitName, WaitingPage, WakeRate, span,
};
use crate::systemd::journal::{LogFormat, LogLevel};

/// What was given to `wakeport run`, or to a command that takes the same.
#[derive(Clone, Debug)]
pub(super) struct Options {
    /// The texts, of flags and variables.
    given: Settings,
    service: ServiceOptions,
    process: ProcessOptions,
}

/// What each service of a file can have as well.
#[derive(Clone, Debug, Args)]
pub(super) struct ServiceOptions {
    /// Where to relay to: host:port, host (the listener's own port), /path, @abstract; udp:host:port for
    /// datagrams; with --scale also service/NAME or service/NAME:PORT, the ready pods of a Service
    ///
    /// An IPv6 address goes in brackets. Datagrams without a target of their own go where streams do. NAME
    /// ties the target to the listener whose FileDescriptorName= is NAME; without a name it serves every
    /// listener that has no target of its own. May be repeated.
    #[arg(long, value_name = "[NAME=]ADDR")]
    to: Vec<Words<Named<Address>>>,

    #[command(flatten)]
    control: ControlOptions,
    #[command(flatten)]
    kubernetes: KubernetesOptions,
    #[command(flatten)]
    proxy: ProxyOptions,
    #[command(flatten)]
    clients: ClientOptions,
    #[command(flatten)]
    http: HttpOptions,
    #[command(flatten)]
    tls: TlsOptions,
    #[command(flatten)]
    udp: UdpOptions,
    #[command(flatten)]
    times: TimeOptions,
    #[command(flatten)]
    busy: BusyOptions,
    #[command(flatten)]
    connections: ConnectionOptions,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Service")]
struct ControlOptions {
    /// Start and stop this unit over D-Bus; a name without a suffix means .service
    ///
    /// May be repeated: the units are started together and stopped together, and if one fails the
    /// wake fails.
    #[arg(long, value_name = "UNIT")]
    unit: Vec<Words<UnitName>>,

    /// Use the user's service manager instead of the system's
    #[arg(long)]
    user: bool,

    /// Start the service with this program; split as a shell would, but no shell runs
    ///
    /// Exit code 0: done. 75: try again within the start timeout. Anything else: failed. It is
    /// not run while the target answers already.
    #[arg(long, value_name = "CMD")]
    start_hook: Option<CommandLine>,

    /// Stop the service with this program; retried with a back-off until it exits with 0
    #[arg(long, value_name = "CMD")]
    stop_hook: Option<CommandLine>,

    /// Freeze the service with this program when --freeze-after is over; it has to exit with 0 within 10 s
    #[arg(long, value_name = "CMD")]
    freeze_hook: Option<CommandLine>,

    /// Thaw the service with this program, for a client or to stop it; it has to exit with 0 within 10 s
    ///
    /// It has to succeed as well if nothing is frozen: a wakeport that was killed leaves its successor
    /// in doubt.
    #[arg(long, value_name = "CMD")]
    thaw_hook: Option<CommandLine>,

    /// Run the service as a child process, which ends with wakeport
    #[arg(long, value_name = "CMD")]
    exec: Option<CommandLine>,

    /// What the target does when it is ready: connect, banner (it sends a first byte), or
    /// http://HOST:PORT/PATH (it answers below 500; http:///PATH asks the target itself)
    #[arg(long, value_name = "KIND", default_value = "connect")]
    ready: ReadyKind,

    /// Run this program before the target is probed; it has to exit with 0
    #[arg(long, value_name = "CMD")]
    ready_hook: Option<CommandLine>,

    /// On SIGTERM, stop the service after draining
    #[arg(long)]
    stop_on_exit: bool,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Kubernetes")]
struct KubernetesOptions {
    /// Scale this workload to zero and back: deployment/NAME, statefulset/NAME, or
    /// PLURAL[.VERSION].GROUP/NAME for any resource that has a scale
    ///
    /// May be repeated: the workloads are scaled together. Needs a wakeport that is built with Kubernetes.
    #[arg(long, value_name = "KIND/NAME")]
    scale: Vec<Words<Workload>>,

    /// Where the workloads of --scale live [default: the namespace of wakeport's own pod, or of the
    /// kubeconfig]
    #[arg(long, value_name = "NAME", value_parser = kubernetes::name)]
    namespace: Option<String>,

    /// How many pods a wake asks for: a number, or as many as there were before the last stop
    #[arg(long, value_name = "N|remembered", default_value = "remembered")]
    replicas: Replicas,

    /// Let new pods start while old ones terminate
    ///
    /// Without it a wake waits until the pods before are gone: two that write to one volume could
    /// damage it.
    #[arg(long)]
    overlap: bool,

    /// The Lease by which several wakeports in front of one workload agree
    /// [default: wakeport-KIND-NAME]
    #[arg(long, value_name = "NAME", value_parser = kubernetes::name)]
    lease: Option<String>,

    /// Another API server than that of the pod or the kubeconfig: http://127.0.0.1:8001 is what
    /// `kubectl proxy` serves
    #[arg(long, value_name = "URL", value_parser = api_url)]
    kube_api: Option<String>,

    /// A folder with `token`, `ca.crt` and `namespace`, as a pod has them, for --kube-api
    #[arg(long, value_name = "DIR")]
    kube_credentials: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "PROXY protocol")]
struct ProxyOptions {
    /// Tell the target the client's address, by a PROXY header of this version: v1 or v2
    ///
    /// The header comes first on every connection to the target; probes say that they are
    /// wakeport's own (LOCAL; UNKNOWN in v1). The target has to expect it.
    #[arg(long, value_name = "VERSION")]
    send_proxy: Option<ProxyVersion>,

    /// Take the client's address from the PROXY header, v1 or v2, that the load balancer in front
    /// sends
    ///
    /// A connection that sends none within 5 s is reset and does not wake the service, nor does a
    /// health check that only connects. Only the load balancer may reach the port: any other peer
    /// could claim any address.
    #[arg(long)]
    accept_proxy: bool,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Clients")]
struct ClientOptions {
    /// Accept clients from this network: 192.0.2.0/24, 2001:db8::1, any, localhost, link-local
    ///
    /// A client from none of these networks is reset, and neither wakes the service nor keeps it
    /// awake. The most specific network of --allow and --deny decides. With --accept-proxy it is
    /// the address in the header that counts; clients of Unix sockets are always accepted. May be
    /// repeated.
    #[arg(long, value_name = "CIDR")]
    allow: Vec<Words<Networks>>,

    /// Reset clients from this network, before they wake the service
    ///
    /// Between equal networks it is --deny that decides. May be repeated.
    #[arg(long, value_name = "CIDR")]
    deny: Vec<Words<Networks>>,

    /// Wake the service only once a client has sent data: a port scan wakes nothing
    ///
    /// Not for protocols in which the server speaks first, such as SSH, SMTP, FTP and MySQL: their
    /// clients would wait for ever.
    #[arg(long)]
    wake_on_data: bool,

    /// Wake the service at most N times in any such TIME, as in 6/1h; clients for whom it would be
    /// woken once more are reset
    ///
    /// Clients that come while it runs or starts are served. Earlier wakes are known from the
    /// record in the state directory; without one, only those since wakeport was started count.
    #[arg(long, value_name = "N/TIME")]
    wake_rate: Option<WakeRate>,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "HTTP")]
struct HttpOptions {
    /// Speak HTTP with clients and target: requests wake the service and keep it awake, idle
    /// connections do not
    ///
    /// Clients speak HTTP/1, or HTTP/2 without TLS and from the first byte on (h2c with prior
    /// knowledge), as proxies in front do. --target-protocol says what the target speaks.
    ///
    /// Requests and responses are checked and written anew, and the target is told the client by
    /// X-Forwarded-For, -Proto and -Host. WebSockets and other upgrades keep the service awake as
    /// long as they are open. Idle connections are closed after 150 s.
    #[arg(long)]
    http: bool,

    /// Whose requests the service gets: a host, `*.example.org` for all below it, or `*`; implies
    /// --http, unless --tls is given
    ///
    /// In any case, without a port. The most specific host decides, then --path. Requests for hosts of
    /// no service are answered with 404 and wake nothing. May be repeated; default: all.
    #[arg(long, value_name = "HOST")]
    host: Vec<Words<HostPattern>>,

    /// Of these hosts, only the paths that begin so, in whole segments: `/app` has `/app/x` and not
    /// `/apple`
    ///
    /// The target gets the whole path. Paths with `..`, `.` or empty segments belong to no prefix. May
    /// be repeated; default: all.
    #[arg(long, value_name = "PATH")]
    path: Vec<Words<PathPrefix>>,

    /// What the target speaks: http1, or h2c, which is HTTP/2 without TLS, as servers of gRPC do
    ///
    /// Clients may speak either; what they say is translated. Upgrades, such as WebSockets, need
    /// http1.
    #[arg(long, value_name = "PROTOCOL", default_value = "http1")]
    target_protocol: TargetProtocol,

    /// Requests that neither wake the service nor keep it awake: `/path`, `/start/*`, `method:HEAD`,
    /// `agent:NAME` (a part of User-Agent) or `from:CIDR`
    ///
    /// While it sleeps they are answered with --quiet-answer, while it is awake passed on. May be
    /// repeated.
    #[arg(long, value_name = "RULE")]
    quiet: Vec<Words<Rule>>,

    /// Only these requests wake the service and keep it awake, in the words of --quiet
    ///
    /// May be repeated; default: all.
    #[arg(long, value_name = "RULE")]
    wake_only: Vec<Words<Rule>>,

    /// Take /favicon.ico, /apple-touch-icon*, /robots.txt, prefetches, crawlers and `OPTIONS *` for quiet, too
    ///
    /// A crawler has an address and `bot`, `crawl`, `spider`, `slurp` or `externalhit` in its User-Agent.
    #[arg(long, value_name = "BOOL", default_value = "yes", action = ArgAction::Set,
          value_parser = BoolishValueParser::new())]
    quiet_defaults: bool,

    /// The status with which quiet requests are answered while the service sleeps
    #[arg(long, value_name = "STATUS", default_value = "503",
          value_parser = clap::value_parser!(u16).range(200..=599))]
    quiet_answer: u16,

    /// Show browsers a waiting page if the service is not expected to answer within this time
    ///
    /// Only for people who navigate to a page; all other requests just wait. How long it takes is
    /// known by the latest wakes. `infinity` is never.
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = span::parse)]
    page_after: Duration,

    /// The waiting page, as an HTML file of at most 64 KiB, instead of the one of wakeport
    ///
    /// {{name}}, {{state}} (`starting` or `failed`), {{text}}, {{expected}}, {{seconds}}, {{refresh}},
    /// {{here}} and {{nonce}} are filled in.
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,

    /// The status of the waiting page: 503, or 200 where a proxy in front replaces pages with 503
    #[arg(long, value_name = "STATUS", default_value = "503", value_parser = page_status)]
    page_status: u16,

    /// Say on the page why the service could not be started, and what a workload's pods wait for
    #[arg(long)]
    page_details: bool,

    /// Pass on what proxies in this network say of their clients (X-Forwarded-For, Forwarded, ...);
    /// from others that is removed
    ///
    /// Words as for --allow. Proxies on Unix sockets are always trusted. May be repeated.
    #[arg(long, value_name = "CIDR", default_value = "localhost")]
    trust: Vec<Words<Networks>>,

    /// Log each request: client, method, host and path, status, times and bytes
    ///
    /// At log level info, without the query. In the journal each of them is a field (WAKEPORT_HOST,
    /// WAKEPORT_STATUS, ...). A request that got no response, as its client went away, has the status 499.
    #[arg(long)]
    access_log: bool,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "TLS")]
struct TlsOptions {
    /// `pass`: pass TLS through to the service whose --host is the name that the client asks for (SNI)
    ///
    /// wakeport reads the first message of a connection and decrypts nothing: the service has the
    /// certificate. A name of no service is refused with the alert `unrecognized_name` and wakes
    /// nothing, nor does anything else than TLS, or a client that says nothing for 10 s. Without --host
    /// the service gets all names, and clients that name none.
    #[arg(long, value_name = "MODE")]
    tls: Option<Tls>,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "UDP")]
struct UdpOptions {
    /// Which datagrams wake the service: any, raknet, source, quic, wireguard, or those that begin with
    /// these bytes, HEX or HEX/MASK, followed by ,LEN+ for a length
    ///
    /// raknet: requests to open a connection, and no pings (Minecraft Bedrock). source: all but queries of
    /// server lists (Valve's servers, and others that speak their protocol). quic, wireguard: what begins
    /// a connection. HEX: at most 20 bytes; 80/80,1200+ has the first bit set, and 1200 bytes or more.
    ///
    /// While the service sleeps, the kernel drops all others, and nothing is started. Once it is awake it
    /// gets them all; pings and queries do not keep it awake.
    #[arg(long, value_name = "KIND", default_value = "any")]
    udp_wake: UdpWake,

    /// Take a client for gone after this time without a datagram
    ///
    /// With the last client the cooldown begins. Datagrams of the service count as well.
    #[arg(long, value_name = "TIME", default_value = UdpSettings::IDLE_TIMEOUT,
          value_parser = udp_idle_timeout)]
    udp_idle_timeout: Duration,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Times")]
struct TimeOptions {
    /// Stop the service this long after the last connection closes
    #[arg(long, value_name = "TIME", default_value = Timing::COOLDOWN, value_parser = span::parse)]
    cooldown: Duration,

    /// Freeze the service this long after the last connection closes: it keeps its memory, does nothing,
    /// and answers the next client within milliseconds
    ///
    /// It has to be shorter than --cooldown, at whose end the service is thawed and stopped. For units it
    /// takes what `wakeport init` writes with this option, for hooks --freeze-hook and --thaw-hook.
    #[arg(long, value_name = "TIME", default_value = Timing::FREEZE_AFTER, value_parser = span::parse)]
    freeze_after: Duration,

    /// Have the kernel reclaim the memory of what was frozen: it swaps out, and drops caches
    ///
    /// It is for units of the system's manager, and takes the memory controller of control groups of
    /// version 2, Linux 5.19, swap, and what `wakeport init` writes with this option. A thaw does not wait
    /// for it. Without swap only caches go.
    #[arg(long)]
    freeze_reclaim: bool,

    /// Fail the wake if the service does not answer within this time [default: 90s; with --scale
    /// 10min]
    #[arg(long, value_name = "TIME", value_parser = span::parse)]
    start_timeout: Option<Duration>,

    /// Fail the stop if the service is not down within this time
    #[arg(long, value_name = "TIME", default_value = Timing::STOP_TIMEOUT,
          value_parser = span::parse)]
    stop_timeout: Duration,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Work without clients")]
struct BusyOptions {
    /// Whether connections to the targets that bypass wakeport keep the service awake: count or
    /// ignore
    ///
    /// Counted are those that this network namespace has. Units that would be stopped along with the
    /// woken units (Requires=, BindsTo=, Requisite=, StopPropagatedFrom=) always keep them awake
    /// while they are active.
    #[arg(long, value_name = "KIND", default_value = "count")]
    direct_connections: DirectConnections,

    /// Ask this program before the service is stopped; exit code 1 keeps it awake
    ///
    /// Exit code 0: it may be stopped. Anything else, and no end within 10 s, is logged, and it is
    /// stopped. A service that is kept awake is asked about again every 30 s.
    #[arg(long, value_name = "CMD")]
    busy_hook: Option<CommandLine>,

    /// Keep the units awake while they use more CPU, as in 1% of one core; a mean over 30 s
    #[arg(long, value_name = "PERCENT")]
    busy_cpu: Option<Percent>,

    /// Keep the units awake while they read and write more, as in 100K bytes a second; a mean over
    /// 30 s; the units need IOAccounting=yes
    #[arg(long, value_name = "RATE")]
    busy_io: Option<Rate>,

    /// Keep the units awake while they send and receive more, as in 10K bytes a second; a mean over
    /// 30 s; the units need IPAccounting=yes
    #[arg(long, value_name = "RATE")]
    busy_net: Option<Rate>,

    /// Stop the service all the same after it was kept awake for this long
    #[arg(long, value_name = "TIME", default_value = Busy::LIMIT, value_parser = span::parse)]
    busy_limit: Duration,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connections")]
struct ConnectionOptions {
    /// Close a connection that has been idle for this long
    ///
    /// Forgotten keep-alive connections cannot keep the service awake then.
    #[arg(long, value_name = "TIME", default_value = Liveness::IDLE_TIMEOUT,
          value_parser = span::parse)]
    client_idle_timeout: Duration,

    /// Send TCP keepalive probes after this time without data
    #[arg(long, value_name = "TIME", default_value = Liveness::KEEPALIVE_TIME,
          value_parser = whole_seconds)]
    keepalive_time: Duration,

    /// Time between two keepalive probes
    #[arg(long, value_name = "TIME", default_value = Liveness::KEEPALIVE_INTERVAL,
          value_parser = whole_seconds)]
    keepalive_interval: Duration,

    /// Close the connection after this many unanswered keepalive probes
    #[arg(long, value_name = "N", default_value_t = Liveness::KEEPALIVE_PROBES,
          value_parser = clap::value_parser!(u32).range(1..=127))]
    keepalive_probes: u32,

    /// Close the connection when data remains unacknowledged for this long; infinity leaves it to
    /// the kernel
    ///
    /// The kernel gives up after some 15 minutes. A reader that stalls for so long counts as
    /// vanished, too (TCP_USER_TIMEOUT, tcp(7)).
    #[arg(long, value_name = "TIME", default_value = Liveness::USER_TIMEOUT,
          value_parser = span::parse)]
    user_timeout: Duration,
}

/// What a process has once.
#[derive(Clone, Debug, Args)]
struct ProcessOptions {
    /// Read services from this TOML file and its drop-ins, FILE.d/*.toml; with a - before its name
    /// it may be missing
    ///
    /// Each service has a table [service.NAME], with the options of this page as keys and with
    /// listener = "NAME", the FileDescriptorName= of its socket; a table "defaults" is for all of them.
    /// Flags weigh more than variables, and variables more than the file.
    #[arg(long, value_name = "[-]FILE", help_heading = Resettable::Reset)]
    config: Option<ConfigPath>,

    #[command(flatten)]
    own: OwnOptions,
    #[command(flatten)]
    observed: Observed,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Process")]
struct OwnOptions {
    /// Listen on this address instead of taking sockets from systemd: ADDRESS:PORT, PORT, /path,
    /// @abstract, or udp:PORT
    ///
    /// For running by hand or in a container; implies --stay. May be repeated.
    #[arg(long, value_name = "[NAME=]ADDR")]
    listen: Vec<Words<Named<Bound>>>,

    /// Relay at most so many connections at once; the others wait in the kernel's backlog
    /// [default: as many as the limit on open files allows]
    #[arg(long, value_name = "N")]
    max_connections: Option<NonZeroUsize>,

    /// Let at most so many clients wait for the service; the others wait in the backlog
    #[arg(long, value_name = "N", default_value_t = Limits::MAX_WAITING)]
    max_waiting: NonZeroUsize,

    /// Relay on at most so many threads; they are started as clients come [default: one for each
    /// core]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,

    /// Reset the connections that are still open this long after SIGTERM
    #[arg(long, value_name = "TIME", default_value = ProcessConfig::DRAIN_TIMEOUT,
          value_parser = span::parse)]
    drain_timeout: Duration,

    /// Go on accepting connections for this long after SIGTERM, while /readyz says that it is ending
    ///
    /// For load balancers that take a moment to hear of it, as in Kubernetes.
    #[arg(long, value_name = "TIME", default_value = ProcessConfig::DRAIN_DELAY,
          value_parser = span::parse)]
    drain_delay: Duration,

    /// Do not exit when idle
    #[arg(long)]
    stay: bool,

    /// How much to log
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: LogLevel,

    /// Where to log
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    log_format: LogFormat,
}

/// The options that a service of a file can have, as keys.
pub(super) fn service_arguments() -> Vec<Arg> {
    arguments_of(ServiceOptions::augment_args)
}

/// All options, as flags and variables.
fn arguments() -> Vec<Arg> {
    arguments_of(|command| ProcessOptions::augment_args(ServiceOptions::augment_args(command)))
}

fn arguments_of(group: impl FnOnce(Command) -> Command) -> Vec<Arg> {
    let complete = |argument: &Arg| {
        let argument = argument.clone();
        let name = variable(argument.get_long().expect("every option has a long name"));
        let argument = argument.env(name);
        // A switch is a value, too: a variable and a key take it back.
        match matches!(argument.get_action(), ArgAction::SetTrue) {
            true => argument
                .action(ArgAction::Set)
                .value_name("yes|no")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("yes")
                .default_value("no")
                .hide_default_value(true)
                .value_parser(BoolishValueParser::new())
                .hide_possible_values(true),
            false => argument,
        }
    };
    let group = group(Command::new("run"));
    group.get_arguments().map(complete).collect()
}

impl Args for Options {
    fn augment_args(command: Command) -> Command {
        command.args(arguments())
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Options {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Settings::default();
        for argument in arguments() {
            let id = argument.get_id().as_str();
            let origin = match matches.value_source(id) {
                Some(ValueSource::CommandLine) => Origin::Flag,
                Some(ValueSource::EnvVariable) => Origin::Variable,
                _ => continue,
            };
            let values = matches.get_raw(id).into_iter().flatten();
            let values = values.map(|value| value.to_string_lossy().into_owned());
            given.insert(key(&argument).to_owned(), Setting::new(origin, values));
        }
        Ok(Self {
            given,
            service: ServiceOptions::from_arg_matches(matches)?,
            process: ProcessOptions::from_arg_matches(matches)?,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// What a file calls an option: its long name.
pub(super) fn key(argument: &Arg) -> &str {
    argument.get_long().unwrap_or_default()
}

/// The command line that says the same.
pub(super) fn typed(settings: &Settings) -> Vec<String> {
    let flags = settings.iter().flat_map(|(key, setting)| {
        let values = setting.values.iter();
        values.map(move |(value, _)| format!("--{key}={value}"))
    });
    flags.collect()
}

/// What takes these arguments, whatever variables there are.
pub(super) fn parser(arguments: Vec<Arg>) -> Command {
    let arguments = arguments.into_iter();
    let arguments = arguments.map(|argument| argument.env(Resettable::Reset));
    let command = Command::new("wakeport").no_binary_name(true);
    command.args(arguments)
}

/// A list: repeated on the command line, separated by white space in a variable.
#[derive(Clone, Debug)]
struct Words<T>(Vec<T>);

impl<T: FromStr> FromStr for Words<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        let words = text.split_whitespace().map(str::parse);
        Ok(Self(words.collect::<Result<_, _>>()?))
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

/// With less every pause between two datagrams would be an end.
fn udp_idle_timeout(text: &str) -> Result<Duration, String> {
    let span = span::parse(text)?;
    match span >= Duration::from_secs(1) {
        true => Ok(span),
        false => Err("a client may be silent for a second at least, so write `1s` or more".into()),
    }
}

fn flatten<T>(words: Vec<Words<T>>) -> Vec<T> {
    words.into_iter().flat_map(|Words(words)| words).collect()
}

impl Options {
    /// What `wakeport run` would make of these arguments and variables; if it would not, why, in
    /// one line.
    pub(super) fn read(
        arguments: &[String],
        variables: &[(String, String)],
    ) -> Result<Self, String> {
        let mut command = parser(self::arguments());
        let typed = command.try_get_matches_from_mut(arguments);
        let typed = typed.and_then(|matches| Self::from_arg_matches(&matches));
        let given = typed.map_err(|error| one_line(&error))?.given;
        let given = settings::over(given, &of_variables(variables));
        let matches = command.try_get_matches_from_mut(self::typed(&given));
        let options = matches.and_then(|matches| Self::from_arg_matches(&matches));
        let given_by = |_: &str, name: &str| variables.iter().any(|(variable, _)| variable == name);
        let options = options.map_err(|error| with_variable(&error, given_by))?;
        Ok(Self { given, ..options })
    }

    /// What was typed, as variables, in the order of `--help`.
    pub(super) fn as_variables(&self) -> Vec<(String, String)> {
        let flags = arguments().into_iter().filter_map(|argument| {
            let setting = self.given.get(key(&argument))?;
            let values = setting.values.iter().map(|(value, _)| value.as_str());
            let values = values.collect::<Vec<_>>().join(" ");
            (setting.origin == Origin::Flag).then(|| (variable(key(&argument)), values))
        });
        flags.collect()
    }

    /// Whether there is such an option.
    pub(super) fn has(key: &str) -> bool {
        arguments().iter().any(|it| self::key(it) == key)
    }

    /// What was given, by flags and variables.
    pub(super) fn given(&self) -> &Settings {
        &self.given
    }

    /// The variables that look like ours, and are none.
    pub(super) fn unknown(variables: &[(String, String)]) -> Vec<String> {
        let known: Vec<_> = arguments().iter().map(|it| variable(key(it))).collect();
        let names = variables.iter().map(|(name, _)| name);
        let ours = names.filter(|name| name.starts_with("WAKEPORT_"));
        ours.filter(|name| !known.contains(name)).cloned().collect()
    }

    /// The same, with the file at `path`.
    pub(super) fn with_config(mut self, path: &Path) -> Self {
        self.process.config = Some(ConfigPath {
            path: path.to_owned(),
            optional: false,
        });
        self
    }

    /// The file that was given.
    pub(super) fn file(&self) -> Option<&Path> {
        let config = self.process.config.as_ref()?;
        Some(&config.path)
    }

    /// The same, for an instance of `wakeport@`: its file is at `path`, unless another was given.
    pub(super) fn with_file(mut self, path: &Path) -> Self {
        self.process.config.get_or_insert_with(|| ConfigPath {
            path: path.to_owned(),
            optional: true,
        });
        self
    }

    /// The same, for an instance of `wakeport@`: it wakes the unit that it is called after, unless
    /// something else was asked for.
    pub(super) fn for_instance(mut self, name: &UnitName) -> Self {
        let control = &mut self.service.control;
        let hooks = control.start_hook.is_some() || control.stop_hook.is_some();
        let scales = !self.service.kubernetes.scale.is_empty();
        if control.unit.is_empty() && !hooks && control.exec.is_none() && !scales {
            control.unit.push(Words(vec![name.clone()]));
        }
        self
    }

    /// Whether an instance that systemd starts can do with them.
    pub(super) fn suit_an_instance(&self) -> Result<(), Fatal> {
        match self.process.observed.metrics {
            Some(_) => Err(Fatal::usage(METRICS_GO_WITH_LISTEN)),
            None => Ok(()),
        }
    }

    /// How the instance lets itself be observed.
    pub(super) fn observed(&self) -> Observed {
        self.process.observed.clone()
    }

    /// Where to log, and how much.
    pub(super) fn log(&self) -> (LogFormat, LogLevel) {
        (self.process.own.log_format, self.process.own.log_level)
    }

    /// Whose service manager is meant.
    pub(super) fn manager(&self) -> Manager {
        self.service.control.manager()
    }

    /// What the options mean, and the file that they name, if there is one: read anew each time.
    pub(super) fn load(&self) -> Result<Config, Fatal> {
        let Some(path) = &self.process.config else {
            return self.config();
        };
        match path.read()? {
            Some(file) => config_file::config(self, path, &file),
            None => self.config(),
        }
    }

    /// What the options mean, without any file.
    pub(super) fn config(&self) -> Result<Config, Fatal> {
        let service = self.service.clone().config(None);
        let service = service.map_err(|wrong| Fatal::usage(wrong.message))?;
        Ok(Config {
            process: self.process(),
            services: vec![service],
        })
    }

    /// What a process has once.
    pub(super) fn process(&self) -> ProcessConfig {
        let own = self.process.own.clone();
        let listen = flatten(own.listen);
        ProcessConfig {
            stay: own.stay || !listen.is_empty(),
            listen,
            limits: Limits {
                max_connections: own.max_connections.map(usize::from),
                max_waiting: own.max_waiting.into(),
                threads: own.threads,
            },
            drain_timeout: own.drain_timeout,
            drain_delay: own.drain_delay,
        }
    }
}

/// What is set in these variables; of several of one name the last one counts.
fn of_variables(variables: &[(String, String)]) -> Settings {
    let mut settings = Settings::default();
    for argument in arguments() {
        let name = variable(key(&argument));
        let mut values = variables.iter().rev();
        if let Some((_, value)) = values.find(|(variable, _)| *variable == name)
            && !value.is_empty()
        {
            let setting = Setting::new(Origin::Variable, [value.clone()]);
            settings.insert(key(&argument).to_owned(), setting);
        }
    }
    settings
}

impl ControlOptions {
    fn manager(&self) -> Manager {
        match self.user {
            true => Manager::User,
            false => Manager::System,
        }
    }
}

/// What is wrong with the options of a service, taken together.
#[derive(Debug)]
pub(super) struct Wrong {
    /// The option that it is about.
    pub(super) key: &'static str,
    /// One line, with the remedy.
    pub(super) message: String,
}

impl KubernetesOptions {
    /// What is scaled, if anything is.
    fn scale(&self) -> Option<Scale> {
        let workloads = flatten(self.scale.clone());
        let lease = Scale::lease_of(workloads.first()?);
        Some(Scale {
            namespace: self.namespace.clone(),
            replicas: self.replicas,
            overlap: self.overlap,
            lease: self.lease.clone().unwrap_or(lease),
            access: Access {
                url: self.kube_api.clone(),
                credentials: self.kube_credentials.clone(),
            },
            workloads,
        })
    }

    /// What was given that means nothing without anything to scale.
    fn given(&self) -> Option<&'static str> {
        let given = [
            ("namespace", self.namespace.is_some()),
            ("replicas", self.replicas != Replicas::default()),
            ("overlap", self.overlap),
            ("lease", self.lease.is_some()),
            ("kube-api", self.kube_api.is_some()),
            ("kube-credentials", self.kube_credentials.is_some()),
        ];
        let mut given = given.into_iter().filter_map(|(key, is)| is.then_some(key));
        given.next()
    }
}

/// What is wrong with what was given about Kubernetes.
fn scaled(
    dashes: &str,
    kubernetes: &KubernetesOptions,
    routes: &[Named<Address>],
    stop_on_exit: bool,
) -> Option<(&'static str, String)> {
    let services = || {
        let mut routes = routes.iter();
        routes.find(|route| matches!(route.value, Address::Service(_)))
    };
    let Some(scale) = kubernetes.scale() else {
        if let Some(Named { value, .. }) = services() {
            return Some((
                "to",
                format!(
                    "`{dashes}to {value}` are pods of Kubernetes; add `{dashes}scale`, as in `deployment/{}`, or give host and port",
                    value.authority()
                ),
            ));
        }
        let key = kubernetes.given()?;
        return Some((
            key,
            format!(
                "`{dashes}{key}` means nothing without `{dashes}scale`; add it, or leave it out"
            ),
        ));
    };
    if !cfg!(feature = "kubernetes") {
        return Some((
            "scale",
            format!(
                "`{dashes}scale` needs a wakeport that is built with Kubernetes, and this one is not: `cargo build --release --features kubernetes`"
            ),
        ));
    }
    let mut seen = scale.workloads.iter().enumerate();
    if let Some((_, twice)) =
        seen.find(|(index, workload)| scale.workloads[..*index].contains(workload))
    {
        return Some((
            "scale",
            format!("`{dashes}scale {twice}` is given twice; leave out one of the two"),
        ));
    }
    if let (Some(_), None) = (&scale.access.credentials, &scale.access.url) {
        return Some((
            "kube-credentials",
            format!(
                "`{dashes}kube-credentials` says nothing of where the API server is; add `{dashes}kube-api`"
            ),
        ));
    }
    if stop_on_exit {
        return Some((
            "stop-on-exit",
            format!(
                "`{dashes}stop-on-exit` would stop the workload with each of wakeport's pods that is replaced; leave it out with `{dashes}scale`"
            ),
        ));
    }
    None
}

/// Reads the URL of an API server.
fn api_url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://");
    let rest = rest.or_else(|| text.strip_prefix("http://"));
    let rest = rest.ok_or("write `https://HOST:PORT`, or `http://HOST:PORT`")?;
    let bad = |c: char| c.is_whitespace() || c.is_control() || "@?#".contains(c);
    if rest.is_empty() || rest.starts_with(['/', ':']) || rest.contains(bad) {
        return Err("write `https://HOST:PORT`, or `http://HOST:PORT`".into());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

impl HttpOptions {
    /// The waiting page, or what is wrong with its template.
    fn page(&self) -> Result<Option<WaitingPage>, String> {
        let template = self.page.as_deref().map(template).transpose()?;
        Ok((self.page_after < Duration::MAX).then_some(WaitingPage {
            after: self.page_after,
            template,
            status: self.page_status,
            details: self.page_details,
        }))
    }

    /// The hosts that the service is for.
    fn hosts(&self) -> Vec<HostPattern> {
        or_default(flatten(self.host.clone()), HostPattern::Any)
    }

    /// What was given that means nothing without HTTP.
    fn about_requests(&self) -> impl Iterator<Item = &'static str> {
        let given = [
            ("http", self.http),
            ("path", !self.path.is_empty()),
            ("quiet", !self.quiet.is_empty()),
            ("wake-only", !self.wake_only.is_empty()),
            ("quiet-defaults", !self.quiet_defaults),
            ("quiet-answer", self.quiet_answer != 503),
            ("page-after", self.page_after != Duration::from_secs(3)),
            ("page", self.page.is_some()),
            ("page-status", self.page_status != 503),
            ("page-details", self.page_details),
            ("access-log", self.access_log),
            (
                "target-protocol",
                self.target_protocol != TargetProtocol::default(),
            ),
            (
                "trust",
                Ok(flatten(self.trust.clone())) != Words::from_str("localhost").map(|of| of.0),
            ),
        ];
        given.into_iter().filter_map(|(key, is)| is.then_some(key))
    }

    fn config(&self, page: Option<WaitingPage>) -> Option<Http> {
        let (hosts, paths) = (self.hosts(), flatten(self.path.clone()));
        let paths = or_default(paths, PathPrefix::all());
        let of_host =
            |host: HostPattern| paths.iter().map(move |path| (host.clone(), path.clone()));
        let is_given = self.http || !self.host.is_empty();
        is_given.then(|| Http {
            hosts: hosts.into_iter().flat_map(of_host).collect(),
            trust: AccessList::new(&flatten(self.trust.clone()), &[]),
            page,
            quiet: Quiet {
                rules: flatten(self.quiet.clone()),
                wake_only: flatten(self.wake_only.clone()),
                defaults: self.quiet_defaults,
                answer: self.quiet_answer,
            },
            access_log: self.access_log,
            target: self.target_protocol,
        })
    }
}

fn page_status(text: &str) -> Result<u16, String> {
    match text {
        "200" => Ok(200),
        "503" => Ok(503),
        _ => Err("write 503, or 200".into()),
    }
}

/// Reads a template of the waiting page.
fn template(path: &Path) -> Result<Template, String> {
    let shown = path.display();
    let read = || -> io::Result<String> {
        let mut text = String::new();
        let most = WaitingPage::LONGEST as u64 + 1;
        File::open(path)?.take(most).read_to_string(&mut text)?;
        Ok(text)
    };
    match read() {
        Ok(text) if text.len() > WaitingPage::LONGEST => Err(format!(
            "`{shown}` is longer than {} KiB; a waiting page is one file, with its styles and pictures in it",
            WaitingPage::LONGEST / 1024
        )),
        Ok(text) => Ok(Template {
            path: path.to_owned(),
            text,
        }),
        Err(error) => Err(format!(
            "cannot read the waiting page `{shown}`: {error}; wakeport's user must be able to read it, as below /etc or /usr/share"
        )),
    }
}

/// The hooks that freeze and thaw, if both are given.
fn pause(freeze: Option<CommandLine>, thaw: Option<CommandLine>) -> Option<Pause> {
    let (freeze, thaw) = freeze.zip(thaw)?;
    Some(Pause { freeze, thaw })
}

/// What is wrong with what was given about freezing, and with which option.
fn frozen(
    dashes: &str,
    freezes: bool,
    times: &TimeOptions,
    kind: &ServiceKind,
    (freeze_hook, thaw_hook): (bool, bool),
) -> Option<(&'static str, String)> {
    let (after, cooldown) = (span::show(times.freeze_after), span::show(times.cooldown));
    let (hooks, stops) = match kind {
        ServiceKind::Hooks { stop, .. } => (true, stop.is_some()),
        ServiceKind::Relay
        | ServiceKind::Units { .. }
        | ServiceKind::Exec(_)
        | ServiceKind::Scale(_) => (false, true),
    };
    if freezes && times.freeze_after >= times.cooldown {
        return Some((
            "freeze-after",
            format!(
                "`{dashes}freeze-after {after}` is never over, since the service is stopped after `{dashes}cooldown {cooldown}`; give a shorter time, or a longer cooldown"
            ),
        ));
    }
    if freezes && matches!(kind, ServiceKind::Scale(_)) {
        return Some((
            "freeze-after",
            format!(
                "`{dashes}freeze-after {after}` is for what runs on this machine, and pods run on any; leave it out with `{dashes}scale`"
            ),
        ));
    }
    if freezes && matches!(kind, ServiceKind::Relay) {
        return Some((
            "freeze-after",
            format!(
                "`{dashes}freeze-after {after}` freezes what wakeport starts, and it starts nothing without `{dashes}unit`, `{dashes}start-hook` or `{dashes}exec`"
            ),
        ));
    }
    if freezes && hooks && !(freeze_hook && thaw_hook && stops) {
        return Some((
            "freeze-after",
            format!(
                "`{dashes}freeze-after {after}` needs `{dashes}freeze-hook`, `{dashes}thaw-hook` and `{dashes}stop-hook` where hooks start the service"
            ),
        ));
    }
    let system = |manager: &Manager| *manager == Manager::System;
    let units = matches!(kind, ServiceKind::Units { manager, .. } if system(manager));
    if times.freeze_reclaim && !(freezes && units) {
        return Some((
            "freeze-reclaim",
            format!(
                "`{dashes}freeze-reclaim` is for units of the system's manager that are frozen; add `{dashes}freeze-after`, or leave it out"
            ),
        ));
    }
    let key = if freeze_hook {
        "freeze-hook"
    } else {
        "thaw-hook"
    };
    if (freeze_hook || thaw_hook) && !(freezes && hooks) {
        return Some((
            key,
            format!(
                "`{dashes}{key}` is for services that hooks start, and means nothing without `{dashes}freeze-after`; add both, or leave it out"
            ),
        ));
    }
    None
}

fn or_default<T>(mut all: Vec<T>, default: T) -> Vec<T> {
    if all.is_empty() {
        all.push(default);
    }
    all
}

impl ServiceOptions {
    /// What the options mean, taken together, for the service that a file calls `name`.
    pub(super) fn config(self, name: Option<&str>) -> Result<ServiceConfig, Wrong> {
        let wrong = |key, message: String| Err(Wrong { key, message });
        // As it is spelled where it was given.
        let dashes = if name.is_some() { "" } else { "--" };
        let control = self.control;
        let manager = control.manager();
        let units = flatten(control.unit);
        let hooks = control.start_hook.is_some() || control.stop_hook.is_some();
        let scale = self.kubernetes.scale();
        let kind = match (control.exec, hooks, units.is_empty()) {
            (None, false, true) => match scale.clone() {
                Some(scale) => ServiceKind::Scale(Box::new(scale)),
                None => ServiceKind::Relay,
            },
            _ if scale.is_some() => {
                return wrong(
                    "scale",
                    format!(
                        "give only one of `{dashes}scale`, `{dashes}unit`, hooks and `{dashes}exec`"
                    ),
                );
            }
            (None, false, false) => ServiceKind::Units { units, manager },
            (None, true, true) => ServiceKind::Hooks {
                start: control.start_hook,
                stop: control.stop_hook,
                pause: pause(control.freeze_hook.clone(), control.thaw_hook.clone()),
            },
            (Some(command), false, true) => ServiceKind::Exec(command),
            _ => {
                let remedy = match name {
                    Some(_) => "",
                    None => {
                        "; a drop-in takes the template's unit back with `Environment=WAKEPORT_UNIT=`"
                    }
                };
                return wrong(
                    "unit",
                    format!("give only one of `{dashes}unit`, hooks and `{dashes}exec`{remedy}"),
                );
            }
        };
        // Defaults are for services of every kind.
        let about_requests = self
            .http
            .about_requests()
            .find(|key| name.is_none() || matches!(*key, "http" | "path"));
        let tls = self.tls.tls.map(|Tls::Pass| self.http.hosts());
        if let (Some(_), Some(key)) = (&tls, about_requests) {
            return wrong(
                key,
                format!(
                    "`{dashes}{key}` is about requests, which are encrypted with `{dashes}tls pass`; leave out one of the two"
                ),
            );
        }
        if let Some(address) = tls.iter().flatten().find(|host| host.is_address()) {
            return wrong(
                "host",
                format!(
                    "`{address}` is an address, and TLS clients name none; give a host, or leave out `{dashes}host` for all clients"
                ),
            );
        }
        let page = match self.http.page() {
            Ok(page) => page,
            Err(why) => return wrong("page", why),
        };
        let http = match tls {
            Some(_) => None,
            None => self.http.config(page),
        };
        if let (None, Some(key)) = (&http, about_requests) {
            return wrong(
                key,
                format!("`{dashes}{key}` is about requests; add `{dashes}host` or `{dashes}http`"),
            );
        }
        if http.is_some() && control.ready == ReadyKind::Banner {
            return wrong(
                "ready",
                format!(
                    "`{dashes}ready banner` is for a service that speaks first, and with `{dashes}http` clients do; use `{dashes}ready http://HOST:PORT/PATH`"
                ),
            );
        }
        if tls.is_some() && control.ready == ReadyKind::Banner {
            return wrong(
                "ready",
                format!(
                    "`{dashes}ready banner` is for a service that speaks first, and with `{dashes}tls` clients do; use `{dashes}ready connect`"
                ),
            );
        }
        let wake_rate = self.clients.wake_rate;
        if let (Some(rate), ServiceKind::Relay) = (wake_rate, &kind) {
            return wrong(
                "wake-rate",
                format!(
                    "`{dashes}wake-rate {rate}` limits what wakeport starts, and it starts nothing without `{dashes}unit`, `{dashes}start-hook` or `{dashes}exec`"
                ),
            );
        }
        let busy = Busy {
            direct_connections: self.busy.direct_connections,
            hook: self.busy.busy_hook,
            cpu: self.busy.busy_cpu,
            io: self.busy.busy_io,
            net: self.busy.busy_net,
            limit: self.busy.busy_limit,
        };
        if let (Some(key), false) = (busy.measured(), matches!(kind, ServiceKind::Units { .. })) {
            return wrong(
                key,
                format!(
                    "`{dashes}{key}` measures units, and there are none without `{dashes}unit`; use `{dashes}busy-hook`"
                ),
            );
        }
        let freezes = self.times.freeze_after < Duration::MAX;
        let pauses = (control.freeze_hook.is_some(), control.thaw_hook.is_some());
        if let Some((key, message)) = frozen(dashes, freezes, &self.times, &kind, pauses) {
            return wrong(key, message);
        }
        let routes = flatten(self.to);
        let stops = control.stop_on_exit;
        if let Some((key, message)) = scaled(dashes, &self.kubernetes, &routes, stops) {
            return wrong(key, message);
        }
        let start_timeout = self.times.start_timeout.unwrap_or_else(|| {
            let default = match kind {
                ServiceKind::Scale(_) => Scale::START_TIMEOUT,
                ServiceKind::Relay
                | ServiceKind::Units { .. }
                | ServiceKind::Hooks { .. }
                | ServiceKind::Exec(_) => Timing::START_TIMEOUT,
            };
            span::parse(default).expect("a span of our own")
        });
        if routes.is_empty() {
            let example = match name {
                Some(_) => "`to = \"127.0.0.1:8080\"`",
                None => "`--to 127.0.0.1:8080` or `Environment=WAKEPORT_TO=127.0.0.1:8080`",
            };
            return wrong(
                "to",
                format!("`{dashes}to` is missing: say where the service listens, as in {example}"),
            );
        }
        for (index, route) in routes.iter().enumerate() {
            let same = |other: &Named<Address>| {
                other.name == route.name && other.value.is_udp() == route.value.is_udp()
            };
            if routes[..index].iter().any(same) {
                let whose = route.name.as_deref().unwrap_or("every listener");
                return wrong(
                    "to",
                    format!(
                        "two targets are given for {whose}; tie each `{dashes}to` to its listener with `NAME=`"
                    ),
                );
            }
        }
        Ok(ServiceConfig {
            name: name.map(str::to_owned),
            listeners: None,
            routes,
            kind,
            readiness: Readiness {
                kind: control.ready,
                hook: control.ready_hook,
            },
            timing: Timing {
                cooldown: self.times.cooldown,
                freeze_after: self.times.freeze_after,
                start_timeout,
                stop_timeout: self.times.stop_timeout,
            },
            liveness: Liveness {
                idle_timeout: self.connections.client_idle_timeout,
                keepalive_time: self.connections.keepalive_time,
                keepalive_interval: self.connections.keepalive_interval,
                keepalive_probes: self.connections.keepalive_probes,
                user_timeout: self.connections.user_timeout,
            },
            udp: UdpSettings {
                wake: self.udp.udp_wake,
                idle_timeout: self.udp.udp_idle_timeout,
            },
            send_proxy: self.proxy.send_proxy,
            admission: Admission {
                access: AccessList::new(&flatten(self.clients.allow), &flatten(self.clients.deny)),
                accept_proxy: self.proxy.accept_proxy,
                wake_on_data: self.clients.wake_on_data,
                http,
                tls,
            },
            freeze_reclaim: self.times.freeze_reclaim,
            wake_rate,
            busy,
            stop_on_exit: control.stop_on_exit,
        })
    }
}
