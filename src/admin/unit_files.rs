//! The files of an instance, what changes when they are written or removed, and the commands that
//! make systemd follow.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::system::{Present, System};
use super::unit_text::{self, Sections};
use super::{Added, Instance, schedule, stem};
use crate::config::address::Bound;
use crate::config::{Manager, Named, ServiceConfig, UnitName, slice};

/// The name of our drop-ins. Those that an administrator adds sort behind it, and so win.
pub const DROP_IN: &str = "10-init.conf";

/// The name of our drop-ins for the units that are woken.
pub const WOKEN_DROP_IN: &str = "10-wakeport.conf";

/// How the units of the control socket are called.
pub const CONTROL: &str = "wakeport-control@";

/// How those are called that hold and stop an instance at certain times.
pub const SCHEDULES: [&str; 2] = ["wakeport-awake@", "wakeport-asleep@"];

const SYSTEM_CONTROL: &str = include_str!("../../systemd/wakeport-control@.socket");
const USER_CONTROL: &str = include_str!("../../systemd/user/wakeport-control@.socket");
const SYSTEM_SOCKET: &str = include_str!("../../systemd/wakeport@.socket");
const SYSTEM_SERVICE: &str = include_str!("../../systemd/wakeport@.service");
const USER_SOCKET: &str = include_str!("../../systemd/user/wakeport@.socket");
const USER_SERVICE: &str = include_str!("../../systemd/user/wakeport@.service");
/// The user that the service runs as.
const SYSTEM_USER: &str = include_str!("../../systemd/sysusers.d/wakeport.conf");

/// Where files go.
#[derive(Clone, Debug)]
pub struct Places {
    /// Unit files and drop-ins.
    pub units: PathBuf,
    /// polkit's rules.
    pub rules: PathBuf,
    /// Policies of the system bus.
    pub policies: PathBuf,
    /// The files of instances with several services.
    pub configs: PathBuf,
    /// The program's path, where systemd does not find it by its name.
    pub program: Option<String>,
}

/// What happens to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which file.
    pub path: PathBuf,
    /// What it holds now, if it is there.
    pub old: Option<String>,
    /// What it will hold; `None` removes it.
    pub new: Option<String>,
    /// `wakeport init` has not written it, or it cannot be read: not ours to change.
    pub foreign: bool,
    /// What is wrong with its mode or its owner, if anything; writing it anew repairs that.
    pub access: Option<String>,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Commands for what will not be there any more.
    pub before: Vec<Step>,
    /// Files.
    pub changes: Vec<Change>,
    /// Commands for what is new.
    pub after: Vec<Step>,
}

/// A command.
pub type Step = Vec<String>;

/// The first words of every file that `wakeport init` writes.
const WRITTEN_BY: &str = "Written by `wakeport init ";

/// What the mark is between in XML: a comment there may not contain `--`.
const XML_MARK: (&str, &str) = ("<?wakeport ", "?>");

/// The first line of the files of one instance: by it they are known.
#[derive(Clone, Debug)]
pub struct Mark(String);

impl Places {
    /// The file of an instance with several services.
    pub fn config(&self, instance: &str) -> PathBuf {
        self.configs.join(format!("{instance}.toml"))
    }

    /// The rule for the units of an instance.
    pub fn rule(&self, instance: &str) -> PathBuf {
        self.rules.join(format!("50-wakeport-{instance}.rules"))
    }
}

impl Places {
    /// The policy of the system bus for the slices of an instance.
    pub fn policy(&self, instance: &str) -> PathBuf {
        self.policies.join(format!("wakeport-{instance}.conf"))
    }
}

impl Mark {
    /// The mark of the instance with this name.
    pub fn new(name: &UnitName, manager: Manager) -> Self {
        let name = stem(name);
        let user = match manager {
            Manager::System => "",
            Manager::User => " --user",
        };
        Self(format!(
            "{WRITTEN_BY}{name}{user}`; remove with `wakeport init {name}{user} --remove`."
        ))
    }

