//! `wakeport init`: puts a service behind wakeport, or removes it again.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{self, ExitCode, Stdio};

use clap::builder::Resettable;

use super::config_file::add::{self, Addition};
use super::hold::deadline::Moment;
use super::instances;
use super::options::Options;
use super::{Fatal, output, runtime};
use crate::admin::machine;
use crate::admin::schedule::Schedule;
use crate::admin::system::{Present, System};
use crate::admin::unit_files::{
    self, Change, DROP_IN, Places, Plan, Step, WOKEN_DROP_IN, in_words, is_policy, is_rule,
};
use crate::admin::{Added, Finding, Instance, Level, checks, stem};
use crate::config::address::Bound;
use crate::config::{Manager, Named, UnitName};
use crate::util::file;

/// Put a service behind wakeport: print the units, or install them
///
/// Prints the drop-ins that make wakeport@UNIT.socket and wakeport@UNIT.service listen on the port
/// and wake the unit, the polkit rule that authorizes this, and what stands in the way. --write and
/// --enable install them, and list each change first. Repeated with other options, it changes what
/// there is; other drop-ins stay, and take precedence.
///
/// Every option of `wakeport run` can be given, and becomes a line in the drop-in.
#[derive(Debug, clap::Args)]
pub(super) struct Init {
    /// The unit to wake; a name without a suffix means .service
    ///
    /// With --unit, hooks or --exec, which tell what to wake instead, just a name for the instance.
    #[arg(value_name = "UNIT")]
    instance: UnitName,

    /// Add a service to the instance's file, /etc/wakeport/UNIT.toml: requests for HOST, or of it for
    /// PATH, go to PORT and wake the unit; instead of PORT also ADDRESS:PORT, /path, @abstract
    ///
    /// Writes a table at the end of the file, which is made if it is not there, and renews the polkit
    /// rule. Once the instance is set up, --listen need not be repeated: its sockets and their
    /// drop-ins stay as they are. May be repeated.
    #[arg(
        long,
        value_name = "HOST[/PATH]=UNIT:PORT",
        conflicts_with = "remove",
        display_order = 3
    )]
    add: Vec<Addition>,

    /// A UDP port that wakeport listens on, beside --listen or alone: PORT, ADDRESS:PORT
    ///
    /// It becomes the ListenDatagram= of a socket unit of its own, with a larger buffer. Without a NAME it is called
    /// udp. `--to udp:ADDRESS:PORT` says where the service takes datagrams; without one they go where
    /// streams do. May be repeated.
    #[arg(
        long,
        value_name = "[NAME=]PORT",
        value_parser = listen_udp,
        conflicts_with_all = ["add", "remove"],
        display_order = 1
    )]
    listen_udp: Vec<Named<Bound>>,

    /// Hold the service awake from this calendar event on (systemd.time(7)), until --until: a timer and
    /// its service, which runs `wakeport hold`
    #[arg(
        long,
        value_name = "CALENDAR",
        value_parser = calendar,
        requires = "until",
        conflicts_with_all = ["add", "remove"],
        display_order = 3
    )]
    awake: Option<String>,

    /// The time of day at which --awake ends, as 18:00
    #[arg(long, value_name = "TIME", value_parser = time_of_day, requires = "awake", display_order = 3)]
    until: Option<String>,

    /// Stop the service at this calendar event, unless it is in use: a timer that runs `wakeport sleep`
    #[arg(
        long,
        value_name = "CALENDAR",
        value_parser = calendar,
        conflicts_with_all = ["add", "remove"],
        display_order = 3
    )]
    asleep_from: Option<String>,

    /// Write the files instead of printing them
    #[arg(long, display_order = 3)]
    write: bool,

    /// Open the port at once, and at every boot
    #[arg(long, requires = "write", display_order = 4)]
    enable: bool,

    /// Close the port and remove the files that init has written for this instance
    #[arg(long, conflicts_with_all = ["write", "enable", "standalone"], display_order = 5)]
    remove: bool,

    /// Write complete units instead of drop-ins for the installed wakeport@.socket and .service
    #[arg(long, display_order = 6)]
    standalone: bool,

    /// Overwrite files that init has not written, and enable in spite of errors
    #[arg(long, requires = "write", display_order = 7)]
    force: bool,

    #[command(flatten)]
    options: Options,
}

