//! An instance of `wakeport@` as systemd knows it.

use std::collections::BTreeSet;
use std::fs;

use super::Bus;
use super::programs::Identity;
use crate::admin::system::{Installed, SocketUnit, Unit};
use crate::admin::unit_text::environment_file;
use crate::config::Manager;
use crate::config::address::Bound;
use crate::systemd::dbus::Properties;

/// Where systemd's services find programs, unless they say something else.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An instance, as far as systemd can tell.
#[derive(Debug)]
pub struct Found {
    /// Its units.
    pub units: Installed,
    /// The command line of its service.
    pub command: Vec<String>,
    /// The variables of its service.
    pub variables: Vec<(String, String)>,
    /// The user it runs as, by name.
    pub user: String,
    /// Whether that user is made anew at each start.
    pub dynamic_user: bool,
    /// Its groups beside its user's.
    groups: Vec<String>,
    /// The hard limit on open files.
    pub open_files: u64,
}

/// Every instance that has a socket unit with a file, by the name of its service.
pub async fn all(bus: &Bus) -> zbus::Result<Vec<String>> {
    let mut services = BTreeSet::new();
    for name in bus.known("wakeport@*.socket").await? {
        let mut properties = bus.all_properties(&name).await?;
        let triggers: Vec<String> = properties.take("Triggers").unwrap_or_default();
        services.extend(triggers);
    }
    services.retain(|unit| unit.starts_with("wakeport@"));
    Ok(services.into_iter().collect())
}

/// The instance whose service this is.
pub async fn instance(bus: &Bus, service: &str) -> zbus::Result<Found> {
    let mut properties = bus.all_properties(service).await?;
    let start: Vec<Start> = properties.take("ExecStart").unwrap_or_default();
    let command = start.into_iter().next().map(|(_, arguments, ..)| arguments);
    let pairs = properties.take("Environment").unwrap_or_default();
    let files = properties.take("EnvironmentFiles").unwrap_or_default();
    let (variables, unread) = variables(pairs, files);
    let mut user: String = properties.take("User").unwrap_or_default();
    if user.is_empty() {
        user = match bus.manager {
            Manager::System => "root".to_owned(),
            Manager::User => super::own_name(),
        };
    }
    let dynamic_user = properties.take("DynamicUser").unwrap_or_default();
    let groups = properties.take("SupplementaryGroups").unwrap_or_default();
    let open_files = properties.take("LimitNOFILE").unwrap_or(u64::MAX);
    let unit = bus.with_slices(properties.unit()).await;
    let sockets = sockets(bus, service, &unit).await?;
    Ok(Found {
        units: Installed {
            service: unit,
            sockets,
            unread,
            ..Installed::default()
        },
        command: command.unwrap_or_default(),
        variables,
        user,
        dynamic_user,
        groups,
        open_files,
    })
}

/// Names and values, or files and reasons.
type Pairs = Vec<(String, String)>;

/// The variables that a service has by `Environment=` and `EnvironmentFile=`, and which files could not
/// be read, and why.
pub(super) fn variables(pairs: Vec<String>, files: Vec<(String, bool)>) -> (Pairs, Pairs) {
    let pair = |pair: String| {
        pair.split_once('=')
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    let mut variables: Vec<_> = pairs.into_iter().filter_map(pair).collect();
    let mut unread = Vec::new();
    for (file, may_be_missing) in files {
        match fs::read_to_string(&file) {
            Ok(text) => variables.extend(environment_file(&text)),
            Err(_) if may_be_missing && !std::path::Path::new(&file).exists() => (),
            Err(error) => unread.push((file, error.to_string())),
        }
    }
    (variables, unread)
}

/// `ExecStart`: path, arguments, whether failures do not count, and when it ran with what result.
pub(super) type Start = (String, Vec<String>, bool, u64, u64, u64, u64, u32, i32, i32);

/// The sockets of a service: the one of its own name, and others that start it.
async fn sockets(bus: &Bus, service: &str, unit: &Unit) -> zbus::Result<Vec<SocketUnit>> {
    let own = service.replace(".service", ".socket");
    let others = unit.triggered_by.iter();
    let is_port = |name: &str| name.ends_with(".socket") && !super::is_control(name);
    let others = others.filter(|name| **name != own && is_port(name));
    let mut sockets = Vec::new();
    for name in [&own].into_iter().chain(others) {
        sockets.push(socket(name, bus.all_properties(name).await?));
    }
    Ok(sockets)
}

fn socket(name: &str, mut properties: Properties) -> SocketUnit {
    let (at, others) = properties.listeners();
    SocketUnit {
        name: name.to_owned(),
        at,
        others,
        listener: properties.take("FileDescriptorName").unwrap_or_default(),
        ipv6_only: properties.take("BindIPv6Only") == Some("ipv6-only".to_owned()),
        accept: properties.take("Accept").unwrap_or_default(),
        flush: properties.take("FlushPending").unwrap_or_default(),
        receive_buffer: properties.take("ReceiveBuffer").unwrap_or_default(),
        trigger_limit: properties.span("TriggerLimitIntervalUSec"),
        unit: properties.unit(),
    }
}

impl Found {
    /// Where it listens.
    pub fn listeners(&self) -> Vec<Bound> {
        let sockets = self.units.sockets.iter();
        sockets.flat_map(|socket| socket.at.clone()).collect()
    }

    /// Its user's IDs, where that is known.
    pub fn ids(&self) -> Option<(u32, u32)> {
        super::identity(&self.user)
    }

    /// Who runs its programs.
    pub fn identity(&self) -> Option<Identity> {
        let path = self.variables.iter().rev().find(|(name, _)| name == "PATH");
        Some(Identity {
            path: path.map_or(PATH, |(_, value)| value).to_owned(),
            sandbox: self.units.service.sandbox.clone(),
            ..Identity::of(&self.user, &self.groups)?
        })
    }
}
