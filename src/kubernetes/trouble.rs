//! What can go wrong with a call, and what is to be done about it. Pure.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::util::backoff::Backoff;

/// What a call is about, as its path and as a Role say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// `apps`; empty for the oldest one, which has no name.
    pub group: String,
    /// `v1`.
    pub version: String,
    /// `deployments`.
    pub plural: String,
    /// `scale`.
    pub part: Option<&'static str>,
    /// Where it lives; empty for what lives in none.
    pub namespace: String,
    /// One of them; otherwise all.
    pub name: Option<String>,
}

/// What is to be done, as a Role says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// GET of one.
    Get,
    /// GET of all.
    List,
    /// GET of what changes.
    Watch,
    /// POST.
    Create,
    /// PUT.
    Update,
    /// PATCH.
    Patch,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
        })
    }
}

impl Object {
    /// A group itself.
    pub fn group(group: &str) -> Self {
        Self {
            group: group.into(),
            version: String::new(),
            plural: String::new(),
            part: None,
            namespace: String::new(),
            name: None,
        }
    }

    /// Where the API server has it.
    pub fn path(&self, verb: Verb) -> String {
        if self.plural.is_empty() {
            return format!("/apis/{}", self.group);
        }
        let root = match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        let mut path = match self.namespace.as_str() {
            "" => format!("{root}/{}", self.plural),
            namespace => format!("{root}/namespaces/{namespace}/{}", self.plural),
        };
        // A LIST of one by its name is one of all, with a selector: only so can it be followed.
        let name = match verb {
            Verb::List | Verb::Watch | Verb::Create => None,
            Verb::Get | Verb::Update | Verb::Patch => self.name.as_deref(),
        };
        for part in [name, self.part].into_iter().flatten() {
            path.push('/');
            path.push_str(part);
        }
        path
    }

    fn resource(&self) -> String {
        match self.part {
            Some(part) => format!("{}/{part}", self.plural),
            None => self.plural.clone(),
        }
    }

    /// The line of a Role that allows these.
    pub fn rule(&self, verbs: &[Verb]) -> String {
        let (group, resource) = (&self.group, self.resource());
        let names = match &self.name {
            // That cannot be limited by name.
            Some(name) if !verbs.contains(&Verb::Create) => format!(", resourceNames: [{name}]"),
            _ => String::new(),
        };
        let verbs: Vec<_> = verbs.iter().map(Verb::to_string).collect();
        let verbs = verbs.join(", ");
        format!("{{apiGroups: [\"{group}\"], resources: [{resource}]{names}, verbs: [{verbs}]}}")
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.plural.is_empty() {
            return write!(f, "the API group `{}`", self.group);
        }
        write!(f, "{}", self.resource())?;
        if let Some(name) = &self.name {
            write!(f, " `{name}`")?;
        }
        match self.namespace.as_str() {
            "" => Ok(()),
            namespace => write!(f, " in namespace `{namespace}`"),
        }
    }
}

/// Why a call has not succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It may succeed later; whether it was carried out is not known.
    Away {
        /// One line.
        why: String,
        /// What the API server asks for.
        after: Option<Duration>,
    },
    /// The credentials are not valid, or not any more.
    Unauthorized(String),
    /// What was read before has changed since.
    Conflict,
    /// What was read before is too old to go on from.
    Gone,
    /// There is no such object.
    Missing(String),
    /// It does not succeed before an administrator changes something: one line, with the remedy.
    Final(String),
}

impl Trouble {
    /// No answer, or none that is understood.
    pub fn away(why: impl Into<String>) -> Self {
        Self::Away {
            why: why.into(),
            after: None,
        }
    }

    /// What an answer with this status comes to. `message` is what the API server says.
    pub fn of(
        (verb, object): (Verb, &Object),
        status: u16,
        message: &str,
        after: Option<Duration>,
    ) -> Self {
        let message = shortened(message);
        let cannot = |why: &str| format!("cannot {verb} {object}: {why}");
        match status {
            401 => Self::Unauthorized(cannot(&format!(
                "the API server does not accept the credentials (401): {message}"
            ))),
            403 => Self::Final(cannot(&format!(
                "forbidden; the Role needs {} ({message})",
                object.rule(&[verb])
            ))),
            404 => Self::Missing(cannot(&format!("there is none ({message})"))),
            409 => Self::Conflict,
            410 => Self::Gone,
            429 | 500..=599 => Self::Away {
                why: cannot(&format!("the API server answers with {status}: {message}")),
                after,
            },
            408 => Self::away(cannot(&format!("the API server answers with {status}"))),
            _ => Self::Final(cannot(&format!(
                "the API server refuses it ({status}): {message}"
            ))),
        }
    }

    /// Whether another attempt may succeed, with nothing else changed.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Away { .. } | Self::Unauthorized(_) | Self::Conflict | Self::Gone => true,
            Self::Missing(_) | Self::Final(_) => false,
        }
    }

    /// What the API server asks for.
    pub fn after(&self) -> Option<Duration> {
        match self {
            Self::Away { after, .. } => *after,
            Self::Unauthorized(_)
            | Self::Conflict
            | Self::Gone
            | Self::Missing(_)
            | Self::Final(_) => None,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away { why, .. }
            | Self::Unauthorized(why)
            | Self::Missing(why)
            | Self::Final(why) => f.write_str(why),
            Self::Conflict => f.write_str("the object has changed meanwhile"),
            Self::Gone => f.write_str("the version to go on from is too old"),
        }
    }
}