/// Reads a UDP port or address, perhaps with a name.
fn listen_udp(text: &str) -> Result<Named<Bound>, String> {
    match text.split_once('=') {
        Some((name, at)) => format!("{name}=udp:{at}").parse(),
        None => format!("udp:{text}").parse(),
    }
}

/// What those are called that have no name.
const UDP: &str = "udp";

/// Reads a calendar event.
fn calendar(text: &str) -> Result<String, String> {
    machine::calendar::verify(text).map(|()| text.to_owned())
}

/// Reads a time of day.
fn time_of_day(text: &str) -> Result<String, String> {
    match text.parse() {
        Ok(Moment::Daily(_)) => Ok(text.to_owned()),
        Ok(Moment::Once(_)) | Err(_) => Err("not a time of day; write it like `18:00`".into()),
    }
}

/// Adapts the options of `run`.
pub(super) fn adjust(command: clap::Command) -> clap::Command {
    // The variables around us are not meant for the instance.
    let command = command.mut_args(|argument| argument.env(Resettable::Reset));
    command
        .mut_arg("listen", |listen| {
            listen
                .help("The address that wakeport listens on: ADDRESS:PORT, PORT, /path, @abstract")
                .long_help(
                    "The address that wakeport listens on: ADDRESS:PORT, PORT, /path, @abstract\n\n\
                     It becomes the ListenStream= of the socket unit. NAME becomes its \
                     FileDescriptorName=, to tie it to a --to; each name is a socket unit of its \
                     own. May be repeated.",
                )
                .help_heading(None)
                .display_order(1)
        })
        .mut_arg("to", |to| to.display_order(2))
}

/// Runs to the end.
pub(super) fn run(init: Init) -> ExitCode {
    init.act().unwrap_or_else(|fatal| output::fatal(&fatal))
}

impl Init {
    fn act(self) -> Result<ExitCode, Fatal> {
        let manager = self.options.manager();
        let places = machine::places(manager).map_err(Fatal::usage)?;
        let runtime = runtime()?;
        if self.remove {
            let remains = machine::remains(manager, &places);
            let (present, systemd) = runtime.block_on(remains);
            let plan = unit_files::remove(&self.instance, manager, &present, systemd.is_ok());
            let file = places.config(stem(&self.instance));
            return remove(&plan, systemd, &file);
        }
        let (write, enable, force) = (self.write, self.enable, self.force);
        let present = match self.add.is_empty() {
            true => Vec::new(),
            false => runtime.block_on(machine::remains(manager, &places)).0,
        };
        let instance = self.instance(Some((&places, &present)))?;
        let system = runtime.block_on(system(&instance, &places));
        let plan = unit_files::set_up(&instance, &places, &system, enable);
        let mut findings = checks::preflight(&instance, &system, &plan);
        if !write {
            print(&plan);
            output::error(&hint(&instance, &system, &places));
            findings.extend(checks::unit::to_repair(&plan));
            output::findings(&findings);
            return Ok(ExitCode::SUCCESS);
        }
        if let (true, Err(reason)) = (enable, &system.units) {
            let remedy = match manager {
                Manager::System => "leave out `--enable`",
                Manager::User => {
                    "log in, or have your manager run without that (`loginctl enable-linger`), or leave out `--enable`"
                }
            };
            let text = format!("cannot reach systemd to open the port ({reason}); {remedy}");
            findings.insert(0, Finding::error(text));
        }
        let wrong = findings.iter().any(|finding| finding.level == Level::Error);
        let foreign = plan.changes.iter().any(Change::is_in_the_way);
        if !force && (foreign || enable && wrong) {
            output::findings(&findings);
            return Err(Fatal::findings(
                "nothing was written; fix the errors above, or override with `--force`",
            ));
        }
        carry_out(&plan)?;
        if !enable {
            output::error(&hint(&instance, &system, &places));
        }
        output::findings(&findings);
        Ok(ExitCode::SUCCESS)
    }

