//! Which listener's connections go to which target of which service.

use std::sync::Arc;

use crate::config::Config;
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
        let names: Vec<&str> = listeners.iter().map(|own| own.name.as_str()).collect();
        for (listener, owner) in listeners.iter().zip(config.owners(names.iter().copied())?) {
            let Some(index) = owner else {
                let name = &listener.name;
                tracing::warn!(
                    "listener `{name}` belongs to no service, so its connections are reset; write \
                     `listener = \"{name}\"` below one `[service.NAME]`"
                );
                routes.listeners.push(None);
                continue;
            };
            let target = config.services[index].target(&listener.name, &listener.address)?;
            let own = listeners
                .iter()
                .find(|own| reaches(&target, &target.ips(), &own.address));
            if let Some(own) = own {
                return Err(format!(
                    "target `{target}` is our own listener `{}` on {}; let the service listen somewhere else",
                    own.name, own.address
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
        let services = config.services.iter();
        for unused in services.flat_map(|service| service.unused_routes(&names)) {
            tracing::warn!("{unused}");
        }
        Ok(routes)
    }
}
