//! Reads what `init`, `check` and `status` have to know of the machine. Nothing is started, and
//! nothing is changed.

mod bus;
#[cfg(feature = "kubernetes")]
mod cluster;
mod files;
mod instance;
mod polkit;
mod programs;
mod sockets;
pub mod calendar;
pub mod inventory;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::admin::system::{Hidden, Holder, Listening, Present, Reclaim, SocketUnit, System, Unit};
use crate::admin::unit_files::{CONTROL, Mark, Places, unit_of, written_unit};
use crate::admin::{self, Instance, schedule};
use crate::config::address::{Address, Bound, UnixAddress};
use crate::config::{Manager, Named, ServiceConfig, Template, UnitName, slice};
use crate::systemd::dbus::UnitStatus;

pub use crate::systemd::dbus::Bus;
pub use bus::has_polkit;
#[cfg(feature = "kubernetes")]
pub use cluster::cluster;
pub use instance::{Found, all, instance};
pub use polkit::{FREEZER_VERBS, RECLAIM_VERBS, VERBS, permissions, unknown};
pub use programs::Identity;
pub use sockets::listening;

/// Where programs are that systemd finds by their names (systemd.service(5), "Command lines").
const PATH: [&str; 2] = ["/usr/local/bin", "/usr/bin"];

/// Where the system bus is (the D-Bus specification, "Well-known Message Bus Instances").
const BUS: &str = "/var/run/dbus/system_bus_socket";

/// The units of a shutdown and of a repair (systemd.special(7)), which everything conflicts with, or
/// much.
const ENDS: [&str; 7] = [
    "emergency.service",
    "emergency.target",
    "initrd-switch-root.target",
    "rescue.service",
    "rescue.target",
    "shutdown.target",
    "umount.target",
];

/// Where an administrator's rules for polkit are.
const RULES: &str = "/etc/polkit-1/rules.d";

/// Where an administrator's policies for the system bus are.
const POLICIES: &str = "/etc/dbus-1/system.d";

/// All that `wakeport init` has to know of the machine, but for what its instances do
/// ([`System::elsewhere`] is left empty), and the bus that told it.
pub async fn system(instance: &Instance, places: &Places) -> (System, Result<Bus, String>) {
    let bus = Bus::connect(instance.manager).await;
    let units = match &bus {
        Ok(bus) => units(bus, &instance.units()).await,
        Err(reason) => Err(reason.clone()),
    };
    let planned = admin::unit_files::files(instance, places, &[String::new()]);
    let present = files::present(places, planned.into_iter().map(|(path, _)| path));
    let (mut service, mut sockets, mut timers) = (None, Vec::new(), Vec::new());
    if let Ok(bus) = &bus {
        for name in schedule::names(&instance.service()) {
            // What has no file is not asked for, or systemd would load what it belongs to.
            if present.iter().any(|file| unit_of(&file.path) == name) {
                let unit = bus.unit(&name).await.unwrap_or_default();
                timers.extend((unit.active == "active").then_some(unit.id));
            }
        }
        if let Ok(unit) = bus.unit(&instance.service()).await {
            service = Some(bus.with_slices(unit).await);
        }
        for name in instance.sockets() {
            // systemd complains of a socket without an address in the log, again and again.
            let exists = present.iter().any(|file| unit_of(&file.path) == name);
            sockets.push(match exists {
                true => bus.unit(&name).await.unwrap_or_default(),
                false => Unit::default(),
            });
        }
    }
    let listening = listening(instance.manager, bus.as_ref().ok()).await;
    let (identity, runs_as) = match instance.manager {
        Manager::System => (
            Identity::of_template(service.as_ref()),
            "wakeport".to_owned(),
        ),
        Manager::User => (Identity::own(), own_name()),
    };
    let mut left = units.as_deref().unwrap_or_default();
    let mut hidden = Vec::new();
    for config in &instance.config.services {
        let woken = left.split_off(..config.units().len()).unwrap_or_default();
        let own = instance.service();
        hidden.push(self::hidden(config, woken, &identity, &own, &listening));
    }
    let system = System {
        units,
        service,
        sockets,
        timers,
        listening,
        hidden,
        runs_as,
        elsewhere: Vec::new(),
        present,
        user: self::identity("wakeport").is_some(),
        polkit: has_polkit(bus.as_ref().ok()).await,
        rules_closed: rules_closed(instance.manager),
        linger: bus.is_ok().then(|| linger(instance.manager)).flatten(),
    };
    (system, bus)
}

