//! The records as Prometheus reads them: the text format, version 0.0.4. Pure.
//!
//! Names, types and labels never change their meaning; docs/observing.md has them all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::net::datagram::Dropped;
use crate::report::record::http::{Connections, Requests};
use crate::report::record::{Bucket, Kind, Moment, Record, RecordedState, Work};
use crate::util::text::one_line;

/// The `Content-Type:` of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// An instance, and whether its process runs.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its record.
    pub record: Record,
    /// Whether its process runs.
    pub alive: bool,
}

/// The page for `instances`, and for so many records that could not be read.
pub fn page(instances: &[Instance], unreadable: usize, now: Moment) -> String {
    // Two samples with the same labels would spoil the whole page.
    let mut names = BTreeSet::new();
    let distinct: Vec<_> = instances
        .iter()
        .filter(|instance| names.insert(instance.record.name.as_str()))
        .collect();
    let doubled = instances.len() - distinct.len();
    let mut page = Page {
        text: String::new(),
        instances: distinct,
    };
    page.about_states(now);
    page.about_clients();
    page.about_datagrams();
    page.about_requests();
    page.about_fronts();
    page.about_wakes();
    page.about_failures();
    page.family(
        "wakeport_unreadable_records",
        "gauge",
        "Records in the state directories that cannot be used.",
    );
    let unreadable = unreadable + doubled;
    let _ = writeln!(page.text, "wakeport_unreadable_records {unreadable}");
    page.family(
        "wakeport_build_info",
        "gauge",
        "Always 1; the version of the wakeport that serves this page.",
    );
    let version = env!("CARGO_PKG_VERSION");
    let _ = writeln!(page.text, "wakeport_build_info{{version=\"{version}\"}} 1");
    page.text
}

struct Page<'a> {
    text: String,
    instances: Vec<&'a Instance>,
}

