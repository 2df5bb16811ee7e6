//! STATUS= of the process: that of its service, or a summary of several.

use std::sync::{Arc, Mutex};

use crate::core::lifecycle::State;
use crate::report::record::RecordedState;
use crate::systemd::notify::Notifier;
use crate::util::lock::locked;

/// What all services say.
#[derive(Clone, Debug)]
pub(super) struct StatusLine(Arc<Mutex<Line>>);

#[derive(Debug)]
struct Line {
    notifier: Notifier,
    /// Each service's state and text; `None` is for one that is gone.
    services: Vec<Option<(&'static str, String)>>,
    said: String,
}

/// The order in which states are counted.
const STATES: [&str; 7] = [
    "failed", "waking", "awake", "cooling", "frozen", "stopping", "asleep",
];

impl StatusLine {
    /// Nothing yet; it is said to `notifier`.
    pub(super) fn new(notifier: Notifier) -> Self {
        Self(Arc::new(Mutex::new(Line {
            notifier,
            services: Vec::new(),
            said: String::new(),
        })))
    }

    /// A place for one more service.
    pub(super) fn add(&self) -> usize {
        let services = &mut locked(&self.0).services;
        services.push(Some(("asleep", String::new())));
        services.len() - 1
    }

    /// What a service says.
    pub(super) fn say(&self, place: usize, text: &str, state: State) {
        let mut line = locked(&self.0);
        let state = RecordedState::from(state).name();
        line.services[place] = Some((state, text.to_owned()));
        line.publish();
    }

    /// A service is gone.
    pub(super) fn remove(&self, place: usize) {
        let mut line = locked(&self.0);
        line.services[place] = None;
        line.publish();
    }
}

impl Line {
    fn publish(&mut self) {
        let text = self.text();
        if text != self.said {
            self.notifier.status(&text);
            self.said = text;
        }
    }

    fn text(&self) -> String {
        let services: Vec<_> = self.services.iter().flatten().collect();
        if let [(_, text)] = services[..] {
            return text.clone();
        }
        let count = |name: &str| services.iter().filter(|(state, _)| *state == name).count();
        let counts = STATES.iter().map(|name| (count(name), name));
        let counts: Vec<_> = counts
            .filter(|(n, _)| *n > 0)
            .map(|(n, name)| format!("{n} {name}"))
            .collect();
        format!("{} services: {}", services.len(), counts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_service_speaks_for_itself_and_several_are_counted() {
        let line = StatusLine::new(Notifier::silent());
        let said = || locked(&line.0).said.clone();
        let (web, db) = (line.add(), line.add());
        line.say(web, "awake: 1 client", State::Awake);
        assert_eq!(said(), "2 services: 1 awake, 1 asleep");
        line.say(db, "asleep, 0 served", State::Asleep);
        line.remove(web);
        assert_eq!(said(), "asleep, 0 served");
    }
}
