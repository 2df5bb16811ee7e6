//! `wakeport init`: puts a service behind wakeport, or takes it away again.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{self, ExitCode, Stdio};

use clap::builder::Resettable;

use super::options::Typed;
use super::{Exit, Fatal, say};
use crate::admin::machine;
use crate::admin::system::Facts;
use crate::admin::unit_files::{self, Change, DROP_IN, Places, Plan, Step, in_words};
use crate::admin::{Finding, Instance, Level, preflight};
use crate::config::UnitName;
use crate::util::file;

/// Puts a service behind wakeport: says what that takes, or does it
///
/// Prints the drop-ins that make wakeport@UNIT.socket and wakeport@UNIT.service take the port and
/// wake the unit, the polkit rule that allows it, and what stands in the way. With --write and
/// --enable it does it, after saying what. Repeated with other options, it changes what there is;
/// drop-ins of your own beside it stay, and win.
///
/// Every option of `wakeport run` can be given, and becomes a line in the drop-in.
#[derive(Debug, clap::Args)]
pub(super) struct Init {
    /// The unit to wake; a name without a suffix means .service
    ///
    /// With --unit, hooks or --exec, which say what to wake instead, just a name for the instance.
    #[arg(value_name = "UNIT")]
    instance: UnitName,

    /// Write the files, rather than print them
    #[arg(long, display_order = 3)]
    write: bool,

    /// Open the port at once, and at every boot
    #[arg(long, requires = "write", display_order = 4)]
    enable: bool,

    /// Close the port and take away what init has written for this instance, and nothing else
    #[arg(long, conflicts_with_all = ["write", "enable", "standalone"], display_order = 5)]
    remove: bool,

    /// Write complete units, rather than drop-ins for the installed wakeport@.socket and .service
    #[arg(long, display_order = 6)]
    standalone: bool,

    /// Overwrite files that init has not written, and enable in spite of errors found
    #[arg(long, requires = "write", display_order = 7)]
    force: bool,

    #[command(flatten)]
    typed: Typed,
}