/// What is left of instances in these places, and whether there is a systemd to reload.
pub async fn remains(manager: Manager, places: &Places) -> (Vec<Present>, Result<(), String>) {
    let bus = Bus::connect(manager).await;
    (files::present(places, std::iter::empty()), bus.map(|_| ()))
}

/// The files that `wakeport init` has written for the instance with this service and these
/// sockets, and the list of units for polkit.
pub fn files_of(service: &str, sockets: &[SocketUnit], manager: Manager) -> Vec<Present> {
    let stem = admin::instance_name(service);
    let (Ok(places), Ok(name)) = (places(manager), stem.parse()) else {
        return Vec::new();
    };
    let mark = Mark::new(&name, manager);
    let list = places.rules.join("50-wakeport.rules");
    let rule = places.rule(stem);
    let mut units: Vec<_> = sockets.iter().map(|socket| socket.name.as_str()).collect();
    units.push(service);
    let beside = schedule::names(service);
    let control = format!("{CONTROL}{stem}.socket");
    units.extend(beside.iter().chain([&control]).map(String::as_str));
    let of_instance = |file: &Present| {
        let path = &file.path;
        let ours = file.text.as_ref().map_or(true, |text| mark.is_on(text));
        let of_unit = written_unit(path).is_some_and(|unit| units.contains(&&*unit));
        manager == Manager::System && *path == list || ours && (*path == rule || of_unit)
    };
    let mut present = files::present(&places, [list.clone()].into_iter());
    present.retain(of_instance);
    present
}

/// Why polkit cannot read the directory of its rules, if so. A user's own manager does not ask it.
pub fn rules_closed(manager: Manager) -> Option<String> {
    let polkit = Identity::polkit().filter(|_| manager == Manager::System)?;
    polkit.can_list(Path::new(RULES)).err()
}

/// The control socket of an instance, its timers and their services, as far as they have files.
pub async fn beside(bus: &Bus, service: &str) -> Vec<Unit> {
    let control = format!("{CONTROL}{}.socket", admin::instance_name(service));
    let names = [control].into_iter().chain(schedule::names(service));
    let mut units = Vec::new();
    for name in names {
        let unit = bus.unit(&name).await.unwrap_or_default();
        if unit.load == "loaded" || unit.load == "masked" {
            units.push(unit);
        }
    }
    units
}

/// What the manager says about each of these units.
pub async fn units(bus: &Bus, names: &[UnitName]) -> Result<Vec<Unit>, String> {
    let mut units = Vec::new();
    for name in names {
        let unit = bus.unit(name.as_str()).await;
        let mut unit = unit.map_err(|error| error.to_string())?;
        (unit.conflicts, unit.rivals) = rivals(bus, &unit.conflicts).await;
        if unit.id.ends_with(".target") {
            unit.left_running = left_running(bus, &unit).await;
        }
        units.push(unit);
    }
    Ok(units)
}

/// The slices that hold these units, each once, and the manager's version.
pub async fn slices(bus: &Bus, units: &[Unit]) -> (Vec<Unit>, String) {
    let names: BTreeSet<_> = units.iter().map(|unit| unit.slice.as_str()).collect();
    let mut slices = Vec::new();
    for name in names.into_iter().filter(|name| !name.is_empty()) {
        slices.extend(bus.unit(name).await);
    }
    (slices, bus.systemd.version().await.unwrap_or_default())
}