    /// Whether `wakeport init` has written this for the instance.
    pub fn is_on(&self, text: &str) -> bool {
        let first = text.lines().next().unwrap_or_default();
        let in_xml = first
            .strip_prefix(XML_MARK.0)
            .and_then(|rest| rest.strip_suffix(XML_MARK.1));
        in_xml.unwrap_or_else(|| first.trim_start_matches(['#', '/', ' '])) == self.0
    }
}

fn name_of(path: &Path) -> Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// The unit that a drop-in is for; nothing for other files.
pub fn drop_in_of(path: &Path) -> Option<String> {
    let folder = name_of(path.parent()?);
    let unit = folder.strip_suffix(".d")?;
    // The rules of polkit are in a folder that ends like this as well.
    unit.contains('.').then(|| unit.to_owned())
}

/// The unit that a file makes, alone or as a drop-in.
pub fn unit_of(path: &Path) -> String {
    drop_in_of(path).unwrap_or_else(|| name_of(path).into_owned())
}

/// The unit that a file which `wakeport init` writes makes; nothing for others beside its drop-ins.
pub fn written_unit(path: &Path) -> Option<String> {
    (path.ends_with(DROP_IN) || drop_in_of(path).is_none()).then(|| unit_of(path))
}

/// Whether a file is one of polkit's rules.
pub fn is_rule(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "rules")
}

/// Whether a file is one of services, which an administrator edits.
pub fn is_config(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "toml")
}

/// Whether a file is a policy of the system bus.
pub fn is_policy(path: &Path) -> bool {
    let name = name_of(path);
    name.starts_with("wakeport-") && name.ends_with(".conf") && drop_in_of(path).is_none()
}

/// Whether a path may hold a file of ours, by its name: a drop-in, a unit, a rule or a policy.
pub fn may_be_ours(path: &Path) -> bool {
    let name = name_of(path);
    is_policy(path)
        || slice::is_ours(&name, Manager::System)
        || slice::is_ours(&name, Manager::User)
        || (name == DROP_IN && unit_of(path).starts_with("wakeport@"))
        || name == WOKEN_DROP_IN
        || name.starts_with("wakeport@")
        || name.starts_with(CONTROL)
        || SCHEDULES.iter().any(|schedule| name.starts_with(schedule))
        || name.starts_with("50-wakeport-")
}

/// The variables of each instance in these files, by its name: those of its template, and what its
/// units set, in the order of their files.
pub fn variables(present: &[Present], manager: Manager) -> BTreeMap<String, Vec<(String, String)>> {
    let mut instances = BTreeMap::new();
    for Present { path, text, .. } in present {
        let unit = unit_of(path);
        let (Ok(text), Some(unit)) = (text, unit.strip_prefix("wakeport@")) else {
            continue;
        };
        // A socket with another name than its service's names that.
        let mut lines = text.lines().map(str::trim_start);
        let ends = match lines.any(|line| line.starts_with("Service=")) {
            true => &[".service"][..],
            false => &[".service", ".socket"],
        };
        let stem = ends.iter().find_map(|end| unit.strip_suffix(end));
        let Some(stem) = stem.filter(|stem| !stem.is_empty()) else {
            continue;
        };
        let template = match manager {
            Manager::System => SYSTEM_SERVICE,
            Manager::User => USER_SERVICE,
        };
        let template = || unit_text::environment(template, stem);
        let variables: &mut Vec<_> = instances.entry(stem.to_owned()).or_insert_with(template);
        variables.extend(unit_text::environment(text, stem));
    }
    instances
}

