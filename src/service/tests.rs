//! The driver with a service that does as it is told, on a clock that can be paused. Targets are
//! Unix sockets: connecting to one never waits, so that the paused clock does not run away.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::sleep;

use super::*;
use crate::backend::{Awaited, Backend, Usage, scripted};
use crate::config::address::{Address, Peer, UnixAddress};
use crate::config::busy::{Busy, DirectConnections, Percent};
use crate::config::{self, Liveness, Readiness, ServiceConfig, Timing, UdpSettings, WakeRate};
use crate::core::lifecycle::Phase;
use crate::net::dial::Dialer;
use crate::program::Launcher;
use crate::report::record::{self, Clients, Kind, Record, Work};
use crate::report::recorder::Recorder;
use crate::report::state_file::StateWriter;
use crate::service::probe::Answer;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const COOLDOWN: Duration = Duration::from_secs(300);
const START_TIMEOUT: Duration = Duration::from_secs(90);

/// A driver, its service, and two targets of which the second is silent.
struct World {
    service: Arc<scripted::Service>,
    handle: Handle,
    entrances: Vec<Entrance>,
    idle: watch::Receiver<bool>,
    answering: Option<UnixListener>,
    directory: TempDir,
}

const PEER: Peer = Peer::Tcp(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7)));

const ANSWERING: usize = 0;
const SILENT: usize = 1;

impl World {
    fn new(phase: Phase) -> Self {
        Self::with(phase, None)
    }

    /// With a service that may be woken so often in an hour.
    fn limited(phase: Phase, wakes: usize) -> Self {
        Self::with(phase, Some(WakeRate { wakes, per: HOUR }))
    }

    fn with(phase: Phase, wake_rate: Option<WakeRate>) -> Self {
        Self::with_work(phase, wake_rate, Busy::default())
    }

    /// The same, with what keeps it awake.
    fn with_work(phase: Phase, wake_rate: Option<WakeRate>, busy: Busy) -> Self {
        Self::with_all(phase, wake_rate, busy, Duration::MAX)
    }

    fn with_all(
        phase: Phase,
        wake_rate: Option<WakeRate>,
        busy: Busy,
        freeze_after: Duration,
    ) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("answering");
        let answering = UnixListener::bind(&path).unwrap();
        let target = |path| Arc::new(Address::Unix(UnixAddress::Path(path)));
        let targets = vec![target(path), target(directory.path().join("silent"))];
        let config = ServiceConfig {
            name: None,
            listeners: None,
            routes: Vec::new(),
            kind: config::ServiceKind::Hooks {
                start: None,
                stop: None,
                pause: None,
            },
            readiness: Readiness::default(),
            timing: Timing {
                cooldown: COOLDOWN,
                freeze_after,
                start_timeout: START_TIMEOUT,
                stop_timeout: START_TIMEOUT,
            },
            liveness: Liveness::default(),
            udp: UdpSettings::default(),
            send_proxy: None,
            admission: config::Admission::default(),
            wake_rate,
            // With a clock that is paused there is no time to read them.
            busy: Busy {
                direct_connections: DirectConnections::Ignore,
                ..busy
            },
            stop_on_exit: false,
            freeze_reclaim: false,
        };
        let service = Arc::new(scripted::Service::new(phase));
        let backend = Backend::Scripted(service.clone());
        let tasks = TaskTracker::new();
        let settings = Arc::new(Settings {
            config,
            backend,
            targets,
            dialer: Dialer::new([], Liveness::default(), None),
            launcher: Launcher::direct(),
        });
        let recorder = Recorder::open(Record::default(), StateWriter::none().0);
        let reporter = Reporter::new(settings.clone(), recorder, Box::new(|_, _| ()));
        let driver = Service::new(settings, reporter, tasks.clone(), Arc::default());
        let entrances = driver.entrances();
        let (handle, idle) = (driver.handle(), driver.idle());
        tasks.spawn(driver.run());
        Self {
            service,
            handle,
            entrances,
            idle,
            answering: Some(answering),
            directory,
        }
    }

    /// A client that comes as sessions do: by the gate if it is open.
    fn arrive(&self, target: usize) -> Client {
        match self.entrances[target].enter() {
            Some(permit) => Client::Inside(permit),
            None => Client::Waiting(self.entrances[target].arrive(&"listener".into(), PEER)),
        }
    }

    /// A client that is let through, with its connection if there was one for it.
    async fn served(&self) -> (Client, Option<Answer>) {
        let mut client = self.arrive(ANSWERING);
        match client.verdict().await {
            Outcome::Admitted(answer) => (client, answer),
            Outcome::Rejected => panic!("rejected"),
        }
    }

    async fn asleep(&mut self) {
        self.idle.wait_for(|idle| *idle).await.unwrap();
    }

    fn counts(&self) -> (usize, usize) {
        let script = self.service.script();
        (script.starts, script.stops)
    }
}

