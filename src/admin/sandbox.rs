//! What the sandbox of a service hides from it, and which connections it refuses.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::config::access::Networks;

/// The settings of a service by which a target can be out of its reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// What covers the files of the machine.
    pub mounts: Vec<Mount>,
    /// `RestrictAddressFamilies=`.
    pub families: Selection,
    /// `RestrictNetworkInterfaces=`.
    pub interfaces: Selection,
    /// The lists of addresses of the service and of each slice above it, from within.
    pub filters: Vec<Filter>,
}

/// The lists of a unit. What a slice denies is denied below, whatever is allowed there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The unit.
    pub unit: String,
    /// `IPAddressAllow=`, which counts for what is below as well.
    pub allow: Vec<Networks>,
    /// `IPAddressDeny=`, likewise.
    pub deny: Vec<Networks>,
}

/// A setting that refuses a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its name.
    pub setting: &'static str,
    /// Whose it is, unless it is the service's own.
    pub slice: Option<String>,
    /// What to allow.
    pub allow: String,
}

/// Only these words, or all but these.
pub type Selection = (bool, Vec<String>);

/// What is mounted in a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub at: PathBuf,
    /// The directory of the machine that is seen there; none is.
    pub from: Option<PathBuf>,
    /// Nothing can be mounted below.
    pub closed: bool,
    /// What it does, and what undoes that.
    pub text: (String, String),
}

impl Sandbox {
    /// That of `wakeport@.service` as it is installed.
    pub fn installed() -> Self {
        let mut sandbox = Self::default();
        sandbox.hide_home(false);
        sandbox.hide_tmp();
        sandbox
    }

    /// `ProtectHome=`.
    pub fn hide_home(&mut self, closed: bool) {
        let text = ("the sandbox hides home directories", "ProtectHome=no");
        for at in ["/home", "/root", "/run/user"] {
            self.mount(at, None, closed, text);
        }
    }

    /// `PrivateTmp=`.
    pub fn hide_tmp(&mut self) {
        let text = ("the sandbox has a /tmp of its own", "PrivateTmp=no");
        for at in ["/tmp", "/var/tmp"] {
            self.mount(at, None, false, text);
        }
    }

    /// Mounts `from`, or nothing, at a path.
    pub fn mount(&mut self, at: &str, from: Option<String>, closed: bool, text: (&str, &str)) {
        self.mounts.push(Mount {
            at: at.into(),
            from: from.map(PathBuf::from),
            closed,
            text: (text.0.to_owned(), text.1.to_owned()),
        });
    }

    /// The mount that a path is on, if it is on one of the sandbox.
    pub fn above(&self, path: &Path) -> Option<&Mount> {
        let mounts = self.mounts.iter();
        let above = mounts.filter(|mount| path.starts_with(&mount.at));
        above.max_by_key(|it| (it.closed, it.at.components().count(), it.from.is_some()))
    }

    /// The setting that refuses connections to an address; none is a Unix socket's.
    pub fn refuses(&self, ip: Option<IpAddr>) -> Option<Refusal> {
        let refusal = |setting, allow: String| Refusal {
            setting,
            slice: None,
            allow,
        };
        let family = match ip {
            None => "AF_UNIX",
            Some(IpAddr::V4(_)) => "AF_INET",
            Some(IpAddr::V6(_)) => "AF_INET6",
        };
        let lacks = |(only, words): &Selection, word| words.iter().any(|it| it == word) != *only;
        if lacks(&self.families, family) {
            return Some(refusal("RestrictAddressFamilies", family.to_owned()));
        }
        let ip = ip?;
        let contain = |list: &[Networks]| list.iter().any(|networks| networks.contain(ip));
        let (mut denied, mut allowed) = (false, false);
        for (level, filter) in self.filters.iter().enumerate().rev() {
            denied |= contain(&filter.deny);
            allowed |= contain(&filter.allow);
            if denied && !allowed {
                return Some(Refusal {
                    slice: (level > 0).then(|| filter.unit.clone()),
                    ..refusal("IPAddressDeny", ip.to_string())
                });
            }
        }
        let is_refused = ip.is_loopback() && lacks(&self.interfaces, "lo");
        is_refused.then(|| refusal("RestrictNetworkInterfaces", "lo".to_owned()))
    }
}