/// Where an instance listens, by the files of its sockets; the one of its own name first.
pub fn listeners(present: &[Present], stem: &str) -> Vec<Named<Bound>> {
    let (own, service) = (
        format!("wakeport@{stem}.socket"),
        format!("Service=wakeport@{stem}.service"),
    );
    let mut sockets: BTreeMap<(bool, String), (Option<String>, Vec<Bound>)> = BTreeMap::new();
    for Present { path, text, .. } in present {
        let (unit, Ok(text)) = (unit_of(path), text) else {
            continue;
        };
        let mut lines = text.lines().map(str::trim);
        if !unit.ends_with(".socket") || (unit != own && !lines.any(|line| line == service)) {
            continue;
        }
        let (name, addresses) = sockets.entry((unit != own, unit)).or_default();
        for (key, value) in text.lines().filter_map(|line| line.trim().split_once('=')) {
            match (key, value) {
                ("FileDescriptorName", "%i") => *name = None,
                ("FileDescriptorName", value) => *name = Some(value.replace("%%", "%")),
                ("ListenStream", "") => addresses.clear(),
                ("ListenStream", value) => addresses.extend(value.replace("%%", "%").parse().ok()),
                _ => (),
            }
        }
    }
    let of_socket = |(name, addresses): (Option<String>, Vec<Bound>)| {
        let named = move |value| Named {
            name: name.clone(),
            value,
        };
        addresses.into_iter().map(named)
    };
    sockets.into_values().flat_map(of_socket).collect()
}

/// The files that make the instance, with what they hold.
pub fn files(instance: &Instance, places: &Places, ids: &[String]) -> Vec<(PathBuf, String)> {
    let first = format!("# {}\n", instance.mark().0);
    let unit = |name: &str, sections: &Sections| {
        let path = if instance.standalone {
            places.units.join(name)
        } else {
            places.units.join(format!("{name}.d")).join(DROP_IN)
        };
        (path, sections.write(&first))
    };
    let mut files = Vec::new();
    let service = instance.service();
    let listen = &instance.config.process.listen;
    let leaves_ipv4 = |address: &Bound| address.leaves_ipv4(listen.iter().map(|it| &it.value));
    for (index, group) in instance.groups().iter().enumerate() {
        let mut sections = instance.begin(SYSTEM_SOCKET, USER_SOCKET);
        // It opens and closes with the port.
        if index == 0 {
            sections.add("Unit", "Wants", &format!("{CONTROL}%i.socket"));
        }
        // That is for all sockets of a unit; the other ones say both families then.
        let ipv6_only = group.addresses.iter().any(|address| leaves_ipv4(address));
        for address in &group.addresses {
            let apart = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
            let apart = apart.map(|ip: IpAddr| (ip, address.port().unwrap_or_default()).into());
            let apart = apart.map(|tcp: SocketAddr| tcp.to_string());
            let texts = match address.is_dual_wildcard() && ipv6_only {
                true if leaves_ipv4(address) => apart[1..].to_vec(),
                true => apart.to_vec(),
                false => vec![unit_text::address(address)],
            };
            for text in texts {
                sections.add("Socket", "ListenStream", &text);
            }
        }
        if ipv6_only {
            sections.add("Socket", "BindIPv6Only", "ipv6-only");
        }
        if group.addresses.iter().any(|address| comes_late(address)) {
            sections.add("Socket", "FreeBind", "yes");
        }
        if let Some(name) = group.name {
            sections.set("Socket", "FileDescriptorName", &name.replace('%', "%%"));
        }
        if index > 0 {
            sections.add("Socket", "Service", &service);
        }
        files.push(unit(&group.unit, &sections));
    }
    if instance.standalone {
        let name = format!("{CONTROL}{}.socket", instance.stem());
        let sections = instance.begin(SYSTEM_CONTROL, USER_CONTROL);
        files.push((places.units.join(name), sections.write(&first)));
    }
    for (name, sections) in schedule::units(instance, places) {
        files.push((places.units.join(name), sections.write(&first)));
    }
    let sections = relay(instance, places);
    // One with a file may need no variable.
    if !sections.is_empty() {
        files.push(unit(&service, &sections));
    }
    let services = instance.config.services.iter();
    let woken = services.flat_map(|service| service.units().iter().map(move |_| service));
    for (id, config) in ids.iter().zip(woken) {
        let mut sections = Sections::default();
        if let Some(slice) = instance.slice(config).filter(|_| id.ends_with(".service")) {
            // Or a shutdown would not wait for the thaw.
            sections.add("Unit", "Before", &service);
            sections.add("Service", "Slice", &slice.replace('%', "%%"));
        }
        for setting in config
            .busy
            .accounting()
            .filter(|_| id.ends_with(".service"))
        {
            sections.add("Service", setting, "yes");
        }
        if !sections.is_empty() {
            let folder = places.units.join(format!("{id}.d"));
            files.push((folder.join(WOKEN_DROP_IN), sections.write(&first)));
        }
    }
    let slices = instance.slices();
    for slice in &slices {
        let mut sections = Sections::default();
        let of = format!("What {} freezes", instance.service());
        sections.add("Unit", "Description", &of);
        // With a stop job of its own it could not be thawed at shutdown.
        sections.add("Unit", "DefaultDependencies", "no");
        if slice::reclaimer(slice).is_some_and(|it| instance.reclaimers().contains(&it)) {
            sections.add("Slice", "MemoryAccounting", "yes");
        }
        files.push((places.units.join(slice), sections.write(&first)));
    }
    if instance.manager == Manager::System && !ids.is_empty() {
        let rule = places.rule(instance.stem());
        files.push((rule, polkit(instance, ids)));
    }
    if instance.manager == Manager::System && !slices.is_empty() {
        let policy = places.policy(instance.stem());
        files.push((policy, bus_policy(instance)));
    }
    files
}