/// What reclaims the memory of these slices, but for what polkit says about it.
pub async fn reclaim(bus: &Bus, slices: &[Unit]) -> Reclaim {
    let mut units = Vec::new();
    for unit in slices.iter().filter_map(|it| slice::reclaimer(&it.id)) {
        units.extend(bus.unit(&unit).await);
    }
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let controllers = read("/sys/fs/cgroup/cgroup.controllers");
    Reclaim {
        units,
        permissions: Vec::new(),
        controller: controllers.split_whitespace().any(|it| it == "memory"),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        // The first line is a heading.
        swap: read("/proc/swaps").lines().count() > 1,
    }
}

/// Whether there is a policy of the system bus for the slices of the instance with this service.
pub fn has_policy(service: &str) -> bool {
    let places = places(Manager::System);
    places.is_ok_and(|places| places.policy(admin::instance_name(service)).exists())
}

/// Which of these units run, and which others could.
async fn rivals(bus: &Bus, names: &[String]) -> (Vec<String>, Vec<String>) {
    let names: BTreeSet<_> = names.iter().map(String::as_str).collect();
    let names: Vec<_> = names.into_iter().filter(|it| !ENDS.contains(it)).collect();
    if names.is_empty() {
        return Default::default();
    }
    let units = bus.named(&names).await.unwrap_or_default().into_iter();
    let is_up = |unit: &UnitStatus| ["active", "activating"].contains(&unit.active.as_str());
    let (up, down): (Vec<_>, Vec<_>) = units.partition(is_up);
    let down = down.into_iter().filter(|unit| unit.load == "loaded");
    let names = |units: Vec<UnitStatus>| units.into_iter().map(|unit| unit.id).collect();
    (names(up), names(down.collect()))
}

/// The services that a target pulls in and that go on when it is stopped.
async fn left_running(bus: &Bus, target: &Unit) -> Vec<String> {
    let mut left = Vec::new();
    for name in &target.pulls_in {
        let stops = [&target.parts, &target.required_by];
        if !name.ends_with(".service") || stops.iter().any(|units| units.contains(name)) {
            continue;
        }
        let unit = bus.unit(name).await.unwrap_or_default();
        if unit.load == "loaded" && !unit.stop_when_unneeded {
            left.push(name.clone());
        }
    }
    left
}

/// Where the files of this manager's instances go.
pub fn places(manager: Manager) -> Result<Places, String> {
    let (units, configs) = match manager {
        Manager::System => ("/etc/systemd/system".into(), "/etc/wakeport".into()),
        Manager::User => {
            let home = config_home()?;
            (home.join("systemd/user"), home.join("wakeport"))
        }
    };
    let program = std::env::current_exe().ok();
    let known = PATH.map(|folder| Some(Path::new(folder)));
    let program = program.filter(|path| !known.contains(&path.parent()));
    Ok(Places {
        units,
        rules: RULES.into(),
        policies: POLICIES.into(),
        configs,
        program: program.map(|path| path.display().to_string()),
    })
}

fn config_home() -> Result<PathBuf, String> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let config = variable("XDG_CONFIG_HOME").map(PathBuf::from);
    let home = || variable("HOME").map(|home| Path::new(&home).join(".config"));
    let path = config.or_else(home);
    path.filter(|path| path.is_absolute())
        .ok_or_else(|| "neither XDG_CONFIG_HOME nor HOME is an absolute path; set HOME".to_owned())
}

/// The user and group IDs of `name`, from the file where systemd-sysusers puts ours.
pub fn identity(name: &str) -> Option<(u32, u32)> {
    let (_, uid, gid) = user(|known, _| known == name)?;
    Some((uid, gid))
}

/// A group of group(5).
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

fn groups() -> Vec<Group> {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let group = |line: &str| {
        let mut fields = line.split(':');
        Some(Group {
            name: fields.next()?.to_owned(),
            gid: fields.nth(1)?.parse().ok()?,
            members: fields.next()?.split(',').map(str::to_owned).collect(),
        })
    };
    groups.lines().filter_map(group).collect()
}

