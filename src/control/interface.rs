//! What can be asked for by the control socket: the interface, requests, and errors. Pure.

use std::time::Duration;

use serde_json::{Value, json};

use super::message::{Call, Parameters, Reply};
use crate::config::span;
use crate::util::text::one_line;

/// Our interface.
pub const INSTANCE: &str = "io.wakeport.Instance";

/// The interface that every service has.
const SERVICE: &str = "org.varlink.service";

/// A reason is shown in a line with others.
const LONGEST_REASON: usize = 60;

/// What our interface is, in varlink's own language.
pub const DESCRIPTION: &str = "\
# Wakes, holds and stops the services of one instance of wakeport. `service` names one of them, and may be
# left out where there is only one.
interface io.wakeport.Instance

type Service (
  # As wakeport status shows it.
  name: string,
  # What sleeps, in words.
  service: string,
  # asleep, waking, awake, cooling, stopping or failed.
  state: string,
  clients: int,
  waiting: int,
  # Why it is held, for each hold.
  holds: []string,
  # What keeps it awake although there is no client and no hold.
  keptAwake: []string
)

# Starts the service unless it runs, and returns when it answers. The cooldown begins then.
method Wake(service: ?string) -> ()

# Starts the service unless it runs, and returns when it answers. Until this connection ends, or `for` is
# over (9h, 5min 20s, infinity), the service is not stopped. With `more` there is a second reply in the end.
method Hold(service: ?string, for: ?string, reason: ?string) -> (state: string)

# Ends the cooldown now, and returns when the service is stopped. With `force` also holds, and it is stopped
# under its clients.
method Sleep(service: ?string, force: ?bool) -> ()

# What the services are doing.
method Describe(service: ?string) -> (services: []Service)

# There is no such service, or it has to be named.
error NoSuchService (services: []string)

# The service could not be started.
error Failed (reason: string)

# The service is in use, so it is not stopped.
error InUse (reason: string)

# The service was stopped by force: the hold has ended.
error Ended (reason: string)

# This connection holds a service already.
error AlreadyHeld ()

# There is no room for another connection.
error TooManyConnections ()
";

const SERVICE_DESCRIPTION: &str = "\
interface org.varlink.service
method GetInfo() -> (
  vendor: string,
  product: string,
  version: string,
  url: string,
  interfaces: []string
)
method GetInterfaceDescription(interface: string) -> (description: string)
error InterfaceNotFound (interface: string)
error MethodNotFound (method: string)
error MethodNotImplemented (method: string)
error InvalidParameter (parameter: string)
error PermissionDenied ()
error ExpectedMore ()
";

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// What is known without any service.
    Known(Parameters),
    /// One that concerns a service.
    Of(Option<String>, Verb),
}

/// What is to happen to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// It is to start.
    Wake,
    /// It is to stay awake for so long.
    Hold {
        /// How long at most.
        limit: Duration,
        /// Why.
        reason: String,
    },
    /// It is to stop.
    Sleep {
        /// Clients or not.
        force: bool,
    },
    /// It is to be described.
    Describe,
}

/// Why something cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is no such interface,
    NoInterface(String),
    /// or no such method,
    NoMethod(String),
    /// or no such parameter, or not of this kind.
    InvalidParameter(String),
    /// There are other services than the one that was named, or several and none was.
    NoSuchService(Vec<String>),
    /// The service could not be started, for this reason.
    Failed(String),
    /// It is in use, by this.
    InUse(String),
    /// It was stopped by force.
    Ended(String),
    /// The connection holds a service.
    AlreadyHeld,
    /// There are too many connections.
    TooManyConnections,
}