/// Whether the machine may not have the address yet when ports open at boot: it comes with the
/// network.
fn comes_late(address: &Bound) -> bool {
    match address {
        Bound::Tcp(tcp) => !tcp.ip().is_unspecified() && !tcp.ip().is_loopback(),
        Bound::Zoned(..) => true,
        Bound::Unix(_) => false,
    }
}

/// The service that relays.
fn relay(instance: &Instance, places: &Places) -> Sections {
    let mut sections = instance.begin(SYSTEM_SERVICE, USER_SERVICE);
    let sockets = instance.sockets();
    if let Some(others) = sockets.get(1..).filter(|others| !others.is_empty()) {
        // There systemd takes a backslash of the name for an escape; a specifier's it leaves alone.
        let safe = |names: &[String]| match instance.stem().contains('\\') {
            true => names.join(" ").replace(instance.stem(), "%i"),
            false => names.join(" "),
        };
        sections.add("Unit", "Requires", &safe(others));
        sections.add("Service", "Sockets", &safe(&sockets));
    }
    if let Some(units) = started_along(instance) {
        sections.add("Unit", "Wants", &units);
    }
    if let Some(path) = places.program.as_ref().filter(|_| instance.standalone) {
        let command = format!("{} run", unit_text::program(path));
        sections.set("Service", "ExecStart", &command);
    }
    let wakes_its_name = instance.config.has_file() || instance.units() == [instance.name.clone()];
    let mut names = instance.settings.iter().map(|(name, _)| name);
    let named = names.any(|name| name == "WAKEPORT_UNIT");
    if !wakes_its_name && !named {
        sections.add("Service", "Environment", "WAKEPORT_UNIT=");
    }
    for (name, value) in &instance.settings {
        let assignment = unit_text::assignment(name, value);
        sections.add("Service", "Environment", &assignment);
    }
    sections
}

/// The units that systemd may start in one transaction with the service that relays, so that its
/// sandbox is set up while they start: those of a service for which each client is welcome. An
/// `After=` would make the relay wait for them.
fn started_along(instance: &Instance) -> Option<String> {
    let [service] = &instance.config.services[..] else {
        return None;
    };
    // The settings of a file change without `init`.
    let alone = service.name.is_none() && service.filters().is_empty();
    // What is frozen is ordered before the relay, which would wait for it.
    let alone = alone && instance.slice(service).is_none();
    let names: Vec<_> = service.units().iter().map(UnitName::as_str).collect();
    (alone && !names.is_empty()).then(|| names.join(" "))
}