impl Page<'_> {
    fn about_states(&mut self, now: Moment) {
        self.each(
            "wakeport_instance_info",
            "Always 1; the unit that runs wakeport, and the service that it starts and stops.",
            |Instance { record, .. }, row| {
                let unit = record.unit.as_deref().unwrap_or_default();
                row.with("unit", unit)
                    .with("service", &record.service)
                    .is(1.0);
            },
        );
        self.each(
            "wakeport_state",
            "1 for the state that the service is in, 0 for the others.",
            |Instance { record, alive }, row| {
                for state in RecordedState::ALL {
                    let is = record.state(*alive) == *state;
                    row.with("state", state.name()).is(f64::from(u8::from(is)));
                }
            },
        );
        self.each(
            "wakeport_state_seconds_total",
            "Time spent in each state.",
            |Instance { record, alive }, row| {
                for (state, seconds) in record.seconds(*alive, now) {
                    row.with("state", state.name()).is(seconds);
                }
            },
        );
        self.each(
            "wakeport_kept_awake",
            "1 for what keeps the service awake although no client is here: connections that bypass wakeport (direct), units that would be stopped along (units), the busy hook (hook), what it uses (cpu, io, net).",
            |Instance { record, alive }, row| {
                for work in Work::ALL {
                    let is = *alive && record.kept_awake.contains_key(work);
                    row.with("reason", work.name()).is(f64::from(u8::from(is)));
                }
            },
        );
        self.each(
            "wakeport_waking_reason",
            "1 for what a wake waits for, as Kubernetes calls it: Unschedulable, ImagePullBackOff, CrashLoopBackOff; absent where nothing is known.",
            |Instance { record, alive }, row| {
                if let Some(waits_for) = record.waits_for.as_ref().filter(|_| *alive) {
                    row.with("reason", &waits_for.reason).is(1.0);
                }
            },
        );
        self.each(
            "wakeport_holds",
            "Holds, by which `wakeport hold` keeps the service awake; they are no clients.",
            |Instance { record, alive }, row| {
                let holds = if *alive { record.holds.len() } else { 0 };
                row.is(holds as f64);
            },
        );
        self.each(
            "wakeport_memory_freed_bytes",
            "What the service took just before its last stop; absent where memory is not accounted.",
            |Instance { record, .. }, row| {
                if let Some(bytes) = record.memory_freed {
                    row.is(bytes as f64);
                }
            },
        );
    }

    fn about_clients(&mut self) {
        self.each(
            "wakeport_clients_active",
            "Clients that are connected and were admitted.",
            |Instance { record, alive }, row| {
                let active = if *alive { record.clients.active } else { 0 };
                row.is(active as f64);
            },
        );
        self.each(
            "wakeport_clients_waiting",
            "Clients that wait for the service.",
            |Instance { record, alive }, row| {
                let waiting = if *alive { record.clients.waiting } else { 0 };
                row.is(waiting as f64);
            },
        );
        self.each(
            "wakeport_clients_served_total",
            "Clients that were admitted.",
            |Instance { record, .. }, row| row.is(record.clients.served as f64),
        );
        self.each(
            "wakeport_clients_refused_total",
            "Clients that were reset: the service could not be woken (failed), just their target did not answer (silent), the service was woken too often (rate), or their address is denied (address).",
            |Instance { record, .. }, row| {
                row.with("reason", "failed").is(record.clients.refused_failed as f64);
                row.with("reason", "silent").is(record.clients.refused_silent as f64);
                row.with("reason", "rate").is(record.clients.refused_rate as f64);
                row.with("reason", "address").is(record.clients.refused_address as f64);
            },
        );
        self.each(
            "wakeport_clients_gave_up_total",
            "Clients that left while they waited.",
            |Instance { record, .. }, row| row.is(record.clients.gave_up as f64),
        );
        self.each(
            "wakeport_clients_ended_total",
            "Connections that wakeport closed: they were idle for too long (idle), or their peer timed out (vanished).",
            |Instance { record, .. }, row| {
                row.with("reason", "idle").is(record.clients.ended_idle as f64);
                row.with("reason", "vanished").is(record.clients.ended_vanished as f64);
            },
        );
        self.each(
            "wakeport_relayed_bytes_total",
            "Bytes relayed to the service (up) and from it (down), counted when a connection ends.",
            |Instance { record, .. }, row| {
                row.with("direction", "up").is(record.bytes.up as f64);
                row.with("direction", "down").is(record.bytes.down as f64);
            },
        );
    }

    fn about_datagrams(&mut self) {
        self.each(
            "wakeport_datagrams_dropped_total",
            "Datagrams that were not passed on: their sender is denied (address), they wake nothing (quiet), they were sent to many (broadcast), there was no room for another flow (room), more was held than may be (held), the service could not be had (failed), the path takes none so long (too-long), they could not be sent (unsent).",
            |Instance { record, .. }, row| {
                for why in Dropped::ALL {
                    if let Some(count) = record.datagrams_dropped.get(why.name()) {
                        row.with("reason", why.name()).is(*count as f64);
                    }
                }
            },
        );
    }

    fn about_requests(&mut self) {
        self.each_host(
            "wakeport_http_requests_total",
            "Requests that have ended, by the class of their status.",
            |requests, _, row| {
                for (code, count) in &requests.codes {
                    row("code", code, *count);
                }
            },
        );
        self.each_host(
            "wakeport_http_requests_active",
            "Requests that were let through and have not ended.",
            |requests, alive, row| row("", "", if alive { requests.active } else { 0 }),
        );
        self.each_host(
            "wakeport_http_requests_waiting",
            "Requests that wait for the service.",
            |requests, alive, row| row("", "", if alive { requests.waiting } else { 0 }),
        );
        let name = "wakeport_http_wait_seconds";
        self.family(
            name,
            "histogram",
            "How long requests waited for the service; those that were let through at once are not in it.",
        );
        for Instance { record, .. } in &self.instances {
            for (host, Requests { waits, .. }) in record.http.iter().flat_map(|http| &http.hosts) {
                let counted = (&waits.buckets[..], waits.total, waits.seconds);
                histogram(&mut self.text, name, &record.name, Some(host), counted);
            }
        }
        self.each_host(
            "wakeport_http_pages_total",
            "Requests that were answered with the waiting page.",
            |requests, _, row| row("", "", requests.pages),
        );
        self.each_host(
            "wakeport_http_quiet_total",
            "Quiet requests, which are in no other count.",
            |requests, _, row| row("", "", requests.quiet),
        );
        self.each_host(
            "wakeport_http_retries_total",
            "Requests that were sent to the service once more.",
            |requests, _, row| row("", "", requests.retries),
        );
        self.each_host(
            "wakeport_http_upstream_errors_total",
            "Requests that wakeport answered with this status as the service failed them.",
            |requests, _, row| {
                for (code, count) in &requests.upstream_errors {
                    row("code", code, *count);
                }
            },
        );
    }

    /// What all services of an instance have together.
    fn about_fronts(&mut self) {
        let mut fronts = BTreeMap::<String, (Connections, u64)>::new();
        for Instance { record, alive } in &self.instances {
            let Some(http) = &record.http else { continue };
            let name = record.name.split('/').next().unwrap_or_default();
            let (connections, unrouted) = fronts.entry(name.to_owned()).or_default();
            *unrouted += http.unrouted;
            if *alive {
                connections.idle += http.connections.idle;
                connections.active += http.connections.active;
            }
        }
        let name = "wakeport_http_connections";
        let help = "Connections of clients that speak HTTP, with a request (active) or without one (idle).";
        self.family(name, "gauge", help);
        for (front, (connections, _)) in &fronts {
            let mut row = Row::new(&mut self.text, name, front);
            row.with("state", "idle").is(connections.idle as f64);
            row.with("state", "active").is(connections.active as f64);
        }
        let name = "wakeport_http_unrouted_total";
        let help = "Requests that belong to no service: for an unknown host or path, or malformed.";
        self.family(name, "counter", help);
        for (front, (_, unrouted)) in &fronts {
            Row::new(&mut self.text, name, front).is(*unrouted as f64);
        }
    }

    /// A family with what `tell` says of each host: a label, its value, and the number.
    fn each_host(
        &mut self,
        name: &str,
        help: &str,
        tell: impl Fn(&Requests, bool, &mut dyn FnMut(&str, &str, u64)),
    ) {
        self.each(name, help, |Instance { record, alive }, row| {
            for (host, requests) in record.http.iter().flat_map(|http| &http.hosts) {
                tell(requests, *alive, &mut |label, value, number| {
                    row.with("host", host);
                    if !label.is_empty() {
                        row.with(label, value);
                    }
                    row.is(number as f64);
                });
            }
        });
    }

    fn about_wakes(&mut self) {
        const NAME: &str = "wakeport_wake_duration_seconds";
        self.family(
            NAME,
            "histogram",
            "From the order to start to the service's first answer; wakes that failed are not in it.",
        );
        for Instance { record, .. } in &self.instances {
            let wakes = &record.wakes;
            let counted = (&wakes.buckets[..], wakes.total, wakes.seconds);
            histogram(&mut self.text, NAME, &record.name, None, counted);
        }
        const THAWS: &str = "wakeport_thaw_duration_seconds";
        self.family(
            THAWS,
            "histogram",
            "From the order to thaw for a client to the service's first answer.",
        );
        for Instance { record, .. } in &self.instances {
            let thaws = &record.thaws;
            let counted = (&thaws.buckets[..], thaws.total, thaws.seconds);
            histogram(&mut self.text, THAWS, &record.name, None, counted);
        }
        self.each(
            "wakeport_sleeps_total",
            "How often the service was stopped after its cooldown.",
            |Instance { record, .. }, row| row.is(record.sleeps as f64),
        );
    }

    fn about_failures(&mut self) {
        self.each(
            "wakeport_failures_total",
            "What failed: the order to start (start), an answer in time (timeout), the service before it answered (died), the order to stop (stop), to freeze (freeze) or to thaw (thaw), one target of several (silent).",
            |Instance { record, .. }, row| {
                for kind in Kind::ALL {
                    let count = record.failures.get(kind).copied().unwrap_or_default();
                    row.with("kind", kind.name()).is(count as f64);
                }
            },
        );
        self.each(
            "wakeport_last_failure_timestamp_seconds",
            "When something failed last; absent if nothing has.",
            |Instance { record, .. }, row| {
                if let Some(failure) = &record.last_failure {
                    row.is(failure.at.as_second() as f64);
                }
            },
        );
    }

    /// A family with what `tell` says of each instance: a counter if its name says so.
    fn each(&mut self, name: &str, help: &str, tell: impl Fn(&Instance, &mut Row<'_>)) {
        let kind = match name.ends_with("_total") {
            true => "counter",
            false => "gauge",
        };
        self.family(name, kind, help);
        for instance in &self.instances {
            tell(
                instance,
                &mut Row::new(&mut self.text, name, &instance.record.name),
            );
        }
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }
}

