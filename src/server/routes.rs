//! Which listener's connections go to which target of which service.

use std::sync::Arc;

use crate::config::{Config, Named, ServiceConfig};
use crate::net::dial::Target;
use crate::net::listen::Listener;
use crate::net::reach::reaches;

/// The targets of each service, and where each listener leads.
#[derive(Clone, Debug)]
pub struct Routes {
    /// For each service, its targets.
    pub targets: Vec<Vec<Arc<Target>>>,
    /// For each listener, the index of a service and that of one of its targets.
    pub listeners: Vec<Option<(usize, usize)>>,
}

impl Routes {
    /// Ties every listener to its target; says in one line what is wrong.
    pub fn new(config: &Config, listeners: &[&Listener]) -> Result<Self, String> {
        let mut routes = Self {
            targets: vec![Vec::new(); config.services.len()],
            listeners: Vec::new(),
        };
        let names = listeners.iter().map(|listener| listener.name.as_str());
        for (listener, owner) in listeners.iter().zip(config.owners(names)?) {
            let Some(index) = owner else {
                let name = &listener.name;
                tracing::warn!(
                    "listener `{name}` belongs to no service, so its connections are reset; write \
                     `listener = \"{name}\"` below one `[service.NAME]`"
                );
                routes.listeners.push(None);
                continue;
            };
            let target = target_of(listener, &config.services[index])?;
            let own = listeners
                .iter()
                .find(|own| reaches(&target.address, &target.address.ips(), &own.address));
            if let Some(own) = own {
                return Err(format!(
                    "target `{}` is our own listener `{}` on {}; let the service listen somewhere else",
                    target.address, own.name, own.address
                ));
            }
            let targets = &mut routes.targets[index];
            let known = targets.iter().position(|other| **other == target);
            let target = known.unwrap_or_else(|| {
                targets.push(Arc::new(target));
                targets.len() - 1
            });
            routes.listeners.push(Some((index, target)));
        }
        warn_of_unused(config, listeners);
        Ok(routes)
    }
}

fn warn_of_unused(config: &Config, listeners: &[&Listener]) {
    let is_there = |name: &String| listeners.iter().any(|listener| listener.name == *name);
    for service in &config.services {
        for Named { name, value } in &service.routes {
            if let Some(name) = name.as_ref().filter(|name| !is_there(name)) {
                tracing::warn!(
                    "no listener is called `{name}`, so `--to {name}={value}` is not used; see \
                     FileDescriptorName= in the .socket units"
                );
            }
        }
    }
}

/// Where the connections of `listener` go.
fn target_of(listener: &Listener, config: &ServiceConfig) -> Result<Target, String> {
    let name = &listener.name;
    let route = config
        .route(name)
        .ok_or_else(|| format!("listener `{name}` has no target; add `--to {name}=ADDR`"))?;
    let address = route.clone().with_port(listener.address.port());
    let address = address.ok_or_else(|| {
        format!(
            "target `{route}` needs a port: listener `{name}` is a Unix socket and has none to lend"
        )
    })?;
    Ok(Target { address })
}