/// The policy that lets the user `wakeport` ask systemd to freeze and to thaw; polkit says what. From systemd
/// 262 on everyone may ask.
fn bus_policy(instance: &Instance) -> String {
    let (begin, end) = XML_MARK;
    format!(
        r#"{begin}{}{end}
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <policy user="wakeport">
    <allow send_destination="org.freedesktop.systemd1" send_interface="org.freedesktop.systemd1.Manager" send_member="FreezeUnit"/>
    <allow send_destination="org.freedesktop.systemd1" send_interface="org.freedesktop.systemd1.Manager" send_member="ThawUnit"/>
  </policy>
</busconfig>
"#,
        instance.mark().0,
    )
}

/// The rule that authorizes the user `wakeport` to start and stop the units: one file for each
/// instance, so that a common one need not be edited.
fn polkit(instance: &Instance, ids: &[String]) -> String {
    let units: Vec<_> = ids.iter().map(|id| unit_text::script(id)).collect();
    let slices = instance.slices();
    let slices: Vec<_> = slices
        .iter()
        .map(|slice| unit_text::script(slice))
        .collect();
    let freezes = match slices.is_empty() {
        true => String::new(),
        false => format!(
            r#"polkit.addRule(function(action, subject) {{
    var slices = [{}];
    // To freeze has the verb "stop", to thaw has "start".
    var verbs = ["start", "stop"];
    if (action.id == "org.freedesktop.systemd1.manage-units" && subject.user == "wakeport" &&
        / to freeze or thaw /.test(action.lookup("polkit.message")) &&
        slices.indexOf(action.lookup("unit")) >= 0 && verbs.indexOf(action.lookup("verb")) >= 0) {{
        return polkit.Result.YES;
    }}
}});
"#,
            slices.join(", ")
        ),
    };
    let reclaimers = instance.reclaimers();
    let reclaimers: Vec<_> = reclaimers.iter().map(|it| unit_text::script(it)).collect();
    let reclaims = match reclaimers.is_empty() {
        true => String::new(),
        false => format!(
            r#"polkit.addRule(function(action, subject) {{
    // They reclaim the memory of what is frozen.
    var units = [{}];
    if (action.id == "org.freedesktop.systemd1.manage-units" && subject.user == "wakeport" &&
        / to start '\$\(unit\)'/.test(action.lookup("polkit.message")) &&
        units.indexOf(action.lookup("unit")) >= 0 && action.lookup("verb") == "start") {{
        return polkit.Result.YES;
    }}
}});
"#,
            reclaimers.join(", ")
        ),
    };
    format!(
        r#"// {}
polkit.addRule(function(action, subject) {{
    var units = [{}];
    var verbs = ["start", "stop", "reset-failed"];
    // From systemd 257 on, other requests have the same verbs: to freeze a unit, to mount on it. To thaw it has "start".
    var asked = action.lookup("verb") + ": " + action.lookup("polkit.message");
    var known = /to (start|stop|reset the "failed" state of) '\$\(unit\)'|^start: .* to freeze or thaw /.test(asked);
    if (action.id == "org.freedesktop.systemd1.manage-units" && subject.user == "wakeport" && known &&
        units.indexOf(action.lookup("unit")) >= 0 && verbs.indexOf(action.lookup("verb")) >= 0) {{
        return polkit.Result.YES;
    }}
}});
{freezes}{reclaims}"#,
        instance.mark().0,
        units.join(", "),
    )
}

impl Instance {
    /// What its files are known by.
    pub fn mark(&self) -> Mark {
        Mark::new(&self.name, self.manager)
    }

    /// The slice in which the units of one of its services are frozen, if they are.
    pub fn slice(&self, service: &ServiceConfig) -> Option<String> {
        let freezes = service.timing.freeze_after < Duration::MAX && !service.units().is_empty();
        freezes.then(|| slice::of(self.stem(), service.name.as_deref(), service.manager()))
    }

