//! What was typed, and what it means: the types of a validated configuration, and every
//! default with its reason. Pure: parses text, opens nothing.

pub mod access;
pub mod address;
pub mod busy;
pub mod host;
pub mod quiet;
pub mod settings;
pub mod slice;
pub mod span;
#[cfg(test)]
mod tests;
mod wake_rate;

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use access::AccessList;
use address::{Address, Bound, HttpUrl};
use busy::Busy;
use host::{HostPattern, PathPrefix, Table, Twice};
use quiet::Quiet;

pub use wake_rate::WakeRate;

/// Everything that `wakeport run` has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What a process has once.
    pub process: ProcessConfig,
    /// What is relayed to, woken and stopped; never empty.
    pub services: Vec<ServiceConfig>,
}

/// What a process has once, however many services there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessConfig {
    /// What to bind ourselves; empty under socket activation.
    pub listen: Vec<Named<Bound>>,
    /// How many clients at once.
    pub limits: Limits,
    /// How long connections may go on after we were told to end.
    pub drain_timeout: Duration,
    /// Whether we stay when idle, instead of leaving the sockets to systemd.
    pub stay: bool,
}

impl Config {
    /// Whether the services come from a file.
    pub fn has_file(&self) -> bool {
        self.services.iter().any(|service| service.name.is_some())
    }

    /// For each of these listeners, by name, the indices of its services: none, one, or several that
    /// have a host. If a service's listener is not there: why, in one line.
    pub fn owners<'a>(
        &self,
        listeners: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<Vec<Vec<usize>>, String> {
        for service in &self.services {
            let mut own = service.listeners.iter().flatten();
            if let Some(missing) = own.find(|own| !listeners.clone().any(|name| name == *own)) {
                let service = service.name.as_deref().unwrap_or_default();
                let there: Vec<_> = listeners.map(|name| format!("`{name}`")).collect();
                return Err(format!(
                    "service `{service}` has the listener `{missing}`, and no socket is called so; there are {}: see `FileDescriptorName=` in the .socket units",
                    there.join(", ")
                ));
            }
        }
        let those = |owns: &dyn Fn(&ServiceConfig) -> bool| {
            let services = self.services.iter().enumerate();
            let own = services.filter(|(_, service)| owns(service));
            own.map(|(index, _)| index).collect::<Vec<_>>()
        };
        let owners = |listener: &str| {
            let named = those(&|service| service.listeners.is_some() && service.owns(listener));
            match named.is_empty() {
                // The others have what is left.
                true => those(&|service| service.listeners.is_none()),
                false => named,
            }
        };
        let owners: Vec<Vec<usize>> = listeners.map(owners).collect();
        for (index, service) in self.services.iter().enumerate() {
            if !owners.is_empty() && !owners.iter().flatten().any(|&owner| owner == index) {
                let service = service.name.as_deref().unwrap_or_default();
                return Err(format!(
                    "service `{service}` has no listener: others have named all of them; name its own, as in `listener = \"web\"`"
                ));
            }
        }
        Ok(owners)
    }
}

/// Which of the services with these indices gets which requests, or TLS connections; those without HTTP
/// and TLS get none.
pub fn hosts(indices: &[usize], services: &[ServiceConfig]) -> Result<Table<usize>, Twice<usize>> {
    let rules = indices.iter().flat_map(|&index| {
        let own = services[index].admission.hosts();
        own.map(move |(host, path)| (host, path, index))
    });
    Table::new(rules)
}

impl ProcessConfig {
    /// Well within the 90 s after which systemd kills a unit that it stops.
    pub const DRAIN_TIMEOUT: &str = "30s";
}

/// One service: who its clients are, where they go, what is started for them, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceConfig {
    /// What the file calls it; `None` where there is no file, and so no other service.
    pub name: Option<String>,
    /// The listeners whose clients it gets, by `FileDescriptorName=`; `None` stands for all.
    pub listeners: Option<Vec<String>>,
    /// Where to relay to, in the order given.
    pub routes: Vec<Named<Address>>,
    /// What is started and stopped, and how.
    pub kind: ServiceKind,
    /// When the service counts as answering.
    pub readiness: Readiness,
    /// How long things may take.
    pub timing: Timing,
    /// How connections that are of no use any more are found out.
    pub liveness: Liveness,
    /// The PROXY header that every connection to the target begins with.
    pub send_proxy: Option<ProxyVersion>,
    /// Who counts as a client.
    pub admission: Admission,
    /// How often the service may be woken; `None` is as often as clients come.
    pub wake_rate: Option<WakeRate>,
    /// What keeps the service awake when no client is here.
    pub busy: Busy,
    /// Whether the service sleeps when we are told to end.
    pub stop_on_exit: bool,
    /// The memory of what is frozen is reclaimed.
    pub freeze_reclaim: bool,
}

