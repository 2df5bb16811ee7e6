//! Workloads of Kubernetes, and how their API server is reached.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// What is scaled to zero and back, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Scaled together; never empty.
    pub workloads: Vec<Workload>,
    /// Where they live; `None` is where wakeport itself does.
    pub namespace: Option<String>,
    /// How many pods a wake asks for.
    pub replicas: Replicas,
    /// New pods may start while old ones terminate.
    pub overlap: bool,
    /// The Lease by which several wakeports agree.
    pub lease: String,
    /// How the API server is reached.
    pub access: Access,
}

impl Scale {
    /// A Deployment's own `progressDeadlineSeconds`: a wake may have to add a node and to pull an image.
    pub const START_TIMEOUT: &str = "10min";

    /// The Lease that is called after the first workload, as far as a name may be long.
    pub fn lease_of(workload: &Workload) -> String {
        let kind = workload.kind.singular();
        let mut name = format!("wakeport-{kind}-{}", workload.name);
        name.truncate(LONGEST_NAME);
        name.trim_end_matches(['-', '.']).to_owned()
    }
}

/// How the API server is reached. Without either, as kubectl does it: by the credentials of the pod, or by a
/// kubeconfig.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Its URL.
    pub url: Option<String>,
    /// A folder with `token`, `ca.crt` and `namespace`.
    pub credentials: Option<PathBuf>,
}

/// How many pods a wake asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replicas {
    /// As many as there were before the last stop; 1 if that is not known.
    #[default]
    Remembered,
    /// So many.
    Exactly(u32),
}

impl FromStr for Replicas {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "remembered" => Ok(Self::Remembered),
            Ok(number) if (1..=i32::MAX as u32).contains(&number) => Ok(Self::Exactly(number)),
            _ => Err("write a number from 1 on, or `remembered`".into()),
        }
    }
}

/// Something with a scale.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Workload {
    /// What it is.
    pub kind: Kind,
    /// What it is called.
    pub name: String,
}

/// A kind of resource, as its API calls it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// `deployments`.
    pub plural: String,
    /// `apps`; empty for the oldest one, which has no name.
    pub group: String,
    /// `v1`; `None` is the version that the API server prefers.
    pub version: Option<String>,
}

impl Kind {
    fn of(plural: &str, group: &str) -> Self {
        Self {
            plural: plural.into(),
            group: group.into(),
            version: Some("v1".into()),
        }
    }

    /// As in an object's name.
    fn singular(&self) -> &str {
        match self.plural.as_str() {
            "deployments" => "deployment",
            "statefulsets" => "statefulset",
            "replicasets" => "replicaset",
            "replicationcontrollers" => "replicationcontroller",
            other => other,
        }
    }
}

/// A DNS subdomain (RFC 1123) has at most so many characters.
const LONGEST_NAME: usize = 253;

/// Whether the API server takes `text` for the name of an object: a DNS subdomain.
fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let part = |part: &str| {
        let bytes = part.as_bytes();
        let ends = bytes.first().zip(bytes.last());
        ends.is_some_and(|(first, last)| allowed(*first) && allowed(*last))
            && bytes.iter().all(|&b| allowed(b) || b == b'-')
    };
    text.len() <= LONGEST_NAME && text.split('.').all(part)
}

/// Reads the name of an object.
pub fn name(text: &str) -> Result<String, String> {
    match is_name(text) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "`{text}` cannot be the name of an object: it has lower-case letters, digits, `-` and `.`"
        )),
    }
}

impl FromStr for Workload {
    type Err = String;

    /// Takes `KIND/NAME` as kubectl does; other kinds are `PLURAL[.VERSION].GROUP/NAME`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = text.split_once('/').ok_or(
            "write KIND/NAME, as in `deployment/web`, `statefulset/db` or `rollouts.argoproj.io/web`",
        )?;
        Ok(Self {
            kind: kind.parse()?,
            name: self::name(name)?,
        })
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = |why: &str| Err(format!("`{text}` cannot be scaled to zero: {why}"));
        match text {
            "deployment" | "deployments" | "deploy" | "deployments.apps" => {
                return Ok(Self::of("deployments", "apps"));
            }
            "statefulset" | "statefulsets" | "sts" | "statefulsets.apps" => {
                return Ok(Self::of("statefulsets", "apps"));
            }
            "replicaset" | "replicasets" | "rs" | "replicasets.apps" => {
                return Ok(Self::of("replicasets", "apps"));
            }
            "replicationcontroller" | "replicationcontrollers" | "rc" => {
                return Ok(Self::of("replicationcontrollers", ""));
            }
            "daemonset" | "daemonsets" | "ds" | "daemonsets.apps" => {
                return refused(
                    "a DaemonSet has a pod on each node and no number of them; use a Deployment",
                );
            }
            "job" | "jobs" | "cronjob" | "cronjobs" | "cj" | "jobs.batch" | "cronjobs.batch" => {
                return refused("a Job runs to its end and serves no clients; use a Deployment");
            }
            "pod" | "pods" | "po" => {
                return refused(
                    "a pod has no number; name what it belongs to, as `deployment/web`",
                );
            }
            _ => (),
        }
        let (plural, rest) = text.split_once('.').ok_or_else(|| {
            format!(
                "`{text}` is not a known kind; write it with its group, as in `rollouts.argoproj.io/web`"
            )
        })?;
        let (version, group) = match rest.split_once('.') {
            Some((version, group)) if is_version(version) => (Some(version.to_owned()), group),
            _ => (None, rest),
        };
        if !is_name(plural) || !is_name(group) {
            return Err(format!("`{text}` is not PLURAL[.VERSION].GROUP"));
        }
        Ok(Self {
            plural: plural.into(),
            group: group.into(),
            version,
        })
    }
}

