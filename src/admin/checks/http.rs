//! What makes requests wake, and what is told the target of their clients.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::admin::{Finding, in_a_row};
use crate::config::address::{Bound, Peer};
use crate::config::{Http, ServiceConfig};

/// What is wrong with the requests of `service`, whose listeners are among `all`, by name and address.
pub fn requests(all: &[(&str, &Bound)], service: &ServiceConfig) -> Vec<Finding> {
    let Some(http) = &service.admission.http else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    let mut warning = |text: String| findings.push(Finding::warning(text));
    let paths: Vec<_> = http.hosts.iter().map(|(_, path)| path.clone()).collect();
    if http.quiet.is_all(&paths) {
        warning(
            "no request can wake it: `--quiet`, `--wake-only` and `--path` leave none that may; let one of them have less"
                .to_owned(),
        );
    }
    let template = http.page.as_ref().and_then(|page| page.template.as_ref());
    if let Some(template) = template {
        for word in template.unknown() {
            let known = crate::config::WaitingPage::WORDS.map(|word| format!("{{{{{word}}}}}"));
            warning(format!(
                "the waiting page `{}` has `{{{{{word}}}}}`, which is shown as it is; there are {}",
                template.path.display(),
                in_a_row(&known)
            ));
        }
    }
    let own = all.iter().filter(|(name, _)| service.owns(name));
    let own: Vec<_> = own.map(|(_, at)| *at).collect();
    // With a PROXY header, the address of the connection is not the one that is trusted.
    if !service.admission.accept_proxy {
        findings.extend(trust(&own, http));
    }
    if service.send_proxy.is_some() {
        findings.push(Finding::note(
            "`--send-proxy` is about one connection, so each request has one of its own to the target; X-Forwarded-For tells it the client as well: let it read that, and remove `--send-proxy`",
        ));
    }
    findings
}

/// Whether what proxies say of their clients comes from those that may say it.
fn trust(own: &[&Bound], http: &Http) -> Option<Finding> {
    let is_loopback = |at: &&&Bound| at.tcp().is_some_and(|tcp| tcp.ip().is_loopback());
    let local = own.iter().find(is_loopback);
    let open = own.iter().find(|at| at.tcp().is_some() && !is_loopback(at));
    let localhost: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let trusts = |ip: &IpAddr| http.trust.admits(Peer::Tcp((*ip, 0).into()));
    match (local, open) {
        (_, Some(at)) if http.trust.admits_all() => Some(Finding::warning(format!(
            "`--trust` has every address, and other machines can connect to {at}, so that any client can claim to be another one in X-Forwarded-For; name the proxies in front alone"
        ))),
        (Some(at), None) if !localhost.iter().any(trusts) => Some(Finding::warning(format!(
            "only this machine can connect to {at}, and `--trust` does not have it, so that what a proxy in front says of its clients is removed; add `--trust localhost`"
        ))),
        _ => None,
    }
}