impl ServiceConfig {
    /// Where the clients of the listener with this name go: to its own target, or to the one
    /// without a name.
    pub fn route(&self, listener: &str) -> Option<&Address> {
        let of = |name: Option<&str>| {
            let mut routes = self.routes.iter();
            routes
                .find(|route| route.name.as_deref() == name)
                .map(|route| &route.value)
        };
        of(Some(listener)).or_else(|| of(None))
    }

    /// Where the clients of the listener with this name and address go, or why that is not known.
    pub fn target(&self, listener: &str, at: &Bound) -> Result<Address, String> {
        let route = self.route(listener);
        let route = route.ok_or_else(|| {
            format!("listener `{listener}` has no target; add `--to {listener}=ADDR`")
        })?;
        route.clone().with_port(at.port()).ok_or_else(|| {
            format!(
                "target `{route}` needs a port: listener `{listener}` is a Unix socket and has none"
            )
        })
    }

    /// What is to be said of targets whose listener is not among `listeners`.
    pub fn unused_routes(&self, listeners: &[&str]) -> Vec<String> {
        let unused = |route: &Named<Address>| {
            let Named { name, value } = route;
            let name = name.as_ref()?;
            let there = listeners.contains(&name.as_str());
            (!there).then(|| {
                format!(
                    "no listener is called `{name}`, so `--to {name}={value}` is not used; see \
                     FileDescriptorName= in the .socket units"
                )
            })
        };
        self.routes.iter().filter_map(unused).collect()
    }

    /// The options that may keep a client from waking the service, as far as they are given.
    pub fn filters(&self) -> Vec<&'static str> {
        let Admission {
            access,
            accept_proxy,
            wake_on_data,
            http,
            tls,
        } = &self.admission;
        let given = [
            (!access.is_empty(), "`--allow` or `--deny`"),
            (*accept_proxy, "`--accept-proxy`"),
            (*wake_on_data, "`--wake-on-data`"),
            (self.wake_rate.is_some(), "`--wake-rate`"),
            (http.is_some(), "`--http`"),
            (tls.is_some(), "`--tls`"),
        ];
        let given = given.into_iter().filter(|(is, _)| *is);
        given.map(|(_, name)| name).collect()
    }

    /// Whether it gets the clients of this listener.
    pub fn owns(&self, listener: &str) -> bool {
        let own = self.listeners.as_ref();
        own.is_none_or(|own| own.iter().any(|own| own == listener))
    }

    /// What it is called in the log.
    pub fn label(&self) -> String {
        match &self.kind {
            ServiceKind::Relay => "the target".into(),
            ServiceKind::Units { units, .. } => {
                let names: Vec<_> = units.iter().map(UnitName::as_str).collect();
                names.join(" ")
            }
            ServiceKind::Hooks { .. } => "the service".into(),
            ServiceKind::Exec(command) => command.to_string(),
        }
    }

    /// The units that are started and stopped, if there are any.
    pub fn units(&self) -> &[UnitName] {
        match &self.kind {
            ServiceKind::Units { units, .. } => units,
            ServiceKind::Relay | ServiceKind::Hooks { .. } | ServiceKind::Exec(_) => &[],
        }
    }

    /// Whose units these are.
    pub fn manager(&self) -> Manager {
        match self.kind {
            ServiceKind::Units { manager, .. } => manager,
            ServiceKind::Relay | ServiceKind::Hooks { .. } | ServiceKind::Exec(_) => {
                Manager::default()
            }
        }
    }
}

/// A value that may be tied to one listener by name: `NAME=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named<T> {
    /// The listener's `FileDescriptorName=`; `None` stands for every listener not named.
    pub name: Option<String>,
    /// What belongs to that listener.
    pub value: T,
}

/// What is started and stopped, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// Nothing: systemd's own dependencies do it, as with systemd-socket-proxyd.
    Relay,
    /// Units of a service manager, over D-Bus.
    Units {
        /// Started together, stopped together.
        units: Vec<UnitName>,
        /// Whose manager.
        manager: Manager,
    },
    /// Programs of the administrator's.
    Hooks {
        /// Run to wake the service; without it something else starts it.
        start: Option<CommandLine>,
        /// Run to put it to sleep; without it something else stops it.
        stop: Option<CommandLine>,
        /// Run to freeze and to thaw it, if it is ever frozen.
        pause: Option<Pause>,
    },
    /// A child process of ours.
    Exec(CommandLine),
}