/// A line is not to be filled by what a webhook says.
pub fn shortened(text: &str) -> String {
    const MOST: usize = 300;
    let mut words = text.split_whitespace();
    let mut line = words.next().unwrap_or_default().to_owned();
    for word in words {
        line.push(' ');
        line.push_str(word);
    }
    match line.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

/// The pauses between attempts.
#[derive(Debug)]
pub struct Retry {
    backoff: Backoff,
    random: RandomState,
    attempts: u64,
}

/// What an API server may ask for at most.
const LONGEST_AFTER: Duration = Duration::from_secs(30);

impl Default for Retry {
    fn default() -> Self {
        Self {
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
            random: RandomState::new(),
            attempts: 0,
        }
    }
}

impl Retry {
    /// The pause before the next attempt: what the API server asks for, or one that grows; a part of it is
    /// left to chance, or all that lost the API server would come back at once.
    pub fn pause(&mut self, after: Option<Duration>) -> Duration {
        let pause = self.backoff.pause();
        if let Some(after) = after {
            return after
                .min(LONGEST_AFTER)
                .max(pause.min(Duration::from_millis(100)));
        }
        self.attempts += 1;
        let chance = self.random.hash_one(self.attempts) % 1000;
        pause.mul_f64(0.5 + chance as f64 / 2000.0)
    }

    /// One has succeeded.
    pub fn reset(&mut self) {
        self.backoff.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale() -> Object {
        Object {
            group: "apps".into(),
            version: "v1".into(),
            plural: "deployments".into(),
            part: Some("scale"),
            namespace: "shop".into(),
            name: Some("web".into()),
        }
    }

    #[test]
    fn an_object_has_its_path_and_its_line_in_a_role() {
        assert_eq!(
            scale().path(Verb::Get),
            "/apis/apps/v1/namespaces/shop/deployments/web/scale"
        );
        assert_eq!(
            scale().rule(&[Verb::Patch]),
            "{apiGroups: [\"apps\"], resources: [deployments/scale], resourceNames: [web], verbs: [patch]}"
        );
        let pods = Object {
            group: String::new(),
            plural: "pods".into(),
            part: None,
            name: None,
            ..scale()
        };
        assert_eq!(pods.path(Verb::List), "/api/v1/namespaces/shop/pods");
        assert_eq!(
            pods.rule(&[Verb::List]),
            "{apiGroups: [\"\"], resources: [pods], verbs: [list]}"
        );
    }

    #[test]
    fn one_object_is_listed_among_all_and_allowed_by_its_name() {
        let lease = Object {
            part: None,
            ..scale()
        };
        for verb in [Verb::List, Verb::Watch] {
            assert_eq!(
                lease.path(verb),
                "/apis/apps/v1/namespaces/shop/deployments"
            );
            assert!(lease.rule(&[verb]).contains("resourceNames: [web]"));
        }
        assert_eq!(
            lease.path(Verb::Update),
            "/apis/apps/v1/namespaces/shop/deployments/web"
        );
        assert!(!lease.rule(&[Verb::Create]).contains("resourceNames"));
    }

    #[test]
    fn each_status_says_whether_another_attempt_may_succeed() {
        let of = |status| Trouble::of((Verb::Patch, &scale()), status, "they\nsay", None);
        for status in [408, 429, 500, 502, 503, 504] {
            let trouble = of(status);
            assert!(
                matches!(trouble, Trouble::Away { .. }) && trouble.is_passing(),
                "{status}"
            );
        }
        for status in [400, 403, 405, 415, 422] {
            let trouble = of(status);
            assert!(
                matches!(trouble, Trouble::Final(_)) && !trouble.is_passing(),
                "{status}"
            );
            assert!(
                trouble
                    .to_string()
                    .contains("deployments/scale `web` in namespace `shop`")
            );
            assert!(trouble.to_string().contains("they say"), "{trouble}");
        }
        assert!(
            of(403)
                .to_string()
                .contains("resourceNames: [web], verbs: [patch]")
        );
        assert_eq!((of(409), of(410)), (Trouble::Conflict, Trouble::Gone));
        assert!(matches!(of(404), Trouble::Missing(_)));
        assert!(matches!(of(401), Trouble::Unauthorized(_)));
    }

    #[test]
    fn pauses_grow_with_chance_and_follow_what_the_api_server_asks_for() {
        let mut retry = Retry::default();
        let mut least = 50;
        for _ in 0..10 {
            let pause = retry.pause(None).as_millis();
            assert!((least..=2 * least).contains(&pause), "{pause} {least}");
            least = (2 * least).min(2500);
        }
        assert_eq!(
            retry.pause(Some(Duration::from_secs(2))),
            Duration::from_secs(2)
        );
        assert_eq!(retry.pause(Some(Duration::MAX)), LONGEST_AFTER);
        assert!(retry.pause(Some(Duration::ZERO)) > Duration::ZERO);
        retry.reset();
        assert!(retry.pause(None).as_millis() <= 100);
    }

    #[test]
    fn a_long_message_is_cut_between_two_characters() {
        assert_eq!(shortened(" a\n b\t"), "a b");
        assert_eq!(shortened(&"ü".repeat(400)).chars().count(), 301);
    }
}