/// Which Unix targets and files of a service `identity` cannot reach, and whether the bus, and why. `units` are
/// those that it wakes, `ours` the service that relays.
pub fn hidden(
    service: &ServiceConfig,
    units: &[Unit],
    identity: &Identity,
    ours: &str,
    listening: &[Listening],
) -> Vec<Hidden> {
    // What is in a /tmp that both share cannot be seen from here.
    let mut private = units.iter().filter(|unit| unit.private_tmp);
    let shares_tmp = private.any(|unit| unit.joins.iter().any(|it| it == ours));
    let mut hidden: Vec<Hidden> = Vec::new();
    for Named { value, .. } in &service.routes {
        let Address::Unix(UnixAddress::Path(path)) = value else {
            continue;
        };
        if shares_tmp && ["/tmp", "/var/tmp"].iter().any(|tmp| path.starts_with(tmp)) {
            continue;
        }
        let at = Bound::Unix(UnixAddress::Path(path.clone()));
        let found = listening.iter().find(|listening| listening.at == at);
        // systemd would start the service of a socket unit.
        let listens = found.is_some_and(
            |found| !matches!(&found.holder, Holder::Unit(unit) if unit.ends_with(".socket")),
        );
        let mut makers = units.iter();
        let unit = makers.find(|unit| unit.runtime_directory(path).is_some());
        let target = format!("target `{value}`");
        if hidden.iter().all(|(known, _)| *known != target) {
            let outcome = identity.can_connect(path, unit, ours, listens);
            hidden.extend(outcome.err().map(|why| (target, why)));
        }
    }
    let page = service
        .admission
        .http
        .as_ref()
        .and_then(|it| it.page.as_ref());
    if let Some(Template { path, .. }) = page.and_then(|page| page.template.as_ref()) {
        let page = format!("the waiting page `{}`", path.display());
        hidden.extend(identity.can_read(path).err().map(|why| (page, why)));
    }
    if !service.units().is_empty() && service.manager() == Manager::System {
        let outcome = identity.outside(Path::new(BUS), "BindPaths=/var/run/dbus");
        hidden.extend(outcome.err().map(|why| (format!("the bus `{BUS}`"), why)));
    }
    hidden
}

/// Our own user and group IDs.
pub fn own_ids() -> (u32, u32) {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    (uid.as_raw(), gid.as_raw())
}

/// The name of our own user.
pub fn own_name() -> String {
    let (own, _) = own_ids();
    user(|_, uid| uid == own).map_or_else(|| own.to_string(), |(name, ..)| name)
}

/// The first user in passwd(5) that `is` the one, by name and ID: with both, and the group's ID.
fn user(is: impl Fn(&str, u32) -> bool) -> Option<(String, u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let mut ids = fields.skip(1).map(str::parse);
        let (uid, gid) = (ids.next()?.ok()?, ids.next()?.ok()?);
        is(name, uid).then(|| (name.to_owned(), uid, gid))
    })
}

/// Whether a socket unit is one for requests, and no port.
fn is_control(unit: &str) -> bool {
    unit.starts_with(CONTROL)
}

/// Our own hard limit on open files.
pub fn open_files() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.maximum.unwrap_or(u64::MAX)
}

/// Where the user's manager is, if XDG_RUNTIME_DIR does not say so, as under su(1) and cron(8): the
/// client of D-Bus finds it there, and systemctl(1) does not.
pub fn runtime_directory() -> Option<PathBuf> {
    let path = PathBuf::from(format!("/run/user/{}", own_ids().0));
    let is_set = std::env::var_os("XDG_RUNTIME_DIR").is_some_and(|value| !value.is_empty());
    (!is_set && path.is_dir()).then_some(path)
}

/// Whether the user's manager runs without a login, as loginctl(1) notes it down.
pub fn linger(manager: Manager) -> Option<bool> {
    let noted = Path::new("/var/lib/systemd/linger").join(own_name());
    // The system's manager always runs, and elsewhere there may be no logind at all.
    let matters = manager == Manager::User && Path::new("/run/systemd/users").is_dir();
    matters.then(|| noted.exists())
}
