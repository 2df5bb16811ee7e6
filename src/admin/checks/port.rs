//! The addresses that wakeport listens on, and how many clients they can take.

use std::net::IpAddr;

use crate::admin::Finding;
use crate::admin::system::{Holder, Listening, Subject};
use crate::config::address::Bound;

/// A limit below this one admits fewer clients than one expects.
const FEW_FILES: u64 = 1024;

/// As in `wakeport run`: descriptors that are not clients'.
const SPARE_FILES: u64 = 64;

/// What has the address that wakeport is to listen on: one of `units`, which are woken by
/// `service`, or something else. Our own `sockets` may have it.
pub fn taken(
    wanted: &Bound,
    listening: &[Listening],
    units: &[String],
    sockets: &[String],
    service: &str,
) -> Option<Finding> {
    let there = listening.iter().find(|there| {
        let ours = matches!(&there.holder, Holder::Unit(unit) if sockets.contains(unit));
        overlap(wanted, &there.at) && !ours
    })?;
    let at = &there.at;
    Some(Finding::error(match &there.holder {
        Holder::Unit(unit) if units.contains(unit) => {
            let elsewhere = match wanted {
                Bound::Tcp(_) | Bound::Udp(_) | Bound::Zoned(..) => format!(
                    "another port (then `--to` that), a Unix socket (`--to /PATH`), or a network that only wakeport reaches, with `--listen` on a single address: PrivateNetwork=yes in both, JoinsNamespaceOf={service} in `{unit}`, JoinsNamespaceOf={unit} in `{service}`"
                ),
                Bound::Unix(_) => "another path (then `--to` that)".to_owned(),
            };
            format!("`{unit}` itself listens on {at}; move it to {elsewhere}")
        }
        holder @ (Holder::Unit(_) | Holder::Program(_) | Holder::User(_) | Holder::Unknown) => {
            format!("{at} is in use by {holder}; stop it, or give `--listen` another address")
        }
    }))
}

/// Whether two sockets cannot both listen. An IPv6 one for every address takes the IPv4 ones too.
pub fn overlap(one: &Bound, other: &Bound) -> bool {
    match (one, other) {
        (Bound::Unix(one), Bound::Unix(other)) => return one == other,
        (Bound::Zoned(_, one), Bound::Zoned(_, other)) if one != other => return false,
        _ => (),
    }
    let both = match (one.udp(), other.udp()) {
        (None, None) => one.tcp().zip(other.tcp()),
        (one, other) => one.zip(other),
    };
    both.is_some_and(|(one, other)| {
        let (a, b) = (one.ip(), other.ip());
        let everywhere =
            |ip: IpAddr, other: IpAddr| ip.is_unspecified() && (ip.is_ipv6() || other.is_ipv4());
        one.port() == other.port() && (a == b || everywhere(a, b) || everywhere(b, a))
    })
}

/// Without a login of its user, a user's manager ends, and so does everything in it.
pub fn linger(linger: Option<bool>) -> Option<Finding> {
    (linger == Some(false)).then(|| {
        Finding::warning(
            "the ports are open only while you are logged in; `loginctl enable-linger` keeps them open",
        )
    })
}

/// Whether as many files may be open as clients are admitted.
pub fn open_files(subject: &Subject) -> Option<Finding> {
    let clients = subject.open_files.saturating_sub(SPARE_FILES) / 2;
    let wanted = subject.config.process.limits.max_connections;
    match wanted.map(|wanted| wanted as u64) {
        Some(wanted) if wanted > clients => Some(Finding::warning(format!(
            "`--max-connections {wanted}` needs more open files than the limit of {}, which is enough for {clients}; raise LimitNOFILE=",
            subject.open_files
        ))),
        None if subject.open_files < FEW_FILES => Some(Finding::warning(format!(
            "the limit of {} open files is enough for {clients} clients at once; raise LimitNOFILE=",
            subject.open_files
        ))),
        Some(_) | None => None,
    }
}
