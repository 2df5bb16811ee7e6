//! Where the connections of a listener go, and the requests that come over them.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::watch;

use super::Route;
use crate::config::Liveness;
use crate::config::host::Table;
use crate::util::per_thread::PerThread;

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

/// Says where a listener leads.
#[derive(Debug)]
pub struct Leader {
    lead: Arc<PerThread<RwLock<Lead>>>,
    changed: watch::Sender<()>,
}

/// Where the listener leads by which a connection has come, also after a reload. Each request asks, so every
/// thread has that by itself.
#[derive(Clone, Debug)]
pub struct Leads {
    lead: Arc<PerThread<RwLock<Lead>>>,
    changed: watch::Receiver<()>,
}

/// The listener is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

impl Leader {
    /// It leads there.
    pub fn new(lead: &Lead) -> Self {
        Self {
            lead: Arc::new(PerThread::new(|| RwLock::new(lead.clone()))),
            changed: watch::Sender::new(()),
        }
    }

    /// Changes where it leads. What looked before has done what it does by that when this returns.
    pub fn change(&self, change: impl Fn(&mut Lead)) {
        for part in self.lead.all() {
            change(&mut part.write().unwrap_or_else(PoisonError::into_inner));
        }
        self.changed.send_replace(());
    }

    /// Where it leads. It does not change before this is dropped.
    pub fn look(&self) -> RwLockReadGuard<'_, Lead> {
        look(&self.lead)
    }

    /// Waits until nothing is held.
    pub async fn released(&self) {
        // What it follows is here, so it is not gone.
        let _ = self.follow().released().await;
    }

    /// Follows it.
    pub fn follow(&self) -> Leads {
        Leads {
            lead: self.lead.clone(),
            changed: self.changed.subscribe(),
        }
    }
}

impl Leads {
    /// Where it leads. It does not change before this is dropped.
    pub fn look(&self) -> RwLockReadGuard<'_, Lead> {
        look(&self.lead)
    }

    /// Waits until nothing is held.
    pub async fn released(&mut self) -> Result<(), Gone> {
        loop {
            self.changed.mark_unchanged();
            if self.look().held.is_empty() {
                return Ok(());
            }
            self.changed.changed().await.map_err(|_| Gone)?;
        }
    }
}

fn look(lead: &PerThread<RwLock<Lead>>) -> RwLockReadGuard<'_, Lead> {
    lead.own().read().unwrap_or_else(PoisonError::into_inner)
}