    /// The instance that was asked for. Without places, and the files that are there, no file is read.
    pub(super) fn instance(
        self,
        machine: Option<(&Places, &[Present])>,
    ) -> Result<Instance, Fatal> {
        let manager = self.options.manager();
        let mut options = self.options;
        let mut settings = options.as_variables();
        let is_alone = settings.iter().all(|(name, _)| name == "WAKEPORT_USER");
        // What the units set already.
        let elsewhere = ["WAKEPORT_LISTEN", "WAKEPORT_USER"];
        settings.retain(|(name, _)| !elsewhere.contains(&name.as_str()));
        options.suit_an_instance()?;
        let stem = stem(&self.instance);
        // What is set up already stays as it is, unless it is given anew.
        let mut kept = Vec::new();
        if let (Some((_, present)), true, false) = (machine, is_alone, self.add.is_empty()) {
            kept = unit_files::listeners(present, stem);
            if !kept.is_empty() {
                options = installed(present, stem, manager)?;
            }
        }
        let only = !kept.is_empty();
        let options = options.for_instance(&self.instance);
        let mut added = None;
        let mut config = match machine {
            None if !self.add.is_empty() => {
                return Err(Fatal::usage("`--add` needs the file of an instance"));
            }
            None => options.config()?,
            Some((places, _)) => {
                let options = options.with_file(&places.config(stem));
                match &self.add[..] {
                    [] => options.load()?,
                    all => {
                        let (config, file) = add::add(&options, all)?;
                        added = Some(Added { file, only });
                        config
                    }
                }
            }
        };
        config.process.listen.extend(kept);
        config.process.listen.extend(self.listen_udp);
        for listen in config.process.listen.iter_mut() {
            if listen.value.is_udp() {
                listen.name.get_or_insert_with(|| UDP.to_owned());
            }
        }
        if config.process.listen.is_empty() {
            let mut services = config.services.iter();
            let listener = services.find_map(|it| it.listeners.as_ref()?.first());
            let example = match listener {
                Some(name) => format!("`--listen {name}=ADDR`"),
                None => "`--listen 8080`".to_owned(),
            };
            return Err(Fatal::usage(format!(
                "`--listen` is missing: give the address that wakeport listens on, as in {example}"
            )));
        }
        let schedule = Schedule {
            awake: self.awake.zip(self.until),
            asleep_from: self.asleep_from,
        };
        if schedule != Schedule::default() && config.services.len() > 1 {
            return Err(Fatal::usage(
                "`--awake` and `--asleep-from` are for an instance with one service; write a timer that runs `wakeport hold NAME/SERVICE`",
            ));
        }
        let instance = Instance {
            name: self.instance,
            schedule,
            config,
            settings,
            manager,
            standalone: self.standalone,
            added,
        };
        match instance.unwritable() {
            Some(reason) => Err(Fatal::usage(reason)),
            None => Ok(instance),
        }
    }
}

/// What an instance does by its files, which are among `present`.
fn installed(present: &[Present], stem: &str, manager: Manager) -> Result<Options, Fatal> {
    let variables = unit_files::variables(present, manager).remove(stem);
    let mut variables = variables.unwrap_or_default();
    // That of the template has a specifier.
    variables.retain(|(name, value)| name != "WAKEPORT_CONFIG" || !value.contains('%'));
    Options::read(&[], &variables).map_err(|reason| {
        Fatal::config(format!(
            "the drop-ins of `wakeport@{stem}.service`: {reason}"
        ))
    })
}

/// All that the checks have to know of the machine.
async fn system(instance: &Instance, places: &Places) -> System {
    let (mut system, bus) = machine::system(instance, places).await;
    let own = instance.service();
    system.elsewhere = match bus {
        Ok(bus) => {
            let others = instances::others(&bus, Some(&own)).await;
            instances::elsewhere(&bus, &others, &own).await
        }
        Err(_) => instances::in_files(&system.present, places, instance.manager, &own),
    };
    system
}