/// The samples of a histogram of one instance, or of one of its hosts.
fn histogram(
    text: &mut String,
    name: &str,
    instance: &str,
    host: Option<&str>,
    (buckets, total, seconds): (&[Bucket], u64, f64),
) {
    let mut sample = |suffix: &str, le: Option<&str>, value: f64| {
        let name = format!("{name}_{suffix}");
        let mut row = Row::new(text, &name, instance);
        for (label, value) in [("host", host), ("le", le)] {
            value.map(|value| row.with(label, value));
        }
        row.is(value);
    };
    let mut sum = 0;
    for bucket in buckets {
        sum += bucket.count;
        sample("bucket", Some(&bucket.le.to_string()), sum as f64);
    }
    sample("bucket", Some("+Inf"), total as f64);
    sample("sum", None, seconds);
    sample("count", None, total as f64);
}

/// Samples of one metric and one instance.
struct Row<'a> {
    text: &'a mut String,
    name: &'a str,
    instance: &'a str,
    labels: String,
}

impl<'a> Row<'a> {
    fn new(text: &'a mut String, name: &'a str, instance: &'a str) -> Self {
        Self {
            text,
            name,
            instance,
            labels: String::new(),
        }
    }

    /// A label of the next sample.
    fn with(&mut self, label: &str, value: &str) -> &mut Self {
        let _ = write!(self.labels, ",{label}=\"{}\"", escaped(value));
        self
    }