impl Request {
    /// What a call asks for.
    pub fn read(call: Call) -> Result<Self, Error> {
        let Call {
            method, parameters, ..
        } = call;
        let (interface, name) = method.rsplit_once('.').unwrap_or_default();
        let mut given = Given(parameters);
        let request = match (interface, name) {
            (SERVICE, "GetInfo") => Self::Known(info()),
            (SERVICE, "GetInterfaceDescription") => {
                let wanted = given.text("interface")?;
                let description = match wanted.as_deref() {
                    Some(INSTANCE) => DESCRIPTION,
                    Some(SERVICE) => SERVICE_DESCRIPTION,
                    Some(other) => return Err(Error::NoInterface(other.to_owned())),
                    None => return Err(Error::InvalidParameter("interface".into())),
                };
                Self::Known(object(json!({ "description": description })))
            }
            (INSTANCE, name) => {
                let service = given.text("service")?;
                let verb = match name {
                    "Wake" => Verb::Wake,
                    "Hold" => Verb::Hold {
                        limit: given.span("for")?,
                        reason: reason(&given.text("reason")?.unwrap_or_default()),
                    },
                    "Sleep" => Verb::Sleep {
                        force: given.switch("force")?,
                    },
                    "Describe" => Verb::Describe,
                    _ => return Err(Error::NoMethod(method)),
                };
                Self::Of(service, verb)
            }
            (SERVICE, _) => return Err(Error::NoMethod(method)),
            (interface, _) => return Err(Error::NoInterface(interface.to_owned())),
        };
        match given.0.into_iter().next() {
            Some((unknown, _)) => Err(Error::InvalidParameter(unknown)),
            None => Ok(request),
        }
    }
}

/// The parameters that were not looked at yet.
struct Given(Parameters);

impl Given {
    /// One of them; null is as good as missing.
    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, Error> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Error::InvalidParameter(name.into())),
        }
    }

    fn switch(&mut self, name: &str) -> Result<bool, Error> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(on)) => Ok(on),
            Some(_) => Err(Error::InvalidParameter(name.into())),
        }
    }

    fn span(&mut self, name: &str) -> Result<Duration, Error> {
        let text = self.text(name)?;
        let span = text.map_or(Ok(Duration::MAX), |text| span::parse(&text));
        span.map_err(|_| Error::InvalidParameter(name.into()))
    }
}

/// What a reason looks like in a line with others.
pub fn reason(text: &str) -> String {
    let text = one_line(text);
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").chars().take(LONGEST_REASON).collect()
}

fn object(value: Value) -> Parameters {
    let Value::Object(object) = value else {
        return Parameters::new();
    };
    object
}

fn info() -> Parameters {
    object(json!({
        "vendor": "The wakeport maintainers",
        "product": "wakeport",
        "version": env!("CARGO_PKG_VERSION"),
        "url": "https://wakeport.example/",
        "interfaces": [SERVICE, INSTANCE],
    }))
}

impl Reply {
    /// This, and nothing more.
    pub fn with(parameters: Value) -> Self {
        Self {
            parameters: object(parameters),
            ..Self::default()
        }
    }
}

impl From<Error> for Reply {
    fn from(error: Error) -> Self {
        let (interface, name, parameters) = match error {
            Error::NoInterface(it) => (SERVICE, "InterfaceNotFound", json!({ "interface": it })),
            Error::NoMethod(it) => (SERVICE, "MethodNotFound", json!({ "method": it })),
            Error::InvalidParameter(it) => {
                (SERVICE, "InvalidParameter", json!({ "parameter": it }))
            }
            Error::NoSuchService(all) => (INSTANCE, "NoSuchService", json!({ "services": all })),
            Error::Failed(why) => (INSTANCE, "Failed", json!({ "reason": why })),
            Error::InUse(why) => (INSTANCE, "InUse", json!({ "reason": why })),
            Error::Ended(why) => (INSTANCE, "Ended", json!({ "reason": why })),
            Error::AlreadyHeld => (INSTANCE, "AlreadyHeld", json!({})),
            Error::TooManyConnections => (INSTANCE, "TooManyConnections", json!({})),
        };
        Self {
            error: Some(format!("{interface}.{name}")),
            ..Self::with(parameters)
        }
    }
}

