use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::Liveness;
use crate::config::address::Peer;
use crate::config::address::{Address, UnixAddress};
use crate::program::tests::{Log, Mark, sh, until};

fn child(script: &str, stop_timeout: Duration) -> Child {
    Child::new(
        sh(script),
        Dialer::new([], Liveness::default(), None),
        Launcher::direct(),
        stop_timeout,
    )
}

fn order(socket: &Path) -> WakeOrder {
    WakeOrder {
        target: Arc::new(Address::Unix(UnixAddress::Path(socket.into()))),
        listener: "web".into(),
        client: Peer::tcp("10.1.2.3:4567".parse().unwrap()),
        limit: Duration::MAX,
        given_up: CancellationToken::new(),
    }
}

fn nowhere() -> WakeOrder {
    order(Path::new("/nonexistent/wakeport-test"))
}

/// Runs `story` while the child is watched. It is told how often that has changed by itself.
async fn watched(child: &Child, story: impl AsyncFnOnce(&AtomicUsize)) {
    let changes = AtomicUsize::new(0);
    let watch = child.watch(|| {
        changes.fetch_add(1, Ordering::Relaxed);
    });
    tokio::select! {
        () = watch => panic!("the watch has ended"),
        () = story(&changes) => (),
    }
}

#[test]
fn tasks_can_do_it() {
    fn can_be_sent(_: impl Send) {}
    let child = child("true", Duration::MAX);
    can_be_sent(child.wake(nowhere()));
    can_be_sent(child.watch(|| ()));
    can_be_sent(child.sleep());
}

#[tokio::test]
async fn is_started_once_and_stopped_with_all_of_its_group() {
    let mark = Mark::new();
    let child = child(&mark.script("sleep 1000 & wait"), Duration::MAX);
    let story = async |changes: &AtomicUsize| {
        assert_eq!(child.query().await, Phase::Down);
        let woken = child.wake(nowhere()).await;
        assert_eq!((woken.started, woken.result), (StopScope::All, Ok(())));
        assert_eq!(child.query().await, Phase::Up);
        let woken = child.wake(nowhere()).await;
        assert_eq!((woken.started, woken.result), (StopScope::Nothing, Ok(())));
        until(|| mark.alive() == 2).await;
        assert_eq!(child.sleep().await, Ok(()));
        assert_eq!((child.query().await, mark.alive()), (Phase::Down, 0));
        assert_eq!(child.sleep().await, Ok(()));
        assert_eq!(changes.load(Ordering::Relaxed), 0);
    };
    watched(&child, story).await;
}

#[tokio::test]
async fn is_killed_when_it_ignores_sigterm() {
    let mark = Mark::new();
    let script = mark.script("trap '' TERM; sleep 1000 & wait");
    let child = child(&script, Duration::from_millis(50));
    assert_eq!(child.wake(nowhere()).await.result, Ok(()));
    until(|| mark.alive() == 2).await;
    assert_eq!(child.sleep().await, Ok(()));
    assert_eq!((child.query().await, mark.alive()), (Phase::Down, 0));
}

#[tokio::test]
async fn an_unexpected_exit_is_reported_and_its_group_killed() {
    let (log, mark) = (Log::start(), Mark::new());
    let child = child(
        &mark.script("sleep 1000 & echo last words; exit 3"),
        Duration::MAX,
    );
    let story = async |changes: &AtomicUsize| {
        for round in 1..=2 {
            assert_eq!(child.wake(nowhere()).await.started, StopScope::All);
            until(|| changes.load(Ordering::Relaxed) == round).await;
            assert_eq!((child.query().await, mark.alive()), (Phase::Down, 0));
        }
    };
    watched(&child, story).await;
    assert!(log.has("last words"));
    assert!(log.has("`/bin/sh` exited unexpectedly (exit status: 3)"));
}

