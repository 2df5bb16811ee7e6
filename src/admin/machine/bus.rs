//! What a service manager says about units, over D-Bus.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;
use zbus::OwnedObjectPath;

use crate::admin::sandbox::{Filter, Sandbox};
use crate::admin::system::Unit;
use crate::admin::unit_files::unit_of;
use crate::config::Manager;
use crate::config::access::Networks;
use crate::config::address::Bound;
use crate::systemd::dbus::{self, Bus, Properties, UnitStatus};

/// How long a reply may take: it is waited for at a terminal.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a unit that is being restarted is asked for its exit code, and the time between.
const ATTEMPTS: usize = 20;
const ATTEMPT: Duration = Duration::from_millis(50);

impl Bus {
    /// Connects, or says why that cannot be.
    pub async fn connect(manager: Manager) -> Result<Self, String> {
        // As sd_booted(3): without it there may be a bus, but no service manager.
        if !Path::new("/run/systemd/system").is_dir() {
            return Err("it does not run here".to_owned());
        }
        match tokio::time::timeout(REPLY_TIMEOUT, Self::open(manager, REPLY_TIMEOUT)).await {
            Ok(bus) => bus.map_err(|error| format!("no bus: {error}")),
            Err(_) => Err("its bus does not answer".to_owned()),
        }
    }

    /// What the manager says about the unit with this name. It may read the unit's files for it.
    pub async fn unit(&self, name: &str) -> zbus::Result<Unit> {
        Ok(self.all_properties(name).await?.unit())
    }

    /// The unit with what filters its packets: the slices above it do as well. A user's manager may not
    /// filter, and some builds of systemd filter by address only.
    pub(super) async fn with_slices(&self, mut unit: Unit) -> Unit {
        let sandbox = &mut unit.sandbox;
        if self.manager == Manager::User {
            sandbox.filters = Vec::new();
            sandbox.interfaces = (false, Vec::new());
            return unit;
        }
        let manager = OwnedObjectPath::try_from("/org/freedesktop/systemd1");
        let features = match manager {
            Ok(manager) => self.property(&manager, "Manager", "Features").await,
            Err(error) => Err(error),
        };
        if !features.is_ok_and(|features: String| features.contains("+BPF_FRAMEWORK")) {
            sandbox.interfaces = (false, Vec::new());
        }
        let mut slice = unit.slice.clone();
        while !slice.is_empty()
            && let Ok(path) = self.systemd.load_unit(&slice).await
            && let Ok(mut above) = self.properties(&path, "Slice").await
        {
            sandbox.filters.push(above.filter(&slice));
            slice = above.take("Slice").unwrap_or_default();
        }
        unit
    }

    /// All properties of the unit with this name. While systemd starts it once more after a failure they do
    /// not say how it failed: then they are read again.
    pub async fn all_properties(&self, name: &str) -> zbus::Result<Properties> {
        for _ in 0..ATTEMPTS {
            let properties = self.properties_now(name).await?;
            let failed = properties.get("NRestarts").unwrap_or(0_u32) > 0;
            let starts = properties.get("ActiveState") == Some("activating");
            if !(failed && starts && properties.get("ExecMainCode") == Some(0_i32)) {
                return Ok(properties);
            }
            sleep(ATTEMPT).await;
        }
        self.properties_now(name).await
    }

    async fn properties_now(&self, name: &str) -> zbus::Result<Properties> {
        let path = self.systemd.load_unit(name).await?;
        let mut properties = self.properties(&path, "Unit").await?;
        if let Some(interface) = dbus::interface(name) {
            let more = self.properties(&path, interface).await?;
            properties.0.extend(more.0);
        }
        Ok(properties)
    }

    /// The sockets that systemd holds right now, with their addresses.
    pub async fn sockets(&self) -> zbus::Result<Vec<(String, Vec<Bound>)>> {
        let mut sockets = Vec::new();
        let active = self
            .systemd
            .list_units_by_patterns(&["active"], &["*.socket"]);
        for socket in active.await? {
            let mut properties = self.properties(&socket.path, "Socket").await?;
            sockets.push((socket.id, properties.listeners().0));
        }
        Ok(sockets)
    }

