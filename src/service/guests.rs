//! Who is here, from coming in until being gone, and how far each of them is.

use std::collections::HashMap;

use super::Ticket;

/// How far somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Came in, and may turn out to be no client.
    Knocking,
    /// Waits to be let through.
    Waiting,
    /// Was let through.
    Connected,
    /// Was let through before, could not reach the target, and waits again.
    Returned,
    /// Was turned away, and still has to be reset by its session.
    Leaving,
}

/// Everybody who is here.
#[derive(Debug, Default)]
pub(super) struct ConnectionTable {
    stages: HashMap<Ticket, Stage>,
    connected: usize,
}

impl ConnectionTable {
    /// Whether nobody is here at all, in whatever stage.
    pub(super) fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// How many were let through.
    pub(super) fn connected(&self) -> usize {
        self.connected
    }

    pub(super) fn knocks(&mut self, ticket: Ticket) {
        self.stages.insert(ticket, Stage::Knocking);
    }

    pub(super) fn waits(&mut self, ticket: Ticket) {
        self.stages.insert(ticket, Stage::Waiting);
    }

    /// It is let through; says whether for the first time.
    pub(super) fn is_admitted(&mut self, ticket: Ticket) -> bool {
        self.connected += 1;
        self.stages.insert(ticket, Stage::Connected) != Some(Stage::Returned)
    }

    /// It was let through in vain.
    pub(super) fn returns(&mut self, ticket: Ticket) {
        if self.stages.insert(ticket, Stage::Returned) == Some(Stage::Connected) {
            self.connected -= 1;
        }
    }

    pub(super) fn is_turned_away(&mut self, ticket: Ticket) {
        self.stages.insert(ticket, Stage::Leaving);
    }

    /// It is gone; says whether it was let through.
    pub(super) fn leaves(&mut self, ticket: Ticket) -> bool {
        let was_connected = self.stages.remove(&ticket) == Some(Stage::Connected);
        self.connected -= usize::from(was_connected);
        was_connected
    }
}
