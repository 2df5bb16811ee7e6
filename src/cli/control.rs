//! What `wake`, `hold` and `sleep` have in common: which control socket they mean, and what its errors
//! mean to a user.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{Exit, Fatal};
use crate::admin::{instance_name, machine, stem};
use crate::config::{Manager, UnitName};
use crate::control::client::Client;
use crate::control::interface::Error;
use crate::control::{self, message::Reply};
use crate::util::backoff::Backoff;

/// How long a connection that breaks is tried again: wakeport may be about to start anew.
const RETRY_FOR: Duration = Duration::from_secs(10);

/// The pauses between the attempts.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// The service that is meant.
#[derive(Clone, Debug, Args)]
pub(super) struct Subject {
    /// The instance, as `wakeport status` shows it, or the unit that it wakes; with /SERVICE where it
    /// has several services
    #[arg(value_name = "NAME[/SERVICE]")]
    name: Name,

    /// An instance of the calling user's service manager
    #[arg(long)]
    user: bool,

    /// Use this control socket instead of /run/wakeport.control/NAME
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

/// A name as it is typed.
#[derive(Clone, Debug)]
struct Name {
    /// The instance's.
    instance: String,
    service: Option<String>,
}

impl std::str::FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (instance, service) = match text.split_once('/') {
            Some((instance, service)) => (instance, Some(service.to_owned())),
            None => (text, None),
        };
        let unit: UnitName = instance.parse()?;
        Ok(Self {
            instance: instance_name(stem(&unit)).to_owned(),
            service,
        })
    }
}

/// A connection on which a request was answered.
pub(super) type Answered = (Client, Reply);

/// Why a request has no answer.
pub(super) enum Problem {
    /// The connection broke: another one may do better.
    Broken(Fatal),
    /// It was answered with an error, or another one would do no better.
    Final(Fatal),
}

impl From<Problem> for Fatal {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Broken(fatal) | Problem::Final(fatal) => fatal,
        }
    }
}

impl Subject {
    /// What it is called in messages.
    pub(super) fn label(&self) -> String {
        let Name { instance, service } = &self.name;
        match service {
            Some(service) => format!("{instance}/{service}"),
            None => instance.clone(),
        }
    }

    /// Asks, and waits for the first reply. While connections break, this is tried for a while.
    pub(super) async fn ask(
        &self,
        method: &str,
        parameters: &Value,
        more: bool,
    ) -> Result<Answered, Fatal> {
        let until = Instant::now() + RETRY_FOR;
        let mut pauses = PAUSES;
        loop {
            match self.ask_once(method, parameters, more).await {
                Err(Problem::Broken(_)) if Instant::now() < until => sleep(pauses.pause()).await,
                answered => return answered.map_err(Fatal::from),
            }
        }
    }

    /// Asks once.
    pub(super) async fn ask_once(
        &self,
        method: &str,
        parameters: &Value,
        more: bool,
    ) -> Result<Answered, Problem> {
        let path = self.path().map_err(Problem::Final)?;
        let client = Client::connect(&path).await;
        let mut client = client.map_err(|error| self.unreachable(&path, &error))?;
        let mut parameters = parameters.clone();
        if let Some(service) = &self.name.service {
            parameters["service"] = json!(service);
        }
        let asked = async {
            client.call(method, parameters, more).await?;
            client.reply().await
        };
        match asked.await {
            Ok(reply) => match self.error(&reply) {
                Some(fatal) => Err(Problem::Final(fatal)),
                None => Ok((client, reply)),
            },
            Err(error) => Err(Problem::Broken(self.broken(&error))),
        }
    }