/// The programs that freeze and thaw a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Run to freeze it.
    pub freeze: CommandLine,
    /// Run to thaw it; also where it is not known whether it is frozen.
    pub thaw: CommandLine,
}

/// Whose service manager is asked.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// The system's, PID 1.
    #[default]
    System,
    /// The calling user's.
    User,
}

impl Manager {
    /// The command that reaches it.
    pub fn systemctl(self) -> &'static str {
        match self {
            Self::System => "systemctl",
            Self::User => "systemctl --user",
        }
    }

    /// The command that shows the log of a unit.
    pub fn journalctl(self, unit: &str) -> String {
        match self {
            Self::System => format!("journalctl -u {unit}"),
            Self::User => format!("journalctl --user -u {unit}"),
        }
    }
}

/// When the service counts as answering.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// What the target has to do.
    pub kind: ReadyKind,
    /// A program that must agree first.
    pub hook: Option<CommandLine>,
}

/// What the target has to do to count as answering.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ReadyKind {
    /// Accept a connection.
    #[default]
    Connect,
    /// Accept a connection and send a first byte.
    Banner,
    /// Answer an HTTP request with a status below 500.
    Http(HttpUrl),
}

impl FromStr for ReadyKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "connect" => Ok(Self::Connect),
            "banner" => Ok(Self::Banner),
            _ if text.starts_with("http://") => text.parse().map(Self::Http),
            _ => Err("write `connect`, `banner` or `http://HOST:PORT/PATH`".into()),
        }
    }
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// A block of bytes.
    V2,
}

impl FromStr for ProxyVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "v1" => Ok(Self::V1),
            "v2" => Ok(Self::V2),
            _ => Err("write `v1` or `v2`".into()),
        }
    }
}

/// How long things may take. [`Duration::MAX`] is `infinity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From the last client's leaving until the service sleeps.
    pub cooldown: Duration,
    /// From the last client's leaving until the service is frozen.
    pub freeze_after: Duration,
    /// From the order to start until the service answers.
    pub start_timeout: Duration,
    /// From the order to stop until the service is down.
    pub stop_timeout: Duration,
}

impl Timing {
    /// Long enough that the service is still awake for the next click of a reader.
    pub const COOLDOWN: &str = "5min";
    /// Not every service survives a freeze.
    pub const FREEZE_AFTER: &str = "infinity";
    /// systemd's own `DefaultTimeoutStartSec=`.
    pub const START_TIMEOUT: &str = "90s";
    /// systemd's own `DefaultTimeoutStopSec=`.
    pub const STOP_TIMEOUT: &str = "90s";
}

/// How connections that are of no use any more are found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Liveness {
    /// How long a connection may move no byte; [`Duration::MAX`] is for ever.
    pub idle_timeout: Duration,
    /// How long a peer may be silent before it is asked whether it is there (tcp(7)).
    pub keepalive_time: Duration,
    /// How long until it is asked again.
    pub keepalive_interval: Duration,
    /// How many questions may remain without an answer.
    pub keepalive_probes: u32,
    /// How long bytes may remain without an acknowledgement; [`Duration::MAX`] leaves it to the
    /// kernel, which gives up after some 15 minutes (`tcp_retries2` in tcp(7)).
    pub user_timeout: Duration,
}

impl Liveness {
    /// Connections keep the service awake however quiet they are, unless told otherwise.
    pub const IDLE_TIMEOUT: &str = "infinity";
    /// With the next two, a silent peer that has vanished keeps the service awake for two minutes.
    pub const KEEPALIVE_TIME: &str = "60s";
    /// So many lose no connection on a network that fails for less than a minute.
    pub const KEEPALIVE_INTERVAL: &str = "10s";
    /// A minute without an answer.
    pub const KEEPALIVE_PROBES: u32 = 6;
    /// The kernel counts a reader that stalls with a full window as well: too many would be hurt.
    pub const USER_TIMEOUT: &str = "infinity";
}

/// How many clients at once; those beyond stay in the kernel's backlog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Clients in all; `None` takes it from RLIMIT_NOFILE.
    pub max_connections: Option<usize>,
    /// Clients that wait for the service.
    pub max_waiting: usize,
    /// Threads that relay; `None` is one for each core that we may use.
    pub threads: Option<NonZeroUsize>,
}

impl Limits {
    /// The kernel's own default for `net.core.somaxconn`: as many again as a full backlog.
    pub const MAX_WAITING: NonZeroUsize = NonZeroUsize::new(4096).expect("4096 is not 0");
}