    /// The units that reclaim the memory of what is frozen.
    fn reclaimers(&self) -> Vec<String> {
        let services = self.config.services.iter();
        let slices = services
            .filter(|service| service.freeze_reclaim)
            .filter_map(|service| self.slice(service));
        slices
            .filter_map(|slice| slice::reclaimer(&slice))
            .collect()
    }

    /// Those of all services.
    fn slices(&self) -> Vec<String> {
        let services = self.config.services.iter();
        services.filter_map(|service| self.slice(service)).collect()
    }

    /// What a unit of ours begins with: nothing, or all that the shipped one says.
    fn begin(&self, system: &str, user: &str) -> Sections {
        match (self.standalone, self.manager) {
            (false, _) => Sections::default(),
            (true, Manager::System) => Sections::read(system),
            (true, Manager::User) => Sections::read(user),
        }
    }
}

/// What writing `files` changes, and what an earlier `init` has left that is not used any more.
fn changes(mark: &Mark, files: Vec<(PathBuf, String)>, present: &[Present]) -> Vec<Change> {
    let mut changes = Vec::new();
    for (path, new) in files {
        let old = present.iter().find(|file| file.path == path);
        let foreign = old.is_some_and(|old| !matches!(&old.text, Ok(text) if mark.is_on(text)));
        let access = old.and_then(|old| old.access.clone());
        changes.push(Change {
            path,
            old: old.map(|old| old.text.clone().unwrap_or_default()),
            new: Some(new),
            foreign,
            access,
        });
    }
    for file in present {
        let path = file.path.clone();
        let planned = changes.iter().any(|change| change.path == path);
        let ours = file.text.as_ref().ok().filter(|text| mark.is_on(text));
        if let (Some(text), false) = (ours, planned) {
            changes.push(Change {
                path,
                old: Some(text.clone()),
                new: None,
                foreign: false,
                access: None,
            });
        }
    }
    changes
}

/// The socket unit that a file of ours makes.
fn socket_of(path: &Path) -> Option<String> {
    written_unit(path).filter(|unit| unit.ends_with(".socket"))
}

/// The timer that it makes.
fn timer_of(path: &Path) -> Option<String> {
    written_unit(path).filter(|unit| unit.ends_with(".timer"))
}

/// All that has to be done to have the instance; with `enable`, to have it work at once.
pub fn set_up(instance: &Instance, places: &Places, system: &System, enable: bool) -> Plan {
    let ids = ids(instance, system);
    let files = files(instance, places, &ids);
    let mut changes = changes(&instance.mark(), files, &system.present);
    if let Some(Added { file, only }) = &instance.added {
        let is_of_units = |path: &Path| {
            let own =
                path.ends_with(WOKEN_DROP_IN) || path.extension().is_some_and(|it| it == "slice");
            !(own || is_rule(path) || is_policy(path))
        };
        changes.retain(|change| !(*only && is_of_units(&change.path)));
        changes.insert(0, file.clone());
    }
    let before = match &system.units {
        Ok(_) => disable(instance.manager, &changes),
        Err(_) => Vec::new(),
    };
    let mut after = Vec::new();
    if enable {
        after = enabling(instance, &changes, system);
    } else if !before.is_empty() {
        after.push(command(instance.manager, &["daemon-reload"], &[]));
    }
    if (enable || !before.is_empty()) && system.units.is_ok() {
        after.extend(follow_policies(instance.manager, &changes));
    }
    Plan {
        before,
        changes,
        after,
    }
}

/// All that has to be done to have nothing of an instance any more. Without a systemd there is
/// nothing but files.
pub fn remove(name: &UnitName, manager: Manager, present: &[Present], systemd: bool) -> Plan {
    let changes = changes(&Mark::new(name, manager), Vec::new(), present);
    let (mut before, mut after) = (Vec::new(), Vec::new());
    if systemd && !changes.is_empty() {
        before = disable(manager, &changes);
        after.push(command(manager, &["daemon-reload"], &[]));
        after.extend(follow_policies(manager, &changes));
    }
    Plan {
        before,
        changes,
        after,
    }
}