    fn is(&mut self, value: f64) {
        let labels = std::mem::take(&mut self.labels);
        let (name, instance) = (self.name, escaped(self.instance));
        let _ = writeln!(self.text, "{name}{{name=\"{instance}\"{labels}}} {value}");
    }
}

/// A label's value. The page may be read on a terminal.
fn escaped(value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    one_line(&value.replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;
    use crate::report::record::Process;

    const NOW: Moment = Moment {
        wall: Timestamp::constant(1_760_000_100, 0),
        monotonic: 200.0,
    };

    fn instance(name: &str) -> Instance {
        let began = Moment {
            wall: Timestamp::constant(1_760_000_000, 0),
            monotonic: 100.0,
        };
        let mut record = Record {
            name: name.into(),
            service: "a \"b\" \\ c".into(),
            ..Record::default()
        };
        record.begin(Process::default(), began);
        record.transition(RecordedState::Awake, began);
        record.wakes.add(Duration::from_millis(200));
        record.wakes.add(Duration::from_secs(1000));
        Instance {
            record,
            alive: true,
        }
    }

    #[test]
    fn a_histogram_counts_up_to_all() {
        let page = page(&[instance("app")], 0, NOW);
        for line in [
            r#"wakeport_wake_duration_seconds_bucket{name="app",le="0.1"} 0"#,
            r#"wakeport_wake_duration_seconds_bucket{name="app",le="0.25"} 1"#,
            r#"wakeport_wake_duration_seconds_bucket{name="app",le="300"} 1"#,
            r#"wakeport_wake_duration_seconds_bucket{name="app",le="+Inf"} 2"#,
            r#"wakeport_wake_duration_seconds_sum{name="app"} 1000.2"#,
            r#"wakeport_wake_duration_seconds_count{name="app"} 2"#,
            r#"wakeport_state{name="app",state="awake"} 1"#,
            r#"wakeport_state{name="app",state="asleep"} 0"#,
            r#"wakeport_state_seconds_total{name="app",state="awake"} 100"#,
            r#"wakeport_instance_info{name="app",unit="",service="a \"b\" \\ c"} 1"#,
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
    }

    #[test]
    fn what_has_the_same_name_is_there_once() {
        let page = page(&[instance("app"), instance("app")], 1, NOW);
        let samples: Vec<_> = page
            .lines()
            .filter_map(|line| line.rsplit_once(' '))
            .collect();
        let distinct: BTreeSet<_> = samples.iter().map(|(sample, _)| sample).collect();
        assert_eq!(samples.len(), distinct.len());
        assert!(page.contains("wakeport_unreadable_records 2\n"));
    }

    #[test]
    fn every_metric_is_documented_and_no_other() {
        let page = page(&[instance("app")], 0, NOW);
        let docs = include_str!("../../docs/observing.md");
        let families = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let families: BTreeSet<_> = families
            .filter_map(|family| family.split(' ').next())
            .collect();
        let documented: BTreeSet<_> = docs
            .lines()
            .filter_map(|line| line.strip_prefix("| `wakeport_"))
            .filter_map(|rest| rest.split(['`', '{']).next())
            .map(|rest| format!("wakeport_{rest}"))
            .collect();
        let documented = documented.iter().map(String::as_str).collect();
        assert_eq!(families, documented);
    }
}