#[tokio::test]
async fn a_crash_is_noticed_without_a_watch() {
    let mark = Mark::new();
    let child = child(&mark.script("sleep 1000 & exit 1"), Duration::MAX);
    for _ in 0..2 {
        assert_eq!(child.wake(nowhere()).await.started, StopScope::All);
        while child.query().await != Phase::Down {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("socket");
    let _foreign = UnixListener::bind(&socket).expect("binds");
    assert_eq!(child.wake(order(&socket)).await.started, StopScope::Nothing);
    assert_eq!(mark.alive(), 0);
    assert!(matches!(*child.state.borrow(), ChildState::Foreign(_)));
}

#[tokio::test]
async fn a_foreign_process_is_relayed_to_and_left_alone() {
    let (log, mark) = (Log::start(), Mark::new());
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("socket");
    let foreign = UnixListener::bind(&socket).expect("binds");
    let child = child(&mark.script("sleep 1000"), Duration::MAX);
    for _ in 0..2 {
        let woken = child.wake(order(&socket)).await;
        assert_eq!((woken.started, woken.result), (StopScope::Nothing, Ok(())));
    }
    assert_eq!((child.query().await, mark.alive()), (Phase::Up, 0));
    assert_eq!(child.sleep().await, Ok(()));
    assert_eq!(child.query().await, Phase::Down, "nothing of ours runs");
    let warnings = log
        .lines()
        .iter()
        .filter(|line| line.contains("answers already"))
        .count();
    assert_eq!(warnings, 1);

    drop(foreign);
    // A process that another test is just starting holds the socket until its exec.
    while child.dialer.answers(&order(&socket).target).await {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(child.wake(order(&socket)).await.started, StopScope::All);
}

#[tokio::test]
async fn a_program_that_cannot_be_run_is_named() {
    let command = CommandLine {
        program: "/no/such".into(),
        arguments: Vec::new(),
    };
    let child = Child::new(
        command,
        Dialer::new([], Liveness::default(), None),
        Launcher::direct(),
        Duration::MAX,
    );
    let woken = child.wake(nowhere()).await;
    let failure = woken.result.expect_err("there is no such program");
    assert!(
        failure.0.starts_with("cannot run the service `/no/such`: "),
        "{failure}"
    );
    assert_eq!(
        (woken.started, child.query().await),
        (StopScope::Nothing, Phase::Down)
    );
}

#[tokio::test]
async fn dies_with_its_owner() {
    let mark = Mark::new();
    let child = child(
        &mark.script("trap '' TERM; sleep 1000 & wait"),
        Duration::MAX,
    );
    assert_eq!(child.wake(nowhere()).await.result, Ok(()));
    until(|| mark.alive() == 2).await;
    drop(child);
    until(|| mark.alive() == 0).await;
}

/// Whether the process is stopped: the third field of its stat.
fn is_stopped(pid: Pid) -> bool {
    let pid = pid.as_raw_nonzero().get();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| rest.starts_with('T'))
}

#[tokio::test]
async fn a_child_that_is_frozen_goes_on_when_it_is_thawed_and_ends_when_it_is_stopped() {
    let mark = Mark::new();
    let child = child(&mark.script("exec sleep 1000"), Duration::MAX);
    assert_eq!(child.wake(nowhere()).await.started, StopScope::All);
    let ChildState::Up(pid) = *child.state.borrow() else {
        panic!("it runs");
    };
    for _ in 0..2 {
        assert_eq!(child.freeze(), Ok(()));
        assert_eq!(child.query().await, Phase::Frozen);
        until(|| is_stopped(pid)).await;
        assert_eq!(child.thaw(), Ok(()));
        assert_eq!(child.query().await, Phase::Up);
        until(|| !is_stopped(pid)).await;
    }
    assert_eq!(child.freeze(), Ok(()));
    // It finds that up.
    let woken = child.wake(nowhere()).await;
    assert_eq!((woken.started, woken.result), (StopScope::Nothing, Ok(())));
    assert_eq!(child.query().await, Phase::Up);
    assert_eq!(child.freeze(), Ok(()));
    // Without a limit: it has to hear of SIGTERM.
    assert_eq!(child.sleep().await, Ok(()));
    assert_eq!((child.query().await, mark.alive()), (Phase::Down, 0));
}

#[tokio::test]
async fn a_process_of_others_is_not_frozen() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let socket = dir.path().join("socket");
    let _foreign = UnixListener::bind(&socket).expect("binds");
    let child = child("sleep 1000", Duration::MAX);
    assert_eq!(child.wake(order(&socket)).await.started, StopScope::Nothing);
    let failure = child.freeze().expect_err("it is not ours");
    assert!(
        failure.0.starts_with("another process answers"),
        "{failure}"
    );
    assert_eq!((child.query().await, child.thaw()), (Phase::Up, Ok(())));
}
