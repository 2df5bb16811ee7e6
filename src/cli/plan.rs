//! What was asked for, checked against the sockets that are there: which listener's clients go
//! where.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Fatal;
use crate::config::address::Bound;
use crate::config::{Config, Named, ServiceConfig};
use crate::net::dial::Target;
use crate::net::listen::{self, Inherited, ListenError, Listener};
use crate::net::reach::reaches;
use crate::session::Route;

/// Every listener with the place where its clients go.
#[derive(Debug)]
pub(super) struct Plan {
    /// The listeners that we have bound ourselves.
    pub(super) bound: Vec<Listener>,
    /// Where the clients of each listener go, the inherited ones first.
    pub(super) entrances: Vec<Route>,
    /// The targets; an entrance's door is an index into them.
    pub(super) targets: Vec<Arc<Target>>,
    /// The addresses that no target may have.
    pub(super) ours: Vec<SocketAddr>,
}

impl Plan {
    /// Binds what is to be bound, and ties every listener to its target.
    pub(super) fn new(config: &Config, inherited: &Inherited) -> Result<Self, Fatal> {
        let bound = match (
            inherited.listeners.is_empty(),
            config.process.listen.is_empty(),
        ) {
            (false, false) => return Err(ListenError::Both.into()),
            (true, true) => return Err(ListenError::NotActivated.into()),
            (false, true) => Vec::new(),
            (true, false) => listen::bind_all(&config.process.listen)?,
        };
        let listeners: Vec<&Listener> = inherited.listeners.iter().chain(&bound).collect();
        let names = listeners.iter().map(|listener| listener.name.as_str());
        let owners = config.owners(names).map_err(Fatal::config)?;
        let mut entrances = Vec::new();
        let mut targets: Vec<Arc<Target>> = Vec::new();
        for (listener, owner) in listeners.iter().zip(owners) {
            let target = target_of(listener, &config.services[owner])?;
            if let Some(own) = listeners
                .iter()
                .find(|own| reaches(&target.address, &target.address.ips(), &own.address))
            {
                return Err(Fatal::config(format!(
                    "target `{}` is our own listener `{}` on {}; let the service listen somewhere else",
                    target.address, own.name, own.address
                )));
            }
            let known = targets.iter().position(|other| **other == target);
            let door = known.unwrap_or_else(|| {
                targets.push(Arc::new(target));
                targets.len() - 1
            });
            let target = targets[door].clone();
            entrances.push(Route {
                listener: listener.name.as_str().into(),
                door,
                target,
            });
        }
        for Named { name, value } in &config.services[0].routes {
            let used = |name: &String| listeners.iter().any(|listener| listener.name == *name);
            if let Some(name) = name.as_ref().filter(|name| !used(name)) {
                tracing::warn!(
                    "no listener is called `{name}`, so `--to {name}={value}` is not used; see FileDescriptorName= in the .socket units"
                );
            }
        }
        let ours = listeners
            .iter()
            .filter_map(|listener| match listener.address {
                Bound::Tcp(address) => Some(address),
                Bound::Unix(_) => None,
            })
            .collect();
        Ok(Self {
            bound,
            entrances,
            targets,
            ours,
        })
    }
}

/// Where the clients of `listener` go.
fn target_of(listener: &Listener, config: &ServiceConfig) -> Result<Target, Fatal> {
    let name = &listener.name;
    let route = config.route(name).ok_or_else(|| {
        Fatal::config(format!(
            "listener `{name}` has no target; add `--to {name}=ADDR`"
        ))
    })?;
    let address = route.clone().with_port(listener.address.port());
    let address = address.ok_or_else(|| {
        Fatal::config(format!(
            "target `{route}` needs a port: listener `{name}` is a Unix socket and has none to lend"
        ))
    })?;
    Ok(Target { address })
}