/// Whether it is a version of an API: `v1`, `v1alpha1`.
fn is_version(text: &str) -> bool {
    let mut rest = text.strip_prefix('v').unwrap_or_default().bytes();
    rest.next().is_some_and(|b| b.is_ascii_digit()) && rest.all(|b| b.is_ascii_alphanumeric())
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.group.as_str(), &self.version) {
            ("apps" | "", _) => f.write_str(self.singular()),
            (group, Some(version)) => write!(f, "{}.{version}.{group}", self.plural),
            (group, None) => write!(f, "{}.{group}", self.plural),
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// The ready pods of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServicePods {
    /// The Service.
    pub name: String,
    /// The name or the number of one of its ports.
    pub port: Option<String>,
    /// Without a port it is the one that is called as this listener, else the only one.
    pub listener: Option<String>,
}

impl ServicePods {
    /// The number of the port, if it is given by that. The Service itself knows what it is called.
    #[cfg(feature = "kubernetes")]
    pub fn port_number(&self) -> Option<u16> {
        self.port.as_deref()?.parse().ok()
    }
}

impl FromStr for ServicePods {
    type Err = String;

    /// Takes `NAME[:PORT]`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        };
        let is_port = |port: &str| match port.parse::<u16>() {
            Ok(number) => number > 0,
            Err(_) => {
                port.contains(|c: char| c.is_ascii_lowercase())
                    && port.len() <= 15
                    && is_name(port)
                    && !port.contains('.')
            }
        };
        if let Some(port) = port.filter(|port| !is_port(port)) {
            return Err(format!(
                "`{port}` is neither the number nor the name of a port of a Service"
            ));
        }
        Ok(Self {
            name: self::name(name)?,
            port: port.map(str::to_owned),
            listener: None,
        })
    }
}

impl fmt::Display for ServicePods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "service/{}", self.name)?;
        self.port
            .as_ref()
            .map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_read_as_kubectl_reads_them() {
        for (text, plural, group, version, shown) in [
            (
                "deployment/web",
                "deployments",
                "apps",
                Some("v1"),
                "deployment/web",
            ),
            (
                "deploy/web",
                "deployments",
                "apps",
                Some("v1"),
                "deployment/web",
            ),
            (
                "sts/db-1.x",
                "statefulsets",
                "apps",
                Some("v1"),
                "statefulset/db-1.x",
            ),
            (
                "rc/a",
                "replicationcontrollers",
                "",
                Some("v1"),
                "replicationcontroller/a",
            ),
            (
                "rollouts.argoproj.io/web",
                "rollouts",
                "argoproj.io",
                None,
                "rollouts.argoproj.io/web",
            ),
            (
                "rollouts.v1alpha1.argoproj.io/web",
                "rollouts",
                "argoproj.io",
                Some("v1alpha1"),
                "rollouts.v1alpha1.argoproj.io/web",
            ),
            (
                "widgets.v8.io/w",
                "widgets",
                "io",
                Some("v8"),
                "widgets.v8.io/w",
            ),
        ] {
            let workload: Workload = text.parse().expect(text);
            let Kind {
                plural: p,
                group: g,
                version: v,
            } = &workload.kind;
            assert_eq!(
                (p.as_str(), g.as_str(), v.as_deref()),
                (plural, group, version),
                "{text}"
            );
            assert_eq!(workload.to_string(), shown);
        }
    }

    #[test]
    fn what_cannot_be_scaled_to_zero_is_refused_with_the_reason() {
        for (text, why) in [
            ("daemonset/x", "a pod on each node"),
            ("job/x", "runs to its end"),
            ("cronjob/x", "runs to its end"),
            ("pod/x", "what it belongs to"),
            ("web", "KIND/NAME"),
            ("gizmo/x", "with its group"),
            ("deployment/", "lower-case"),
            ("deployment/Web", "lower-case"),
            ("deployment/a/b", "lower-case"),
            ("deployment/-a", "lower-case"),
            ("deployment/..", "lower-case"),
            ("a..b/x", "PLURAL"),
        ] {
            let error = text.parse::<Workload>().expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn replicas_are_a_number_or_what_is_remembered() {
        assert_eq!("remembered".parse(), Ok(Replicas::Remembered));
        assert_eq!("3".parse(), Ok(Replicas::Exactly(3)));
        for text in ["0", "-1", "", "2147483648", "many"] {
            assert!(text.parse::<Replicas>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_lease_is_called_after_the_workload_as_far_as_a_name_may_be_long() {
        let lease = |text: &str| Scale::lease_of(&text.parse().expect(text));
        assert_eq!(lease("deploy/web"), "wakeport-deployment-web");
        let long = lease(&format!("deploy/{}", "x".repeat(253)));
        assert!(is_name(&long) && long.len() == LONGEST_NAME, "{long}");
    }

    #[test]
    fn a_service_is_named_with_its_port() {
        for (text, name, port) in [
            ("web", "web", None),
            ("web:80", "web", Some("80")),
            ("web:http", "web", Some("http")),
        ] {
            let service: ServicePods = text.parse().expect(text);
            assert_eq!(
                (service.name.as_str(), service.port.as_deref()),
                (name, port)
            );
            assert_eq!(service.to_string(), format!("service/{text}"));
        }
        for text in [
            "",
            ":80",
            "web:",
            "web:0",
            "web:70000",
            "web:a.b",
            "Web",
            "a/b",
        ] {
            assert!(text.parse::<ServicePods>().is_err(), "{text}");
        }
    }
}