/// Prints what would be written, each file below its path.
fn print(plan: &Plan) {
    let files = plan.changes.iter().filter_map(|change| {
        let (path, new) = (change.path.display(), change.new.as_ref()?);
        let title = match (is_rule(&change.path), is_policy(&change.path)) {
            (true, _) => format!("// {path}"),
            (_, true) => format!("<!-- {path} -->"),
            (false, false) => format!("# {path}"),
        };
        Some(format!("{title}\n{new}"))
    });
    output::line(&files.collect::<Vec<_>>().join("\n"));
}

/// What is left to be done.
fn hint(instance: &Instance, system: &System, places: &Places) -> String {
    let after = unit_files::set_up(instance, places, system, true).after;
    let steps: Vec<_> = after.iter().map(|step| in_words(step)).collect();
    match steps.is_empty() {
        true => String::new(),
        false => format!(
            "next: {}, or the same with --write --enable",
            steps.join(" && ")
        ),
    }
}

/// Carries the plan out, after listing it.
fn carry_out(plan: &Plan) -> Result<(), Fatal> {
    if plan.is_empty() {
        output::line("nothing to do: everything is up to date");
        return Ok(());
    }
    output::line(&plan.listing());
    plan.before.iter().try_for_each(execute)?;
    for change in plan.changes.iter().filter(|change| change.is_due()) {
        apply(change).map_err(|error| {
            let (path, remedy) = (change.path.display(), remedy(&error));
            Fatal::findings(format!("cannot write `{path}`: {error}{remedy}"))
        })?;
    }
    plan.after.iter().try_for_each(execute)
}

fn remove(plan: &Plan, systemd: Result<(), String>, config: &Path) -> Result<ExitCode, Fatal> {
    if plan.is_empty() {
        output::line("nothing to do: `wakeport init` has written nothing for this instance");
        return Ok(ExitCode::SUCCESS);
    }
    carry_out(plan)?;
    if let Err(reason) = systemd {
        let text = format!(
            "cannot reach systemd ({reason}); a port that is open stays open until the next boot"
        );
        output::findings(&[Finding::note(text)]);
    }
    if config.exists() {
        let text = format!("`{}` stays; it is yours to remove", config.display());
        output::findings(&[Finding::note(text)]);
    }
    Ok(ExitCode::SUCCESS)
}

/// The remedy, where there is one.
fn remedy(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        "; run it as root, or use `--user` for a service of your own"
    } else {
        ""
    }
}

/// Writes a file or removes it: whole or not at all.
fn apply(change: &Change) -> io::Result<()> {
    let path = &change.path;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let Some(new) = &change.new else {
        fs::remove_file(path)?;
        if path.ends_with(DROP_IN) || path.ends_with(WOKEN_DROP_IN) {
            // Fails if it has other files.
            let _ = fs::remove_dir(folder);
        }
        return Ok(());
    };
    make_directory(folder)?;
    if unit_files::is_config(path) {
        return file::rewrite(path, new.as_bytes(), 0o644);
    }
    if path.ends_with(DROP_IN) {
        file::take_over_directory(folder, 0o755)?;
    }
    file::replace(path, new.as_bytes(), 0o644)
}

/// Makes a directory that systemd may read, whatever our umask is.
fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    file::make_directory(path, 0o755)
}

/// Runs a command. `systemctl` and not D-Bus: it is what was listed and can be repeated by hand, it
/// waits for its jobs, and it explains what fails.
fn execute(step: &Step) -> Result<(), Fatal> {
    let words = in_words(step);
    let (program, arguments) = step.split_first().expect("a command has a program");
    let output = process::Command::new(program)
        .args(arguments)
        .envs(machine::runtime_directory().map(|path| ("XDG_RUNTIME_DIR", path)))
        .stdin(Stdio::null())
        .output();
    let output =
        output.map_err(|error| Fatal::findings(format!("cannot run `{words}`: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Fatal::findings(format!(
        "`{words}` failed ({}): {}; fix that, and run the same command again",
        output.status,
        said.trim()
    )))
}