/// The units' own names: polkit is asked about these.
pub fn ids(instance: &Instance, system: &System) -> Vec<String> {
    let units = system.units.as_deref().unwrap_or_default();
    let ids = units.iter().map(|unit| unit.id.as_str());
    let ids = ids.chain(std::iter::repeat(""));
    let names = instance.units().into_iter().zip(ids);
    let id = |(name, id): (UnitName, &str)| match id {
        "" => name.to_string(),
        id => id.to_owned(),
    };
    names.map(id).collect()
}

/// What closes the sockets and stops the timers whose files go.
fn disable(manager: Manager, changes: &[Change]) -> Vec<Step> {
    let gone = changes.iter().filter(|change| change.new.is_none());
    let unit = |change: &Change| socket_of(&change.path).or_else(|| timer_of(&change.path));
    let gone: Vec<_> = gone.filter_map(unit).collect();
    if gone.is_empty() {
        return Vec::new();
    }
    vec![command(manager, &["disable", "--now"], &gone)]
}

/// What makes the bus read its policies, if one changes.
fn follow_policies(manager: Manager, changes: &[Change]) -> Option<Step> {
    let mut due = changes.iter().filter(|change| change.is_due());
    let changed = due.any(|change| is_policy(&change.path));
    changed.then(|| command(manager, &["reload"], &["dbus.service".to_owned()]))
}

/// What makes systemd read the files and open the port. Nothing, if that is done already.
fn enabling(instance: &Instance, changes: &[Change], system: &System) -> Vec<Step> {
    let mut steps = Vec::new();
    if instance.standalone && instance.manager == Manager::System && !system.user {
        steps.push(new_user());
    }
    let is_unit = |path: &Path| !is_rule(path) && !is_config(path) && !is_policy(path);
    let mut units = changes.iter().filter(|change| is_unit(&change.path));
    if units.any(Change::is_due) || system.sockets.iter().any(|socket| socket.needs_reload) {
        steps.push(command(instance.manager, &["daemon-reload"], &[]));
    }
    let sockets = instance.sockets();
    let changed = |socket: &String| {
        let mut files = changes.iter().filter(|change| change.is_one());
        files.any(|change| socket_of(&change.path).as_ref() == Some(socket))
    };
    let state = |name: &String| {
        let index = sockets.iter().position(|socket| socket == name);
        index.and_then(|index| system.sockets.get(index))
    };
    let active = |name: &&String| state(name).is_some_and(|unit| unit.active == "active");
    let enabled = |name: &&String| state(name).is_some_and(|unit| unit.file_state == "enabled");
    // Those that `init` has not written are left to the administrator.
    let only = instance.added.as_ref().is_some_and(|added| added.only);
    let is_there = |name: &&String| state(name).is_none_or(|unit| !unit.load.is_empty());
    let ours = sockets.iter().filter(|it| !only || is_there(it));
    let closed = ours.filter(|it| !active(it) || !enabled(it));
    let closed: Vec<_> = closed.cloned().collect();
    if !closed.is_empty() {
        steps.push(command(instance.manager, &["enable", "--now"], &closed));
    }
    // An open socket keeps its old address until it is restarted.
    let moved = sockets.iter().filter(|it| active(it) && changed(it));
    let moved: Vec<_> = moved.cloned().collect();
    if !moved.is_empty() {
        steps.push(command(instance.manager, &["restart"], &moved));
    }
    let timers = changes.iter().filter(|change| change.new.is_some());
    let timers = timers.filter_map(|change| timer_of(&change.path));
    // What it starts is restarted with it.
    let is_changed = |timer: &str| {
        let unit = timer.strip_suffix(".timer").unwrap_or(timer);
        let of_timer = |path: &Path| {
            unit_of(path)
                .rsplit_once('.')
                .is_some_and(|it| it.0 == unit)
        };
        let mut files = changes.iter().filter(|change| of_timer(&change.path));
        files.any(Change::is_one)
    };
    let timers = timers.map(|timer| (timer.clone(), is_changed(&timer)));
    let runs = |(timer, _): &(String, bool)| system.timers.contains(timer);
    let (running, stopped): (Vec<_>, Vec<_>) = timers.partition(runs);
    let stopped: Vec<_> = stopped.into_iter().map(|(timer, _)| timer).collect();
    if !stopped.is_empty() {
        steps.push(command(instance.manager, &["enable", "--now"], &stopped));
    }
    let changed = running.into_iter().filter(|(_, is_new)| *is_new);
    let changed: Vec<_> = changed.map(|(timer, _)| timer).collect();
    if !changed.is_empty() {
        steps.push(command(instance.manager, &["restart"], &changed));
    }
    let relay = system.service.as_ref();
    let runs = relay.is_some_and(|unit| ["active", "reloading"].contains(&unit.active.as_str()));
    let added = instance
        .added
        .as_ref()
        .is_some_and(|added| added.file.is_one());
    // A restarted socket has its service read the file anew, and one that exits meanwhile needs no reload.
    if added && runs && moved.is_empty() {
        let unit = [instance.service()];
        steps.push(command(instance.manager, &["try-reload-or-restart"], &unit));
    }
    steps
}