/// Who counts as a client, of all who connect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// The networks that they come from.
    pub access: AccessList,
    /// Whether every client begins with a PROXY header, as behind a load balancer.
    pub accept_proxy: bool,
    /// Whether one is a client only once it has sent something.
    pub wake_on_data: bool,
    /// Whether it is requests that count, and not connections.
    pub http: Option<Http>,
    /// Whether its connections are TLS, which is passed through, and for which names; never empty.
    pub tls: Option<Vec<HostPattern>>,
}

impl Admission {
    /// Whether a client says which service it means, and not its listener alone.
    pub fn is_by_host(&self) -> bool {
        self.http.is_some() || self.tls.is_some()
    }

    /// The hosts that it is for, and of these the paths.
    pub fn hosts(&self) -> impl Iterator<Item = (HostPattern, PathPrefix)> {
        let http = self.http.iter().flat_map(|http| http.hosts.iter().cloned());
        let names = self.tls.iter().flatten();
        http.chain(names.map(|name| (name.clone(), PathPrefix::all())))
    }
}

/// What becomes of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// It is passed through.
    Pass,
}

impl FromStr for Tls {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "pass" => Ok(Self::Pass),
            _ => Err("write `pass`: TLS is passed through, and the service decrypts it".into()),
        }
    }
}

/// What HTTP in front of a service needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// The hosts whose requests it gets, and of these the paths; never empty.
    pub hosts: Vec<(HostPattern, PathPrefix)>,
    /// The proxies in front of us, who may say whom they speak for.
    pub trust: AccessList,
    /// What a browser shows while the service starts; `None` is nothing.
    pub page: Option<WaitingPage>,
    /// Which requests neither wake the service nor keep it awake.
    pub quiet: Quiet,
    /// Whether each request is logged.
    pub access_log: bool,
    /// What the targets speak.
    pub target: TargetProtocol,
}

/// What a target speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 without TLS, and without asking for it by HTTP/1 first (RFC 9113, section 3.3).
    H2c,
}

impl FromStr for TargetProtocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "http1" => Ok(Self::Http1),
            "h2c" => Ok(Self::H2c),
            _ => Err("write `http1` or `h2c`".into()),
        }
    }
}

/// The page that a browser shows while the service starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingPage {
    /// How long a wait is without it.
    pub after: Duration,
    /// The administrator's template.
    pub template: Option<Template>,
    /// Its status.
    pub status: u16,
    /// Whether it says why the service could not be started.
    pub details: bool,
}

impl WaitingPage {
    /// How long a template may be, in bytes.
    pub const LONGEST: usize = 64 * 1024;
    /// What is filled in: these words in double braces.
    pub const WORDS: [&str; 8] = [
        "name", "state", "text", "expected", "seconds", "refresh", "here", "nonce",
    ];
}

/// A waiting page of the administrator's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Its file.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
}

impl Template {
    /// The words in double braces that are not filled in.
    pub fn unknown(&self) -> Vec<&str> {
        let parts = self.text.split("{{").skip(1);
        let words = parts.filter_map(|part| Some(part.split_once("}}")?.0));
        let is_word = |word: &&str| {
            word.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_ ".contains(&byte))
        };
        let mut unknown: Vec<_> = words.filter(is_word).collect();
        unknown.retain(|word| !WaitingPage::WORDS.contains(word));
        unknown.dedup();
        unknown
    }
}

/// The name of a unit, with its suffix.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UnitName(String);

impl UnitName {
    /// The name as systemd knows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for UnitName {
    type Err = String;

    /// Takes a name as systemctl does: without a suffix it means `.service`
    /// (systemd.unit(5) lists suffixes and characters).
    fn from_str(text: &str) -> Result<Self, String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        if let Some(bad) = text.chars().find(|&c| !allowed(c)) {
            return Err(format!(
                "`{bad}` cannot be part of a unit's name; see systemd-escape(1)"
            ));
        }
        let name = match text.rsplit_once('.') {
            Some((
                stem,
                "service" | "socket" | "device" | "mount" | "automount" | "swap" | "target"
                | "path" | "timer" | "slice" | "scope",
            )) if !stem.is_empty() => text.to_owned(),
            _ => format!("{text}.service"),
        };
        if text.is_empty() || name.len() > 255 {
            return Err("a unit's name has 1 to 255 characters".into());
        }
        Ok(Self(name))
    }
}

/// A program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// What to run: a path, or a name looked up in PATH.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.program)
    }
}

impl FromStr for CommandLine {
    type Err = String;

    /// Splits as a shell would, quotes and backslashes included. No shell runs.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = shlex::split(text)
            .ok_or("a quote is not closed, or the last character is a backslash")?
            .into_iter();
        match words.next() {
            Some(program) if !program.is_empty() => Ok(Self {
                program,
                arguments: words.collect(),
            }),
            _ => Err("no program is named".into()),
        }
    }
}