/// What is different about the options of `run` here.
pub(super) fn adjust(command: clap::Command) -> clap::Command {
    // What is set around us is no wish for the instance.
    let command = command.mut_args(|argument| argument.env(Resettable::Reset));
    command
        .mut_arg("listen", |listen| {
            listen
                .help("The port that wakeport takes: ADDRESS:PORT, PORT, /path, @abstract")
                .long_help(
                    "The port that wakeport takes: ADDRESS:PORT, PORT, /path, @abstract\n\n\
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
    init.act().unwrap_or_else(|fatal| say::fatal(&fatal))
}

impl Init {
    fn act(self) -> Result<ExitCode, Fatal> {
        let manager = self.typed.options.manager();
        let places = machine::places(manager).map_err(Fatal::usage)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        if self.remove {
            let remains = machine::remains(manager, &places);
            let (present, systemd) = runtime.block_on(remains);
            let plan = unit_files::take_away(&self.instance, manager, &present, systemd.is_ok());
            return take_away(&plan, systemd);
        }
        let (write, enable, force) = (self.write, self.enable, self.force);
        let instance = self.instance()?;
        let facts = runtime.block_on(machine::facts(&instance, &places));
        let plan = unit_files::set_up(&instance, &places, &facts, enable);
        let mut findings = preflight::of(&instance, &facts, &plan);
        if !write {
            print(&plan);
            say::error(&hint(&instance, &facts, &places));
            say::findings(&findings);
            return Ok(ExitCode::SUCCESS);
        }
        if let (true, Err(reason)) = (enable, &facts.units) {
            let text =
                format!("systemd cannot be told to open the port ({reason}); leave out `--enable`");
            findings.insert(0, Finding::error(text));
        }
        let wrong = findings.iter().any(|finding| finding.level == Level::Error);
        let foreign = plan
            .changes
            .iter()
            .any(|change| change.foreign && change.is_one());
        if !force && (foreign || enable && wrong) {
            say::findings(&findings);
            let message = "nothing was written; mend the errors above, or go on with `--force`";
            return Err(Fatal {
                message: message.into(),
                exit: Exit::Findings,
            });
        }
        carry_out(&plan)?;
        if !enable {
            say::error(&hint(&instance, &facts, &places));
        }
        say::findings(&findings);
        Ok(ExitCode::SUCCESS)
    }

    /// The instance that is meant.
    pub(super) fn instance(self) -> Result<Instance, Fatal> {
        let manager = self.typed.options.manager();
        let Typed {
            options,
            mut settings,
        } = self.typed;
        // What the units say already.
        let elsewhere = ["WAKEPORT_LISTEN", "WAKEPORT_USER"];
        settings.retain(|(name, _)| !elsewhere.contains(&name.as_str()));
        options.suit_an_instance()?;
        let config = options.for_instance(&self.instance).config()?;
        if config.process.listen.is_empty() {
            return Err(Fatal::usage(
                "`--listen` is missing: say which port wakeport takes, as in `--listen 8080`",
            ));
        }
        let instance = Instance {
            name: self.instance,
            config,
            settings,
            manager,
            standalone: self.standalone,
        };
        match instance.unwritable() {
            Some(reason) => Err(Fatal::usage(reason)),
            None => Ok(instance),
        }
    }
}

/// Prints what would be written, each file below its path.
fn print(plan: &Plan) {
    let files = plan.changes.iter().filter_map(|change| {
        let comment = if change.path.extension().is_some_and(|end| end == "rules") {
            "//"
        } else {
            "#"
        };
        Some(format!(
            "{comment} {}\n{}",
            change.path.display(),
            change.new.as_ref()?
        ))
    });
    say::line(&files.collect::<Vec<_>>().join("\n"));
}

/// What is left to be done.
fn hint(instance: &Instance, facts: &Facts, places: &Places) -> String {
    let after = unit_files::set_up(instance, places, facts, true).after;
    let steps: Vec<_> = after.iter().map(|step| in_words(step)).collect();
    match steps.is_empty() {
        true => String::new(),
        false => format!(
            "next: {}, or the same with --write --enable",
            steps.join(" && ")
        ),
    }
}

/// Does what the plan says, after showing it.
fn carry_out(plan: &Plan) -> Result<(), Fatal> {
    if plan.is_empty() {
        say::line("nothing to do: everything is as it should be");
        return Ok(());
    }
    say::line(&plan.listing());
    plan.before.iter().try_for_each(take)?;
    for change in plan.changes.iter().filter(|change| change.is_one()) {
        apply(change).map_err(|error| {
            failed(format!(
                "cannot write `{}`: {error}{}",
                change.path.display(),
                whose(&error)
            ))
        })?;
    }
    plan.after.iter().try_for_each(take)
}

fn take_away(plan: &Plan, systemd: Result<(), String>) -> Result<ExitCode, Fatal> {
    if plan.is_empty() {
        say::line("nothing to do: `wakeport init` has written nothing for this instance");
        return Ok(ExitCode::SUCCESS);
    }
    carry_out(plan)?;
    if let Err(reason) = systemd {
        let text = format!(
            "systemd cannot be told ({reason}); a port that is open stays open until the next boot"
        );
        say::findings(&[Finding::note(text)]);
    }
    Ok(ExitCode::SUCCESS)
}

fn failed(message: String) -> Fatal {
    Fatal {
        message,
        exit: Exit::Findings,
    }
}

/// The remedy, where there is one.
fn whose(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        "; run it as root, or use `--user` for a service of your own"
    } else {
        ""
    }
}

/// Writes a file or takes it away: whole or not at all.
fn apply(change: &Change) -> io::Result<()> {
    let path = &change.path;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let Some(new) = &change.new else {
        fs::remove_file(path)?;
        if path.ends_with(DROP_IN) {
            // Unless something of somebody else's is in it.
            let _ = fs::remove_dir(folder);
        }
        return Ok(());
    };
    make_directory(folder)?;
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
    file::make_directory(path)
}

/// Runs a command. `systemctl` and not D-Bus: it is what was shown and what anybody can repeat,
/// it waits for its jobs, and it says in words what is wrong.
fn take(step: &Step) -> Result<(), Fatal> {
    let words = in_words(step);
    let (program, arguments) = step.split_first().expect("a command has a program");
    let output = process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(|error| failed(format!("cannot run `{words}`: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!(
        "`{words}` failed ({}): {}; when that is mended, the same command again goes on",
        output.status,
        said.trim()
    )))
}