impl Error {
    /// The error that a reply tells of, if it is known.
    pub fn of(reply: &Reply) -> Option<Self> {
        let (interface, name) = reply.error.as_ref()?.rsplit_once('.')?;
        let text = |name: &str| {
            let text = reply.parameters.get(name).and_then(Value::as_str);
            text.map(one_line).unwrap_or_default()
        };
        Some(match (interface, name) {
            (SERVICE, "InterfaceNotFound") => Self::NoInterface(text("interface")),
            (SERVICE, "MethodNotFound") => Self::NoMethod(text("method")),
            (SERVICE, "InvalidParameter") => Self::InvalidParameter(text("parameter")),
            (INSTANCE, "NoSuchService") => {
                let services = reply.parameters.get("services").and_then(Value::as_array);
                let services = services.into_iter().flatten().filter_map(Value::as_str);
                Self::NoSuchService(services.map(one_line).collect())
            }
            (INSTANCE, "Failed") => Self::Failed(text("reason")),
            (INSTANCE, "InUse") => Self::InUse(text("reason")),
            (INSTANCE, "Ended") => Self::Ended(text("reason")),
            (INSTANCE, "AlreadyHeld") => Self::AlreadyHeld,
            (INSTANCE, "TooManyConnections") => Self::TooManyConnections,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::message;

    fn read(method: &str, parameters: Value) -> Result<Request, Error> {
        let call = message::write(&json!({ "method": method, "parameters": parameters }));
        let call = message::first(&call).and_then(message::read);
        Request::read(call.expect("a call"))
    }

    fn ours(method: &str, parameters: Value) -> Result<Request, Error> {
        read(&format!("{INSTANCE}.{method}"), parameters)
    }

    #[test]
    fn each_method_has_its_parameters() {
        let web = || Some("web".to_owned());
        for (method, parameters, request) in [
            ("Wake", json!({}), Request::Of(None, Verb::Wake)),
            (
                "Wake",
                json!({ "service": null }),
                Request::Of(None, Verb::Wake),
            ),
            (
                "Describe",
                json!({ "service": "web" }),
                Request::Of(web(), Verb::Describe),
            ),
            (
                "Hold",
                json!({ "service": "web", "for": "9h", "reason": "back\nup  at night" }),
                Request::Of(
                    web(),
                    Verb::Hold {
                        limit: Duration::from_secs(9 * 3600),
                        reason: "back up at night".into(),
                    },
                ),
            ),
            (
                "Hold",
                json!({}),
                Request::Of(
                    None,
                    Verb::Hold {
                        limit: Duration::MAX,
                        reason: String::new(),
                    },
                ),
            ),
            (
                "Sleep",
                json!({ "force": true }),
                Request::Of(None, Verb::Sleep { force: true }),
            ),
        ] {
            assert_eq!(ours(method, parameters), Ok(request), "{method}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let invalid = |name: &str| Err(Error::InvalidParameter(name.into()));
        assert_eq!(ours("Hold", json!({ "for": "soon" })), invalid("for"));
        assert_eq!(ours("Hold", json!({ "for": 9 })), invalid("for"));
        assert_eq!(ours("Hold", json!({ "until": "18:00" })), invalid("until"));
        assert_eq!(ours("Wake", json!({ "service": [] })), invalid("service"));
        assert_eq!(ours("Sleep", json!({ "force": "yes" })), invalid("force"));
        assert_eq!(
            read("org.varlink.service.GetInterfaceDescription", json!({})),
            invalid("interface")
        );
        let method = |name: &str| Err(Error::NoMethod(name.into()));
        for name in ["io.wakeport.Instance.Freeze", "org.varlink.service.Reboot"] {
            assert_eq!(read(name, json!({})), method(name));
        }
        let interface = |name: &str| Err(Error::NoInterface(name.into()));
        assert_eq!(read("io.other.Thing", json!({})), interface("io.other"));
        assert_eq!(read("", json!({})), interface(""));
    }

    /// Both are written down by hand.
    #[test]
    fn the_description_has_every_method_and_every_error() {
        for method in ["Wake", "Hold", "Sleep", "Describe"] {
            assert!(
                DESCRIPTION.contains(&format!("\nmethod {method}(")),
                "{method}"
            );
            assert!(ours(method, json!({})).is_ok(), "{method}");
        }
        for error in [
            Error::NoSuchService(vec!["web".into()]),
            Error::Failed("why".into()),
            Error::InUse("why".into()),
            Error::Ended("why".into()),
            Error::AlreadyHeld,
            Error::TooManyConnections,
        ] {
            let reply = Reply::from(error.clone());
            let name = reply.error.clone().unwrap_or_default();
            let (_, short) = name.rsplit_once('.').expect("an interface");
            assert!(
                DESCRIPTION.contains(&format!("\nerror {short} (")),
                "{name}"
            );
            assert_eq!(Error::of(&reply), Some(error));
        }
    }

    #[test]
    fn a_reason_is_a_few_words() {
        assert_eq!(reason(" a\x1b[31m\n b "), "a [31m b");
        assert_eq!(reason(&"ü".repeat(500)).chars().count(), LONGEST_REASON);
    }
}
