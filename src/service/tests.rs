//! The driver with a service that does as it is told, on a clock that can be paused. Targets are
//! Unix sockets: connecting to one never waits, so that the paused clock does not run away.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::sleep;

use super::*;
use crate::backend::scripted;
use crate::config::address::{Address, Peer, UnixAddress};
use crate::config::{self, Liveness, Readiness, ServiceConfig, WakeRate};
use crate::core::lifecycle::Phase;
use crate::net::dial::Dialer;
use crate::program::Launcher;
use crate::report::record::{self, Clients, Kind, Record};
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

const SOMEBODY: Peer = Peer::Tcp(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7)));

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
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("answering");
        let answering = UnixListener::bind(&path).unwrap();
        let target = |path| {
            Arc::new(Target {
                address: Address::Unix(UnixAddress::Path(path)),
            })
        };
        let targets = vec![target(path), target(directory.path().join("silent"))];
        let config = ServiceConfig {
            name: None,
            listeners: None,
            routes: Vec::new(),
            kind: config::ServiceKind::Relay,
            readiness: Readiness::default(),
            timing: Timing {
                cooldown: COOLDOWN,
                start_timeout: START_TIMEOUT,
                stop_timeout: START_TIMEOUT,
            },
            liveness: Liveness::default(),
            send_proxy: None,
            admission: config::Admission::default(),
            wake_rate,
            stop_on_exit: false,
        };
        let prober = Prober::new(
            &config,
            Dialer::new([], Liveness::default()),
            Launcher::direct(),
        );
        let service = Arc::new(scripted::Service::new(phase));
        let backend = Backend::Scripted(service.clone());
        let about = About {
            label: "the service".into(),
            units: Default::default(),
            wake_rate,
        };
        let recorder = Recorder::open(Record::default(), StateWriter::none().0);
        let reporter = Reporter::new(about.clone(), recorder, Box::new(|_, _| ()));
        let tasks = TaskTracker::new();
        let settings = Settings {
            backend,
            targets,
            prober,
            timing: config.timing,
            about,
        };
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
            None => Client::Waiting(self.entrances[target].arrive(&"listener".into(), SOMEBODY)),
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
            *self = Self::Waiting(permit.refused(&"listener".into(), SOMEBODY, why));
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
async fn a_herd_starts_the_service_once() {
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
async fn a_service_that_cannot_start_turns_clients_away_and_is_tried_again_later() {
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
async fn what_was_seen_before_a_failure_is_forgotten_does_not_allow_the_exit() {
    let world = World::new(Phase::Down);
    world.service.set(|script| script.start_fails = true);
    let mut permit = world.arrive(ANSWERING);
    assert!(matches!(permit.verdict().await, Outcome::Rejected));
    drop(permit);
    // By news it is seen down; then somebody starts it, of which no news comes.
    world.service.set(|script| script.phase = Phase::Down);
    sleep(SECOND * 50).await;
    world
        .service
        .quietly(|script| script.phase = Phase::Starting);
    // The failure is forgotten just before anybody looks again.
    for _ in 0..200 {
        sleep(SECOND / 10).await;
        assert!(!world.handle.may_exit().await, "the service is on its way");
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_begun_before_a_start_that_was_given_up_has_ended_does_not_allow_the_exit() {
    let world = World::new(Phase::Down);
    let (permit, _) = world.served().await;
    world.service.set(|script| {
        script.phase = Phase::Down;
        script.start_takes = HOUR;
        script.giving_up_takes = SECOND * 10;
    });
    sleep(SECOND).await;
    // Somebody is connected, so the start is given up and nothing is stopped.
    let mut waiting = world.arrive(ANSWERING);
    assert!(matches!(waiting.verdict().await, Outcome::Rejected));
    sleep(SECOND).await;
    world.service.set(|script| {
        script.phase = Phase::Down;
        script.look_takes = SECOND * 65;
    });
    sleep(SECOND * 10).await;
    // The start was heard after all, of which no news comes.
    world.service.quietly(|script| {
        script.phase = Phase::Starting;
        script.look_takes = Duration::ZERO;
    });
    drop((permit, waiting));
    for _ in 0..80 {
        sleep(SECOND).await;
        assert!(!world.handle.may_exit().await, "the service is on its way");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_arrived_before_the_question_prevents_the_exit() {
    let mut world = World::new(Phase::Down);
    world.asleep().await;
    assert!(world.handle.may_exit().await);
    let permit = world.arrive(ANSWERING);
    assert!(!world.handle.may_exit().await);
    drop(permit);
}

#[tokio::test(start_paused = true)]
async fn whoever_is_turned_away_prevents_the_exit_until_it_is_gone() {
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
async fn a_service_found_on_its_way_is_not_looked_at_without_a_pause() {
    for phase in [Phase::Stopping, Phase::Starting] {
        let mut world = World::new(phase);
        // The clock stands still as long as somebody has something to do.
        for _ in 0..10_000 {
            tokio::task::yield_now().await;
        }
        let looks = world.service.script().looks;
        assert!(looks < 10, "{looks} looks at a service that is {phase:?}");
        world.service.set(|script| script.phase = Phase::Down);
        world.asleep().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_start_does_not_stop_what_somebody_else_started() {
    let mut world = World::new(Phase::Up);
    let mut permit = world.arrive(SILENT);
    assert!(matches!(permit.verdict().await, Outcome::Rejected));
    assert_eq!(world.counts(), (0, 0));
    drop(permit);
    world.asleep().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_target_is_its_own_clients_trouble_only() {
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
async fn a_service_that_died_is_woken_by_the_client_whom_it_refuses() {
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
    assert_eq!(record.state, record::State::Awake);
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
    assert_eq!(record.state, record::State::Failed);
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
async fn clients_wait_while_somebody_else_restarts_the_service() {
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
async fn one_look_is_enough_to_find_that_the_service_has_to_be_started() {
    let world = World::new(Phase::Up);
    let (permit, _) = world.served().await;
    world.service.set(|script| script.phase = Phase::Stopping);
    sleep(SECOND / 2).await;
    let waiting = world.arrive(ANSWERING);
    let looks = world.service.script().looks;
    world.service.set(|script| script.phase = Phase::Down);
    sleep(SECOND / 2).await;
    assert_eq!(world.counts().0, 1, "somebody waits");
    assert_eq!(world.service.script().looks, looks + 1);
    drop((permit, waiting));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_somebody_else_starts_is_not_looked_at_all_the_time() {
    let mut world = World::new(Phase::Starting);
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    // Not by the clock: it stands still as long as there is something to do.
    assert!(world.service.script().looks < 5, "{:?}", world.service);
    sleep(SECOND * 10).await;
    assert!(world.service.script().looks >= 10, "{:?}", world.service);
    // Nobody tells that it is up.
    world.service.quietly(|script| script.phase = Phase::Up);
    world.asleep().await;
    assert_eq!(world.counts(), (0, 1), "it was adopted");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_would_be_one_wake_too_many_is_turned_away_after_a_look() {
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

    // Somebody else starts it, and at first nobody is told.
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

    // And if nothing ever comes of it, nobody waits for ever.
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
async fn whoever_is_barred_is_counted_and_has_us_stay_for_a_while() {
    let mut world = World::new(Phase::Down);
    world.asleep().await;
    let began = now();
    for _ in 0..20 {
        world.entrances[ANSWERING].denied(&"listener".into(), SOMEBODY);
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
async fn a_service_that_will_not_stop_is_told_again() {
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
async fn the_end_waits_for_the_service_to_sleep_if_it_shall() {
    let world = World::new(Phase::Up);
    drop(world.served().await);
    world.handle.close(true, COOLDOWN);
    sleep(SECOND * 2).await;
    assert_eq!(world.counts(), (0, 1));
    assert_eq!(world.service.script().phase, Phase::Down);
}