    /// The names of units like `pattern` that are loaded or have files.
    pub async fn known(&self, pattern: &str) -> zbus::Result<Vec<String>> {
        let loaded = self.loaded(pattern).await?;
        let files = self
            .systemd
            .list_unit_files_by_patterns(&[], &[pattern])
            .await?;
        let loaded = loaded.into_iter().map(|unit| unit.id);
        let files = files.into_iter().map(|(path, _)| unit_of(Path::new(&path)));
        let mut names: Vec<String> = loaded.chain(files).collect();
        // A template is no unit.
        names.retain(|name| !name.contains("@."));
        Ok(names)
    }

    /// The units like `pattern` that are loaded.
    pub(super) async fn loaded(&self, pattern: &str) -> zbus::Result<Vec<UnitStatus>> {
        self.systemd.list_units_by_patterns(&[], &[pattern]).await
    }

    /// The units with these names, in their order.
    pub(super) async fn named(&self, names: &[&str]) -> zbus::Result<Vec<UnitStatus>> {
        self.systemd.list_units_by_names(names).await
    }
}

impl Properties {
    /// The unit, as far as it matters to us.
    pub(super) fn unit(mut self) -> Unit {
        let mut text = |name| self.take::<String>(name).unwrap_or_default();
        let mut unit = Unit {
            id: text("Id"),
            load: text("LoadState"),
            active: text("ActiveState"),
            sub: text("SubState"),
            freezer: text("FreezerState"),
            kill_mode: text("KillMode"),
            success_action: text("SuccessAction"),
            failure_action: text("FailureAction"),
            file_state: text("UnitFileState"),
            result: text("Result"),
            kind: text("Type"),
            restart: text("Restart"),
            start_limit_action: text("StartLimitAction"),
            ..Unit::default()
        };
        let (_, why): (String, String) = self.take("LoadError").unwrap_or_default();
        unit.load_error = why;
        let is = |name| self.get(name).unwrap_or(false);
        unit.needs_reload = is("NeedDaemonReload");
        unit.remain_after_exit = is("RemainAfterExit");
        unit.stop_when_unneeded = is("StopWhenUnneeded");
        unit.refuse_manual_start = is("RefuseManualStart");
        unit.refuse_manual_stop = is("RefuseManualStop");
        unit.private_tmp = is("PrivateTmp");
        unit.network = match self.get::<&str>("NetworkNamespacePath") {
            Some(path) if !path.is_empty() => format!("NetworkNamespacePath={path}"),
            _ if is("PrivateNetwork") => "PrivateNetwork=yes".to_owned(),
            _ => String::new(),
        };
        unit.group = match (self.get::<&str>("User"), self.get::<&str>("Group")) {
            (_, Some(group)) if !group.is_empty() => group.to_owned(),
            (user, _) => user.unwrap_or_default().to_owned(),
        };
        unit.runtime.1 = self.get("RuntimeDirectoryMode").unwrap_or(0o755);
        unit.never_killed = self.get("SendSIGKILL") == Some(false);
        let number = |name| self.get(name).unwrap_or_default();
        unit.exit = (number("ExecMainCode"), number("ExecMainStatus"));
        unit.restarts = self.get("NRestarts").unwrap_or_default();
        unit.watchdog = self.span("WatchdogUSec");
        unit.default_dependencies = is("DefaultDependencies");
        unit.never_frozen = self.get("CanFreeze") == Some(false);
        unit.runtime_max = self.span("RuntimeMaxUSec");
        let measured = ["IOAccounting", "IPAccounting"].into_iter();
        unit.accounting = measured.filter(|name| is(name)).collect();
        unit.stored = self.get("FileDescriptorStoreMax").unwrap_or_default();
        unit.start_limit_burst = self.get("StartLimitBurst").unwrap_or_default();
        unit.start_limit_interval = self.span("StartLimitIntervalUSec");
        unit.start_timeout = self.span("TimeoutStartUSec");
        unit.stop_timeout = self.span("TimeoutStopUSec");
        let mut names = |name| self.take::<Vec<String>>(name).unwrap_or_default();
        unit.triggered_by = names("TriggeredBy");
        unit.upheld_by = names("UpheldBy");
        unit.before = names("Before");
        unit.holds = names("SliceOf");
        let required = [names("Requires"), names("BindsTo")].concat();
        unit.pulls_in = [names("Wants"), required.clone()].concat();
        unit.bound_to = [required, names("Requisite"), names("PartOf")].concat();
        unit.required_by = dbus::STOPPED_ALONG.map(&mut names).concat();
        unit.joins = names("JoinsNamespaceOf");
        unit.parts = names("ConsistsOf");
        unit.runtime.0 = names("RuntimeDirectory");
        unit.conflicts = [names("Conflicts"), names("ConflictedBy")].concat();
        unit.slice = self.take("Slice").unwrap_or_default();
        unit.sandbox = self.sandbox(&unit.id);
        unit
    }