    fn path(&self) -> Result<PathBuf, Fatal> {
        if let Some(path) = &self.control {
            return Ok(path.clone());
        }
        let runtime = match self.user {
            false => PathBuf::from("/run"),
            true => {
                let given = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty());
                let runtime = given.map(PathBuf::from).or_else(machine::runtime_directory);
                runtime.ok_or_else(|| {
                    Fatal::usage("XDG_RUNTIME_DIR is not set; log in, or give `--control PATH`")
                })?
            }
        };
        Ok(control::path(&runtime, &self.name.instance))
    }

    fn unreachable(&self, path: &std::path::Path, error: &io::Error) -> Problem {
        let (shown, name) = (path.display(), &self.name.instance);
        let manager = match self.user {
            true => Manager::User,
            false => Manager::System,
        };
        let closed = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
        if error.kind() == io::ErrorKind::PermissionDenied {
            Problem::Final(Fatal::new(
                Exit::NoPermission,
                format!(
                    "permission denied: `{shown}` is for root and the group wakeport; run it as root, or \
                     `usermod --append --groups wakeport {}` and log in anew",
                    machine::own_name()
                ),
            ))
        } else if closed.contains(&error.kind()) {
            let ctl = manager.systemctl();
            let unit = format!("{}{name}.socket", control::UNIT);
            Problem::Final(Fatal::new(
                Exit::Unavailable,
                format!(
                    "`{shown}` is closed; `{ctl} start {unit}` opens it, if there is an instance `{name}`"
                ),
            ))
        } else {
            Problem::Broken(Fatal::new(
                Exit::Unavailable,
                format!("cannot connect to `{shown}`: {error}"),
            ))
        }
    }

    /// The connection broke.
    pub(super) fn broken(&self, error: &io::Error) -> Fatal {
        let name = &self.name.instance;
        let log = match self.user {
            true => "journalctl --user",
            false => "journalctl",
        };
        Fatal::new(
            Exit::Unavailable,
            format!(
                "wakeport has not answered ({error}); `{log} -u wakeport@{name}.service` says why"
            ),
        )
    }

    /// What is wrong by a reply, if something is.
    pub(super) fn error(&self, reply: &Reply) -> Option<Fatal> {
        let unknown = reply.error.as_ref()?;
        let (label, name) = (self.label(), &self.name.instance);
        let usage = Exit::Usage;
        let (exit, message) = match Error::of(reply) {
            Some(Error::Failed(why)) => {
                (Exit::Unavailable, format!("cannot wake `{label}`: {why}"))
            }
            Some(Error::InUse(why)) => (
                Exit::Refused,
                format!("`{label}` is not stopped: {why}; `--force` stops it all the same"),
            ),
            Some(Error::Ended(why)) => (Exit::Refused, format!("`{label}` is not held: {why}")),
            Some(Error::TooManyConnections) => (
                Exit::Refused,
                format!(
                    "the control socket of `{name}` has no room for another connection; try again later"
                ),
            ),
            Some(Error::NoSuchService(all)) => (usage, self.no_such_service(&all)),
            Some(
                Error::NoInterface(what) | Error::NoMethod(what) | Error::InvalidParameter(what),
            ) => (
                Exit::Software,
                format!(
                    "the wakeport that runs for `{name}` does not know `{what}`; \
                     `systemctl restart wakeport@{name}.service` starts this version"
                ),
            ),
            Some(Error::AlreadyHeld) | None => (
                Exit::Software,
                format!("`{label}`: {}", crate::util::text::one_line(unknown)),
            ),
        };
        Some(Fatal::new(exit, message))
    }

    fn no_such_service(&self, all: &[String]) -> String {
        let Name { instance, service } = &self.name;
        let names = all.iter().filter(|name| !name.is_empty());
        let names = names.map(|name| format!("`{instance}/{name}`"));
        let names = names.collect::<Vec<_>>().join(", ");
        match (service, names.is_empty()) {
            (_, true) => format!("`{instance}` has one service; leave out what follows the `/`"),
            (None, false) => format!("`{instance}` has several services; name one of {names}"),
            (Some(service), false) => {
                format!("`{instance}` has no service `{service}`; there is {names}")
            }
        }
    }
}