fn command(manager: Manager, words: &[&str], units: &[String]) -> Step {
    let words = manager.systemctl().split(' ').chain(words.iter().copied());
    let words = words.chain(units.iter().map(String::as_str));
    words.map(str::to_owned).collect()
}

fn new_user() -> Step {
    let line = SYSTEM_USER.lines().find(|line| line.starts_with("u "));
    ["systemd-sysusers", "--inline", line.unwrap_or_default()]
        .map(str::to_owned)
        .to_vec()
}

impl Change {
    /// Whether it changes the content.
    pub fn is_one(&self) -> bool {
        self.old != self.new
    }

    /// Whether it would overwrite a file that is not ours.
    pub fn is_in_the_way(&self) -> bool {
        self.foreign && self.is_one()
    }

    /// Whether there is anything to do: the content changes, or the mode or the owner.
    pub fn is_due(&self) -> bool {
        self.is_one() || self.access.is_some()
    }
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.before.is_empty() && self.after.is_empty() && !self.changes.iter().any(Change::is_due)
    }

    /// What will be done: the commands, and the lines of the files that come and go.
    pub fn listing(&self) -> String {
        let mut listing = String::new();
        for step in &self.before {
            let _ = writeln!(listing, "run     {}", in_words(step));
        }
        for change in self.changes.iter().filter(|change| change.is_due()) {
            if let (Some(defect), false) = (&change.access, change.is_one()) {
                let _ = writeln!(listing, "repair  {}: {defect}", change.path.display());
                continue;
            }
            let verb = match (&change.old, &change.new) {
                (None, _) => "create",
                (Some(_), Some(_)) => "change",
                (Some(_), None) => "remove",
            };
            let _ = writeln!(listing, "{verb}  {}", change.path.display());
            if change.new.is_some() {
                difference(&mut listing, change);
            }
        }
        for step in &self.after {
            let _ = writeln!(listing, "run     {}", in_words(step));
        }
        listing
    }
}

fn lines(text: Option<&str>) -> Vec<&str> {
    let lines = text.unwrap_or_default().lines();
    lines.filter(|line| !line.is_empty()).collect()
}

/// The lines that go and those that come. The files are short: what moves counts as both.
fn difference(listing: &mut String, change: &Change) {
    let [old, new] = [&change.old, &change.new].map(|text| lines(text.as_deref()));
    for line in old.iter().filter(|line| !new.contains(line)) {
        let _ = writeln!(listing, "      - {line}");
    }
    for line in new.iter().filter(|line| !old.contains(line)) {
        let _ = writeln!(listing, "      + {line}");
    }
}

/// A command as one would type it.
pub fn in_words(step: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./@:=".contains(c);
    let words = step.iter().map(|word| match word.chars().all(plain) {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    });
    words.collect::<Vec<_>>().join(" ")
}
