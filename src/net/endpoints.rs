//! The addresses that targets have which are not looked up by name, and how many connections go to each: the
//! pods of a Service. What watches them writes here; what dials reads.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use crate::config::kubernetes::ServicePods;
use crate::util::lock::locked;

/// Of each Service: its addresses, or why there are none.
#[derive(Clone, Debug, Default)]
pub struct Endpoints(Arc<Mutex<HashMap<ServicePods, Addresses>>>);

#[derive(Debug, Default)]
struct Addresses {
    ready: Vec<SocketAddr>,
    /// Connections to each address, also to those that are not ready any more.
    used: HashMap<SocketAddr, usize>,
    why_none: String,
}

/// Counts a connection to an address, as long as it lives.
#[derive(Debug)]
pub struct InUse {
    endpoints: Endpoints,
    service: ServicePods,
    address: SocketAddr,
}

impl Endpoints {
    /// These are ready now, and no others.
    pub fn set(&self, service: &ServicePods, ready: Vec<SocketAddr>) {
        locked(&self.0).entry(service.clone()).or_default().ready = ready;
    }

    /// Why none is ready, for those that wait for one.
    pub fn explain(&self, service: &ServicePods, why: &str) {
        let mut all = locked(&self.0);
        why.clone_into(&mut all.entry(service.clone()).or_default().why_none);
    }

    /// Whether one is ready.
    pub fn is_ready(&self, service: &ServicePods) -> bool {
        locked(&self.0)
            .get(service)
            .is_some_and(|known| !known.ready.is_empty())
    }

    /// Those that are ready, the one with the fewest connections first, which has one more from now on. If none
    /// is: why.
    pub fn order(&self, service: &ServicePods) -> Result<(Vec<SocketAddr>, InUse), String> {
        let mut all = locked(&self.0);
        let known = all.entry(service.clone()).or_default();
        let used = |address: &SocketAddr| known.used.get(address).copied().unwrap_or_default();
        let mut order = known.ready.clone();
        order.sort_by_key(used);
        let Some(&address) = order.first() else {
            let why = match known.why_none.as_str() {
                "" => String::new(),
                why => format!(" ({why})"),
            };
            return Err(format!("no pod is ready{why}"));
        };
        *known.used.entry(address).or_default() += 1;
        let in_use = InUse {
            endpoints: self.clone(),
            service: service.clone(),
            address,
        };
        Ok((order, in_use))
    }

    fn count(&self, service: &ServicePods, address: SocketAddr, change: isize) {
        let mut all = locked(&self.0);
        let Some(known) = all.get_mut(service) else {
            return;
        };
        let used = known.used.entry(address).or_default();
        *used = used.saturating_add_signed(change);
        if *used == 0 {
            known.used.remove(&address);
        }
    }
}

impl InUse {
    /// It is a connection to another address after all.
    pub fn moved(mut self, address: SocketAddr) -> Self {
        if self.address != address {
            self.endpoints.count(&self.service, self.address, -1);
            self.endpoints.count(&self.service, address, 1);
            self.address = address;
        }
        self
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.endpoints.count(&self.service, self.address, -1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_with_the_fewest_connections_goes_first() {
        let service: ServicePods = "web:80".parse().unwrap();
        let [a, b]: [SocketAddr; 2] = ["192.0.2.1:1", "192.0.2.2:1"].map(|it| it.parse().unwrap());
        let endpoints = Endpoints::default();
        endpoints.explain(&service, "web-0: Unschedulable");
        let none = endpoints.order(&service).map(drop);
        assert_eq!(none, Err("no pod is ready (web-0: Unschedulable)".into()));
        endpoints.set(&service, vec![a, b]);
        let order = || endpoints.order(&service).expect("two are ready");
        let (first, on_a) = order();
        assert_eq!(first, [a, b]);
        let (second, on_b) = order();
        assert_eq!(second, [b, a]);
        // The first did not answer: the connection goes to the other one.
        let on_b = on_b.moved(a);
        assert_eq!(order().0, [b, a]);
        drop((on_a, on_b));
        assert_eq!(order().0, [a, b]);
        // One that goes keeps its count, should it come back.
        let (_, on_a) = order();
        endpoints.set(&service, vec![b]);
        endpoints.set(&service, vec![a, b]);
        assert_eq!(order().0, [b, a]);
        drop(on_a);
        assert!(endpoints.is_ready(&service));
    }
}
