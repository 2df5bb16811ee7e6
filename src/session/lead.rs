//! Where the connections of a listener go, and the requests that come over them.

use std::sync::Arc;

use tokio::sync::watch;

use super::Route;
use crate::config::Liveness;
use crate::config::host::Table;

/// Where a listener leads, until that changes.
#[derive(Clone, Debug)]
pub struct Lead {
    /// Without a way, connections are reset.
    pub way: Option<Way>,
    /// The connections of these stay in the backlog until it is known where they go from now on, and
    /// their requests wait.
    pub held: Vec<Arc<Route>>,
}

/// Where connections go.
#[derive(Clone, Debug)]
pub enum Way {
    /// All of them by one route.
    Whole(Arc<Route>),
    /// Each request by one of these.
    ByHost(Arc<Table<Arc<Route>>>),
    /// Each connection by one of these, by the name in its ClientHello.
    ByName(Arc<Table<Arc<Route>>>),
}

impl Lead {
    /// This way.
    pub fn to(way: Option<Way>) -> Self {
        let held = Vec::new();
        Self { way, held }
    }

    /// Whether what goes by this route is held.
    pub fn holds(&self, route: &Arc<Route>) -> bool {
        self.held.iter().any(|held| Arc::ptr_eq(held, route))
    }
}

impl Way {
    /// How its clients' connections are watched.
    pub fn liveness(&self) -> Option<Liveness> {
        self.first().map(|route| route.context.liveness)
    }

    /// The route of this service, if it has one.
    pub fn of(&self, service: &str) -> Option<Arc<Route>> {
        let mut routes = self.routes();
        routes.find(|route| &*route.service == service).cloned()
    }

    /// A route, if there is any.
    pub fn first(&self) -> Option<&Arc<Route>> {
        match self {
            Self::Whole(route) => Some(route),
            Self::ByHost(table) | Self::ByName(table) => table.all().next(),
        }
    }

    /// All routes.
    pub fn routes(&self) -> Box<dyn Iterator<Item = &Arc<Route>> + '_> {
        match self {
            Self::Whole(route) => Box::new(std::iter::once(route)),
            Self::ByHost(table) | Self::ByName(table) => Box::new(table.all()),
        }
    }
}

/// Where the listener leads by which a connection has come, also after a reload.
pub type Leads = watch::Receiver<Lead>;