/// A client, inside or not.
enum Client {
    Inside(Permit),
    Waiting(Queued),
    Gone,
}

#[derive(Debug)]
enum Outcome {
    Admitted(Option<Answer>),
    Rejected,
}

impl Client {
    async fn verdict(&mut self) -> Outcome {
        let Self::Waiting(queued) = self else {
            return Outcome::Admitted(None);
        };
        match queued.verdict().await {
            Verdict::Admitted(permit, answer) => {
                *self = Self::Inside(permit);
                Outcome::Admitted(answer)
            }
            Verdict::Rejected => Outcome::Rejected,
        }
    }

    /// The target refuses it.
    fn refused(&mut self) {
        if let Self::Inside(permit) = std::mem::replace(self, Self::Gone) {
            let why = "connection refused".into();
            *self = Self::Waiting(permit.refused(&"listener".into(), PEER, why));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_client_wakes_the_service_and_gets_the_connection_that_proved_it() {
    let mut world = World::new(Phase::Down);
    let (first, connection) = world.served().await;
    assert!(connection.is_some());
    let (second, connection) = world.served().await;
    assert!(connection.is_none(), "there was one connection only");
    drop((first, second));
    world.asleep().await;
    assert_eq!(world.counts(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn many_clients_at_once_start_the_service_once() {
    let world = World::new(Phase::Down);
    let mut herd: Vec<_> = (0..1000).map(|_| world.arrive(ANSWERING)).collect();
    for permit in &mut herd {
        assert!(matches!(permit.verdict().await, Outcome::Admitted(_)));
    }
    assert_eq!(world.counts(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn the_cooldown_counts_from_the_last_client() {
    let mut world = World::new(Phase::Down);
    let (permit, _) = world.served().await;
    sleep(COOLDOWN * 3).await;
    assert_eq!(
        world.counts(),
        (1, 0),
        "an open connection keeps the service awake"
    );
    drop(permit);
    sleep(COOLDOWN - SECOND).await;
    drop(world.served().await);
    sleep(COOLDOWN - SECOND).await;
    assert_eq!(world.counts(), (1, 0));
    world.asleep().await;
    assert_eq!(world.counts(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn clients_at_every_phase_of_a_stop_are_served() {
    let mut world = World::new(Phase::Down);
    world.service.set(|script| script.stop_takes = SECOND);
    for moment in 0..50 {
        drop(world.served().await);
        sleep(COOLDOWN + SECOND / 40 * moment - Duration::from_millis(100)).await;
        drop(world.served().await);
    }
    world.asleep().await;
    let (starts, stops) = world.counts();
    assert_eq!(starts, stops);
}

#[tokio::test(start_paused = true)]
async fn a_failed_start_rejects_clients_and_is_retried_later() {
    let mut world = World::new(Phase::Down);
    world.service.set(|script| script.start_fails = true);
    let mut waiting = [world.arrive(ANSWERING), world.arrive(ANSWERING)];
    for permit in &mut waiting {
        assert!(matches!(permit.verdict().await, Outcome::Rejected));
    }
    assert!(matches!(
        world.arrive(ANSWERING).verdict().await,
        Outcome::Rejected
    ));
    assert_eq!(world.counts().0, 1, "not tried before the back-off is over");
    assert!(!world.handle.may_exit().await, "the back-off is remembered");

    world.service.set(|script| script.start_fails = false);
    sleep(SECOND * 3).await;
    drop(world.served().await);
    drop(waiting);
    world.asleep().await;
    assert_eq!(world.counts().0, 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_left_while_it_waited_is_not_counted() {
    let mut world = World::new(Phase::Down);
    drop(world.arrive(ANSWERING));
    let (permit, connection) = world.served().await;
    assert!(
        connection.is_some(),
        "the connection goes to who is still there"
    );
    drop(permit);
    world.asleep().await;
}

#[tokio::test(start_paused = true)]
async fn a_query_before_a_failure_is_forgotten_does_not_allow_the_exit() {
    let world = World::new(Phase::Down);
    world.service.set(|script| script.start_fails = true);
    let mut permit = world.arrive(ANSWERING);
    assert!(matches!(permit.verdict().await, Outcome::Rejected));
    drop(permit);
    // It is seen down after a signal; then it is started from outside, without a signal.
    world.service.set(|script| script.phase = Phase::Down);
    sleep(SECOND * 50).await;
    world
        .service
        .quietly(|script| script.phase = Phase::Starting);
    // The failure is forgotten just before the next query.
    for _ in 0..200 {
        sleep(SECOND / 10).await;
        assert!(!world.handle.may_exit().await, "the service is on its way");
    }
}

#[tokio::test(start_paused = true)]
async fn a_query_begun_before_a_given_up_start_has_ended_does_not_allow_the_exit() {
    let world = World::new(Phase::Down);
    let (permit, _) = world.served().await;
    world.service.set(|script| {
        script.phase = Phase::Down;
        script.start_takes = HOUR;
        script.giving_up_takes = SECOND * 10;
    });
    sleep(SECOND).await;
    // A client is connected, so the start is given up and nothing is stopped.
    let mut waiting = world.arrive(ANSWERING);
    assert!(matches!(waiting.verdict().await, Outcome::Rejected));
    sleep(SECOND).await;
    world.service.set(|script| {
        script.phase = Phase::Down;
        script.query_takes = SECOND * 65;
    });
    sleep(SECOND * 10).await;
    // The start was heard after all, of which no news comes.
    world.service.quietly(|script| {
        script.phase = Phase::Starting;
        script.query_takes = Duration::ZERO;
    });
    drop((permit, waiting));
    for _ in 0..80 {
        sleep(SECOND).await;
        assert!(!world.handle.may_exit().await, "the service is on its way");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_arrived_before_the_exit_vote_prevents_the_exit() {
    let mut world = World::new(Phase::Down);
    world.asleep().await;
    assert!(world.handle.may_exit().await);
    let permit = world.arrive(ANSWERING);
    assert!(!world.handle.may_exit().await);
    drop(permit);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_client_prevents_the_exit_until_it_is_closed() {
    let mut world = World::new(Phase::Down);
    let mut hopeless = world.arrive(SILENT);
    drop(world.served().await);
    assert!(matches!(hopeless.verdict().await, Outcome::Rejected));
    // Its session has not reset it yet; on the way out it would see a silent end.
    sleep(COOLDOWN * 2).await;
    assert_eq!(world.counts(), (1, 1));
    assert!(!world.handle.may_exit().await);
    drop(hopeless);
    world.asleep().await;
    assert!(world.handle.may_exit().await);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_runs_already_is_adopted_and_sleeps_a_cooldown_later() {
    let mut world = World::new(Phase::Up);
    world.asleep().await;
    assert_eq!(world.counts(), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_service_found_starting_is_queried_with_pauses() {
    for phase in [Phase::Stopping, Phase::Starting] {
        let mut world = World::new(phase);
        // The clock stands still as long as a task has something to do.
        for _ in 0..10_000 {
            tokio::task::yield_now().await;
        }
        let queries = world.service.script().queries;
        assert!(
            queries < 10,
            "{queries} queries at a service that is {phase:?}"
        );
        world.service.set(|script| script.phase = Phase::Down);
        world.asleep().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_start_does_not_stop_what_was_running_before() {
    let mut world = World::new(Phase::Up);
    let mut permit = world.arrive(SILENT);
    assert!(matches!(permit.verdict().await, Outcome::Rejected));
    assert_eq!(world.counts(), (0, 0));
    drop(permit);
    world.asleep().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_target_affects_its_own_clients_only() {
    let world = World::new(Phase::Down);
    let mut hopeless = world.arrive(SILENT);
    let (served, _) = world.served().await;
    let began = now();
    assert!(matches!(hopeless.verdict().await, Outcome::Rejected));
    assert!(now() - began >= START_TIMEOUT - SECOND * 2);
    drop(world.served().await);
    assert_eq!(world.counts(), (1, 0));
    drop(served);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_went_down_is_woken_by_the_client_that_it_refuses() {
    let mut world = World::new(Phase::Down);
    let (mut permit, _) = world.served().await;
    world.answering = None;
    world.service.set(|script| script.phase = Phase::Down);
    permit.refused();
    sleep(SECOND / 2).await;
    let path = world.directory.path().join("answering");
    std::fs::remove_file(&path).unwrap();
    world.answering = Some(UnixListener::bind(&path).unwrap());
    assert!(matches!(permit.verdict().await, Outcome::Admitted(Some(_))));
    assert_eq!(world.counts(), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_refused_by_a_running_service_is_let_through_once_it_answers() {
    let world = World::new(Phase::Down);
    let (mut permit, _) = world.served().await;
    permit.refused();
    assert!(matches!(permit.verdict().await, Outcome::Admitted(Some(_))));
    assert_eq!(world.counts(), (1, 0));
    let clients = world.handle.record().await.unwrap().clients;
    assert_eq!((clients.active, clients.served), (1, 1), "it is one client");
}

#[tokio::test(start_paused = true)]
async fn everything_that_happens_is_in_the_record() {
    let mut world = World::new(Phase::Down);
    let (permit, _) = world.served().await;
    let mut waiting = world.arrive(SILENT);
    sleep(SECOND).await;
    let record = world.handle.record().await.unwrap();
    assert_eq!(record.state, record::RecordedState::Awake);
    assert_eq!((record.clients.active, record.clients.waiting), (1, 1));
    assert_eq!(record.wakes.total, 1);

    // The one whose target is silent has waited for as long as a start may take.
    assert!(matches!(waiting.verdict().await, Outcome::Rejected));
    drop((waiting, permit));
    world.asleep().await;
    world.service.set(|script| script.start_fails = true);
    let mut refused = world.arrive(ANSWERING);
    assert!(matches!(refused.verdict().await, Outcome::Rejected));
    drop(refused);
    drop(world.arrive(ANSWERING));

    let record = world.handle.record().await.unwrap();
    assert_eq!(record.state, record::RecordedState::Failed);
    assert_eq!((record.wakes.total, record.sleeps), (1, 1));
    let Clients {
        served,
        refused_failed,
        refused_silent,
        ..
    } = record.clients;
    assert_eq!((served, refused_failed, refused_silent), (1, 2, 1));
    assert_eq!(
        record.failures,
        [(Kind::Start, 1), (Kind::Silent, 1)].into()
    );
    let last = record.last_failure.unwrap();
    assert_eq!(
        (last.kind, last.why.as_str()),
        (Kind::Start, "told to fail")
    );
}

#[tokio::test(start_paused = true)]
async fn clients_wait_while_the_service_is_restarted_from_outside() {
    let world = World::new(Phase::Up);
    let (permit, _) = world.served().await;
    world.service.set(|script| script.phase = Phase::Stopping);
    sleep(SECOND).await;
    let mut waiting = world.arrive(ANSWERING);
    assert!(
        tokio::time::timeout(SECOND * 20, waiting.verdict())
            .await
            .is_err()
    );
    world.service.set(|script| script.phase = Phase::Up);
    assert!(matches!(waiting.verdict().await, Outcome::Admitted(_)));
    assert_eq!(world.counts(), (0, 0));
    drop(permit);
}

#[tokio::test(start_paused = true)]
async fn one_query_is_enough_to_start_the_service() {
    let world = World::new(Phase::Up);
    let (permit, _) = world.served().await;
    world.service.set(|script| script.phase = Phase::Stopping);
    sleep(SECOND / 2).await;
    let waiting = world.arrive(ANSWERING);
    let queries = world.service.script().queries;
    world.service.set(|script| script.phase = Phase::Down);
    sleep(SECOND / 2).await;
    assert_eq!(world.counts().0, 1, "one waits");
    assert_eq!(world.service.script().queries, queries + 1);
    drop((permit, waiting));
}

#[tokio::test(start_paused = true)]
async fn a_service_started_from_outside_is_queried_with_pauses() {
    let mut world = World::new(Phase::Starting);
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    // Not by the clock: it stands still as long as there is something to do.
    assert!(world.service.script().queries < 5, "{:?}", world.service);
    sleep(SECOND * 10).await;
    assert!(world.service.script().queries >= 10, "{:?}", world.service);
    // No signal tells that it is up.
    world.service.quietly(|script| script.phase = Phase::Up);
    world.asleep().await;
    assert_eq!(world.counts(), (0, 1), "it was adopted");
}

#[tokio::test(start_paused = true)]
async fn a_client_above_the_wake_rate_is_rejected_after_a_query() {
    let mut world = World::limited(Phase::Down, 1);
    let (permit, _) = world.served().await;
    let mut second = world.arrive(ANSWERING);
    assert!(matches!(second.verdict().await, Outcome::Admitted(_)));
    drop((permit, second));
    sleep(COOLDOWN + SECOND * 3).await;
    assert_eq!(world.counts(), (1, 1));
    let mut refused = world.arrive(ANSWERING);
    assert!(matches!(refused.verdict().await, Outcome::Rejected));
    drop(refused);
    assert!(!world.handle.may_exit().await, "others may follow");
    world.asleep().await;
    let record = world.handle.record().await.unwrap();
    assert_eq!(record.clients.refused_rate, 1);
    assert!(record.wakes.not_before.is_some());

    // It is started from outside, at first without a signal.
    world
        .service
        .quietly(|script| script.phase = Phase::Starting);
    let mut waiting = world.arrive(ANSWERING);
    let verdict = tokio::time::timeout(SECOND * 20, waiting.verdict());
    assert!(verdict.await.is_err(), "it waits to see what comes of that");
    world.service.quietly(|script| script.phase = Phase::Up);
    assert!(matches!(waiting.verdict().await, Outcome::Admitted(_)));
    drop(waiting);
    sleep(COOLDOWN + SECOND * 3).await;

    // And if nothing ever comes of it, no client waits for ever.
    world
        .service
        .quietly(|script| script.phase = Phase::Starting);
    let mut hopeless = world.arrive(ANSWERING);
    let began = now();
    let verdict = tokio::time::timeout(START_TIMEOUT * 2, hopeless.verdict());
    assert!(matches!(verdict.await, Ok(Outcome::Rejected)));
    assert_eq!(now() - began, START_TIMEOUT);
    drop(hopeless);

    world.service.quietly(|script| script.phase = Phase::Down);
    sleep(HOUR).await;
    drop(world.served().await);
    assert_eq!(world.counts().0, 2);
}

#[tokio::test(start_paused = true)]
async fn a_denied_client_is_counted_and_delays_the_exit() {
    let mut world = World::new(Phase::Down);
    world.asleep().await;
    let began = now();
    for _ in 0..20 {
        world.entrances[ANSWERING].denied(&"listener".into(), PEER);
        sleep(SECOND).await;
        assert!(!world.handle.may_exit().await);
    }
    world.asleep().await;
    assert!(world.handle.may_exit().await);
    assert!(now() - began < SECOND * 30);
    assert_eq!(world.counts(), (0, 0));
    let clients = world.handle.record().await.unwrap().clients;
    assert_eq!((clients.refused_address, clients.gave_up), (20, 0));
}

#[tokio::test(start_paused = true)]
async fn a_failed_stop_is_retried() {
    let mut world = World::new(Phase::Up);
    world.service.set(|script| script.stop_fails = true);
    sleep(COOLDOWN + SECOND * 20).await;
    let (_, stops) = world.counts();
    assert!(stops > 2, "{stops}");
    drop(world.served().await);
    world.service.set(|script| script.stop_fails = false);
    world.asleep().await;
}

#[tokio::test(start_paused = true)]
async fn a_start_that_takes_too_long_is_given_up_and_undone() {
    let mut world = World::new(Phase::Down);
    world
        .service
        .set(|script| script.start_takes = START_TIMEOUT * 2);
    let mut permit = world.arrive(ANSWERING);
    let began = now();
    assert!(matches!(permit.verdict().await, Outcome::Rejected));
    assert_eq!(now() - began, START_TIMEOUT);
    drop(permit);
    world.asleep().await;
    assert_eq!(world.counts(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_the_stop_that_it_orders() {
    let world = World::new(Phase::Up);
    drop(world.served().await);
    let (stop, thaw, limit) = (true, true, COOLDOWN);
    world.handle.close(LastOrder { stop, thaw, limit });
    sleep(SECOND * 2).await;
    assert_eq!(world.counts(), (0, 1));
    assert_eq!(world.service.script().phase, Phase::Down);
}

#[tokio::test(start_paused = true)]
async fn work_keeps_the_service_awake_until_it_is_done_and_is_in_the_record() {
    let mut world = World::new(Phase::Up);
    let backup = Some(vec!["backup.service".to_owned()]);
    world.service.quietly(|script| script.dependents = backup);
    sleep(COOLDOWN * 10).await;
    assert_eq!(world.counts(), (0, 0));
    let record = world.handle.record().await.unwrap();
    assert_eq!(record.state, record::RecordedState::Cooling);
    assert_eq!(Work::told(&record.kept_awake), "backup.service is running");
    world
        .service
        .quietly(|script| script.dependents = Some(Vec::new()));
    let done = now();
    world.asleep().await;
    assert!(now() - done < SECOND * 35);
    let record = world.handle.record().await.unwrap();
    assert!(record.kept_awake.is_empty());
    assert_eq!(world.counts(), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_found_out_keeps_the_service_awake_for_ten_seconds_at_most() {
    for (dependents, takes) in [
        (None, Duration::ZERO),
        (Some(vec!["x.service".into()]), HOUR),
    ] {
        let mut world = World::new(Phase::Up);
        world.service.quietly(|script| {
            (script.dependents, script.dependents_take) = (dependents, takes);
        });
        let began = now();
        world.asleep().await;
        assert!(now() - began < COOLDOWN + SECOND * 15);
        assert_eq!(world.counts(), (0, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_while_work_is_asked_for_is_let_through_at_once() {
    let mut world = World::new(Phase::Down);
    drop(world.served().await);
    world
        .service
        .quietly(|script| script.dependents_take = SECOND * 5);
    sleep(COOLDOWN + SECOND * 2).await;
    let client = world.arrive(ANSWERING);
    assert!(matches!(client, Client::Inside(_)));
    sleep(COOLDOWN).await;
    assert_eq!(world.counts(), (1, 0));
    drop(client);
    world.asleep().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_service_uses_without_clients_and_work_is_in_the_record() {
    for (work_ends, idle) in [(0, &[Percent(30)][..]), (450, &[])] {
        let world = World::new(Phase::Up);
        let mut client = Some(world.served().await);
        let mut used = 0;
        for second in 0..500 {
            if second == 100 {
                client = None;
            }
            let backup = (second < work_ends).then(|| "backup.service".to_owned());
            // It computes for its client, and goes on with that for a while.
            used += if second < 300 { 800_000_000 } else { 300_000 };
            world.service.quietly(|script| {
                script.dependents = Some(Vec::from_iter(backup));
                script.usage.cpu_nanos = Some(used);
            });
            sleep(SECOND).await;
        }
        drop(client);
        assert_eq!(world.counts(), (0, 1));
        assert_eq!(world.handle.record().await.unwrap().idle_cpu, idle);
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_service_uses_is_measured_in_time_for_the_end_of_the_cooldown() {
    for (percent, stops) in [(2, 0), (1, 1)] {
        let busy = Busy {
            cpu: Some(Percent(1_500)),
            ..Busy::default()
        };
        let world = World::with_work(Phase::Up, None, busy);
        let mut used = 0;
        for _ in 0..400 {
            sleep(SECOND).await;
            used += percent * 10_000_000;
            let usage = Usage {
                cpu_nanos: Some(used),
                ..Usage::default()
            };
            world.service.quietly(|script| script.usage = usage);
        }
        assert_eq!(world.counts(), (0, stops), "{percent}%");
    }
}

/// One that runs, and is frozen half-way through its cooldown.
fn freezing() -> World {
    World::with_all(Phase::Up, None, Busy::default(), COOLDOWN / 2)
}

#[tokio::test(start_paused = true)]
async fn a_service_is_frozen_thawed_for_a_client_and_at_last_stopped() {
    let mut world = freezing();
    sleep(COOLDOWN * 3 / 4).await;
    let script = world.service.script();
    assert_eq!((script.freezes, script.thaws), (1, 0));
    let record = world.handle.record().await.unwrap();
    assert_eq!(record.state, record::RecordedState::Frozen);
    assert!(!world.handle.may_exit().await);
    drop(world.served().await);
    let record = world.handle.record().await.unwrap();
    assert_eq!((record.thaws.total, record.wakes.total), (1, 0));
    assert!(record.thaws.last().is_some_and(|took| took < 1.0));
    world.asleep().await;
    let script = world.service.script();
    assert_eq!((script.freezes, script.thaws), (2, 2));
    assert_eq!(world.counts(), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn how_long_a_thaw_takes_is_expected_by_thaws_and_not_by_wakes() {
    let world = World::with_all(Phase::Down, None, Busy::default(), COOLDOWN / 2);
    for thaws in 0..2 {
        drop(world.served().await);
        sleep(COOLDOWN * 3 / 4).await;
        let outlook = world.entrances[ANSWERING].outlook().await.unwrap();
        assert_eq!(outlook.took.len(), thaws);
    }
    let record = world.handle.record().await.unwrap();
    assert_eq!(record.wakes.recent.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_wake_waits_for_is_told_until_it_is_over() {
    let world = World::new(Phase::Down);
    let _client = world.arrive(SILENT);
    sleep(SECOND * 2).await;
    let entrance = &world.entrances[SILENT];
    assert_eq!(entrance.outlook().await.unwrap().waits_for, None);
    world.service.set(|script| {
        script.awaited = Some(Awaited {
            reason: "Unschedulable".into(),
            why: "pod `web-0`: Unschedulable".into(),
        });
    });
    sleep(SECOND).await;
    let record = world.handle.record().await.unwrap();
    assert_eq!(record.state, record::RecordedState::Waking);
    assert_eq!(record.waits_for.unwrap().reason, "Unschedulable");
    let outlook = entrance.outlook().await.unwrap();
    assert_eq!(
        outlook.waits_for.as_deref(),
        Some("pod `web-0`: Unschedulable")
    );
    sleep(START_TIMEOUT).await;
    let record = world.handle.record().await.unwrap();
    assert_ne!(record.state, record::RecordedState::Waking);
    assert_eq!(record.waits_for, None);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_cannot_be_frozen_is_stopped_in_time() {
    let mut world = freezing();
    world.service.quietly(|script| script.freeze_fails = true);
    let began = now();
    world.asleep().await;
    assert!(now() - began < COOLDOWN + SECOND * 5);
    let script = world.service.script();
    assert_eq!((script.freezes, script.thaws, script.stops), (1, 1, 1));
    let record = world.handle.record().await.unwrap();
    assert_eq!(record.failures.get(&Kind::Freeze), Some(&1));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_cannot_be_thawed_rejects_clients_until_it_can() {
    let world = freezing();
    world.service.quietly(|script| script.thaw_fails = true);
    sleep(COOLDOWN * 3 / 4).await;
    let mut client = world.arrive(ANSWERING);
    assert!(matches!(client.verdict().await, Outcome::Rejected));
    drop(client);
    world.service.quietly(|script| script.thaw_fails = false);
    sleep(SECOND * 40).await;
    drop(world.served().await);
}

#[tokio::test(start_paused = true)]
async fn what_is_frozen_is_thawed_when_the_process_ends_and_stays_so_for_the_next_one() {
    for (thaw, phase) in [(true, Phase::Up), (false, Phase::Frozen)] {
        let world = freezing();
        sleep(COOLDOWN * 3 / 4).await;
        let (stop, limit) = (false, Duration::ZERO);
        world.handle.close(LastOrder { stop, thaw, limit });
        sleep(SECOND).await;
        assert_eq!(world.service.script().phase, phase);
    }
    // Also if it takes a while to end.
    let world = freezing();
    sleep(COOLDOWN * 3 / 4).await;
    world.handle.ending();
    sleep(COOLDOWN * 3 / 4).await;
    let script = world.service.script();
    assert_eq!((script.freezes, script.thaws), (1, 1));
}