    fn sandbox(&mut self, unit: &str) -> Sandbox {
        let mut sandbox = Sandbox {
            families: self.take("RestrictAddressFamilies").unwrap_or_default(),
            interfaces: self.take("RestrictNetworkInterfaces").unwrap_or_default(),
            filters: vec![self.filter(unit)],
            ..Sandbox::default()
        };
        match self.get("ProtectHome") {
            Some("yes") => sandbox.hide_home(true),
            Some("tmpfs") => sandbox.hide_home(false),
            _ => (),
        }
        if self.get("PrivateTmp") == Some(true) {
            sandbox.hide_tmp();
        }
        let api = self.get("MountAPIVFS") == Some(true);
        let mut mount = |setting: &str, at: &str, from, closed, shown: &str| {
            let what = format!("{setting}={shown} of `{unit}` hides it");
            sandbox.mount(at, from, closed, (&what, "remove that setting"));
        };
        let closed: Vec<String> = self.take("InaccessiblePaths").unwrap_or_default();
        for path in closed {
            // `-`: if it exists. `+`: below RootDirectory=.
            let path = path.trim_start_matches(['-', '+']);
            mount("InaccessiblePaths", path, None, true, path);
        }
        let empty: Vec<(String, String)> = self.take("TemporaryFileSystem").unwrap_or_default();
        for (path, _) in empty {
            mount("TemporaryFileSystem", &path, None, false, &path);
        }
        for setting in ["RootDirectory", "RootImage"] {
            let root: String = self.take(setting).unwrap_or_default();
            let from = (setting == "RootDirectory").then(|| root.clone());
            if !root.is_empty() {
                mount(setting, "/", from, false, &root);
                // systemd mounts an empty one, but for what has to be bound.
                if api {
                    mount(setting, "/run", None, false, &root);
                }
            }
        }
        for setting in ["BindPaths", "BindReadOnlyPaths"] {
            let binds: Vec<(String, String, bool, u64)> = self.take(setting).unwrap_or_default();
            for (from, at, ..) in binds {
                mount(setting, &at, Some(from), false, &at);
            }
        }
        sandbox
    }

    fn filter(&mut self, unit: &str) -> Filter {
        Filter {
            unit: unit.to_owned(),
            allow: self.networks("IPAddressAllow"),
            deny: self.networks("IPAddressDeny"),
        }
    }

    fn networks(&mut self, name: &str) -> Vec<Networks> {
        let list: Vec<(i32, Vec<u8>, u32)> = self.take(name).unwrap_or_default();
        let network = |(_, bytes, length): (i32, Vec<u8>, u32)| {
            let ip = match <[u8; 4]>::try_from(bytes.as_slice()) {
                Ok(bytes) => IpAddr::from(bytes),
                Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
            };
            format!("{ip}/{length}").parse().ok()
        };
        list.into_iter().filter_map(network).collect()
    }
}

/// Whether polkit is there, or would be when asked. Where there is no bus to ask, it counts as there.
pub async fn has_polkit(bus: Option<&Bus>) -> bool {
    match bus {
        Some(bus) => bus.has_polkit().await.unwrap_or(true),
        None => true,
    }
}
