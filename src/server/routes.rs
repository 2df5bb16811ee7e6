//! Which listener's connections go to which target of which service.

use std::sync::Arc;

use crate::config::host::{Table, Twice};
use crate::config::{Config, hosts};
use crate::net::dial::Target;
use crate::net::listen::Listener;
use crate::net::reach::reaches;

/// The targets of each service, and where each listener leads.
#[derive(Clone, Debug)]
pub struct Routes {
    /// For each service, its targets.
    pub targets: Vec<Vec<Arc<Target>>>,
    /// Where each listener leads.
    pub listeners: Vec<Places>,
}

/// Where a listener leads: each place is the index of a service, and that of one of its targets.
#[derive(Clone, Debug)]
pub enum Places {
    /// Its connections are reset.
    Nowhere,
    /// Its connections go there.
    To((usize, usize)),
    /// The requests on its connections go there.
    ByHost(Table<(usize, usize)>),
    /// Its connections, which are TLS, go there.
    ByName(Table<(usize, usize)>),
}

impl Routes {
    /// Ties every listener to its target; says in one line what is wrong.
    pub fn new(config: &Config, listeners: &[&Listener]) -> Result<Self, String> {
        let mut routes = Self {
            targets: vec![Vec::new(); config.services.len()],
            listeners: Vec::new(),
        };
        let names: Vec<&str> = listeners.iter().map(|own| own.name.as_str()).collect();
        for (listener, owners) in listeners.iter().zip(config.owners(names.iter().copied())?) {
            let mut places = Vec::new();
            for &index in &owners {
                places.push((index, routes.target(config, index, listener, listeners)?));
            }
            routes.listeners.push(match places[..] {
                [] => {
                    let name = &listener.name;
                    tracing::warn!(
                        "listener `{name}` belongs to no service, so its connections are reset; write \
                         `listener = \"{name}\"` below one `[service.NAME]`"
                    );
                    Places::Nowhere
                }
                [place] if !config.services[place.0].admission.is_by_host() => Places::To(place),
                [(first, _), ..] => {
                    let table = hosts(&owners, &config.services).map_err(|twice| {
                        let Twice { host, path, .. } = twice;
                        format!("host `{host}` with path `{path}` is that of two services")
                    })?;
                    let place = |index| places.iter().find(|place| place.0 == index);
                    let table = table.filter_map(|_, index| place(index).copied());
                    match config.services[first].admission.tls {
                        Some(_) => Places::ByName(table),
                        None => Places::ByHost(table),
                    }
                }
            });
        }
        let services = config.services.iter();
        for unused in services.flat_map(|service| service.unused_routes(&names)) {
            tracing::warn!("{unused}");
        }
        Ok(routes)
    }

    /// The index of a service's target for a listener.
    fn target(
        &mut self,
        config: &Config,
        service: usize,
        listener: &Listener,
        all: &[&Listener],
    ) -> Result<usize, String> {
        let target = config.services[service].target(&listener.name, &listener.address)?;
        let own = all
            .iter()
            .find(|own| reaches(&target, &target.ips(), &own.address));
        if let Some(own) = own {
            return Err(format!(
                "target `{target}` is our own listener `{}` on {}; let the service listen somewhere else",
                own.name, own.address
            ));
        }
        let targets = &mut self.targets[service];
        let known = targets.iter().position(|other| **other == target);
        Ok(known.unwrap_or_else(|| {
            targets.push(Arc::new(target));
            targets.len() - 1
        }))
    }
}
