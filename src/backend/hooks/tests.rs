use std::fs;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::config::Liveness;
use crate::config::address::Peer;
use crate::config::address::{Address, UnixAddress};
use crate::program::tests::{Mark, sh, until};

/// A service behind a Unix socket, in a directory that the hooks may use: `$DIR`.
struct Service {
    dir: TempDir,
    mark: Mark,
}

impl Service {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a directory"),
            mark: Mark::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn up(&self) -> UnixListener {
        UnixListener::bind(self.path("socket")).expect("binds")
    }

    fn target(&self, name: &str) -> Arc<Target> {
        Arc::new(Address::Unix(UnixAddress::Path(self.path(name))))
    }

    fn hooks(&self, start: Option<&str>, stop: Option<&str>, stop_timeout: Duration) -> Hooks {
        let dir = self.dir.path().display();
        let hook = |script| sh(&self.mark.script(&format!("DIR={dir}; {script}")));
        let targets = vec![self.target("never"), self.target("socket")];
        let (start, stop) = (start.map(hook), stop.map(hook));
        Hooks {
            start,
            stop,
            pause: None,
            may_be_frozen: false.into(),
            targets,
            dialer: Dialer::new([], Liveness::default(), None),
            launcher: Launcher::direct(),
            stop_timeout,
        }
    }

    fn order(&self, limit: Duration) -> WakeOrder {
        WakeOrder {
            target: self.target("socket"),
            listener: "web".into(),
            client: Peer::tcp("10.1.2.3:4567".parse().unwrap()),
            limit,
            given_up: CancellationToken::new(),
        }
    }

    async fn wake(&self, start: &str, limit: Duration) -> (StopScope, Result<(), Failure>) {
        let hooks = self.hooks(Some(start), None, Duration::MAX);
        let woken = hooks.wake(self.order(limit)).await;
        (woken.started, woken.result)
    }

    async fn sleep(&self, stop: &str, stop_timeout: Duration) -> Result<(), Failure> {
        self.hooks(None, Some(stop), stop_timeout).sleep().await
    }
}

fn failure(what: &str) -> Result<(), Failure> {
    Err(Failure(format!("the {what}")))
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn tasks_can_do_it() {
    fn can_be_sent(_: impl Send) {}
    let service = Service::new();
    let hooks = service.hooks(None, None, MINUTE);
    can_be_sent(hooks.query());
    can_be_sent(hooks.wake(service.order(MINUTE)));
    can_be_sent(hooks.sleep());
}

#[tokio::test]
async fn only_a_service_with_a_stop_hook_is_ever_up() {
    let service = Service::new();
    let [with, without] = [Some("true"), None].map(|stop| service.hooks(None, stop, MINUTE));
    assert_eq!(with.query().await, Ok(Phase::Down));
    let _up = service.up();
    assert_eq!(with.query().await, Ok(Phase::Up));
    assert_eq!(without.query().await, Ok(Phase::Down));
    assert_eq!(without.sleep().await, Ok(()));
}

#[tokio::test]
async fn a_service_that_answers_is_adopted() {
    let service = Service::new();
    let _up = service.up();
    let woken = service.wake("touch $DIR/run", MINUTE).await;
    assert_eq!(woken, (StopScope::Nothing, Ok(())));
    assert!(!service.path("run").exists());
}

#[tokio::test]
async fn without_a_start_hook_nothing_is_started() {
    let service = Service::new();
    let woken = service
        .hooks(None, None, MINUTE)
        .wake(service.order(MINUTE))
        .await;
    assert_eq!((woken.started, woken.result), (StopScope::Nothing, Ok(())));
}

#[tokio::test]
async fn the_start_hook_knows_what_it_is_run_for() {
    let service = Service::new();
    let woken = service
        .wake("env | grep ^WAKEPORT_ > $DIR/env", MINUTE)
        .await;
    assert_eq!(woken, (StopScope::All, Ok(())));
    let target = format!("WAKEPORT_TARGET={}", service.path("socket").display());
    let environment = service.read("env");
    for line in [
        "WAKEPORT_EVENT=start",
        &target,
        "WAKEPORT_LISTENER=web",
        "WAKEPORT_CLIENT=10.1.2.3:4567",
        "WAKEPORT_ATTEMPT=1",
        "WAKEPORT_TIMEOUT_SEC=60",
    ] {
        assert!(
            environment.lines().any(|l| l == line),
            "{line} in {environment}"
        );
    }
}

#[tokio::test]
async fn without_a_limit_no_seconds_are_left() {
    let service = Service::new();
    let woken = service.wake("env > $DIR/env", Duration::MAX).await;
    assert_eq!(woken, (StopScope::All, Ok(())));
    assert!(!service.read("env").contains("WAKEPORT_TIMEOUT_SEC"));
}

#[tokio::test]
async fn temporary_failures_are_retried() {
    let service = Service::new();
    let script = "echo $WAKEPORT_ATTEMPT >> $DIR/tries; [ $WAKEPORT_ATTEMPT = 2 ] || exit 75";
    assert_eq!(service.wake(script, MINUTE).await, (StopScope::All, Ok(())));
    assert_eq!(service.read("tries"), "1\n2\n");
}

#[tokio::test]
async fn temporary_failures_end_with_the_timeout() {
    let service = Service::new();
    let woken = service.wake("exit 75", Duration::from_millis(1500)).await;
    let ended = failure("start hook `/bin/sh` failed (exit status: 75)");
    assert_eq!(woken, (StopScope::All, ended));
}

#[tokio::test]
async fn a_failure_says_how_the_hook_ended() {
    let service = Service::new();
    for (script, how) in [
        ("exit 1", "exit status: 1"),
        ("kill -9 $$", "signal: 9 (SIGKILL)"),
    ] {
        let woken = service.wake(script, MINUTE).await;
        let ended = failure(&format!("start hook `/bin/sh` failed ({how})"));
        assert_eq!(woken, (StopScope::All, ended));
    }
}

#[tokio::test]
async fn a_hook_that_cannot_be_run_has_started_nothing() {
    let service = Service::new();
    let mut hooks = service.hooks(Some(""), None, MINUTE);
    hooks.start = "/no/such --flag".parse().ok();
    let woken = hooks.wake(service.order(MINUTE)).await;
    let failure = woken.result.expect_err("there is no such program");
    assert!(
        failure
            .0
            .starts_with("cannot run the start hook `/no/such`: "),
        "{failure}"
    );
    assert_eq!(woken.started, StopScope::Nothing);
}

#[tokio::test]
async fn a_hook_that_takes_too_long_is_stopped() {
    let service = Service::new();
    let woken = service
        .wake("sleep 1000 & wait", Duration::from_secs(1))
        .await;
    let failure = woken.1.expect_err("it takes too long").0;
    let start = "the start hook `/bin/sh` timed out after ";
    assert!(failure.starts_with(start), "{failure}");
    assert_eq!((woken.0, service.mark.alive()), (StopScope::All, 0));
}

#[tokio::test]
async fn a_start_that_is_given_up_ends_soon() {
    let service = Service::new();
    let hooks = service.hooks(Some("sleep 1000 & wait"), None, MINUTE);
    let order = service.order(Duration::MAX);
    let given_up = order.given_up.clone();
    let give_up = async {
        until(|| service.mark.alive() == 2).await;
        given_up.cancel();
    };
    let (woken, ()) = tokio::join!(hooks.wake(order), give_up);
    let ended = failure("start hook `/bin/sh` was cancelled");
    assert_eq!((woken.started, woken.result), (StopScope::All, ended));
    assert_eq!(service.mark.alive(), 0);

    let order = service.order(Duration::MAX);
    order.given_up.cancel();
    let woken = hooks.wake(order).await;
    let ended = failure("start hook `/bin/sh` was cancelled");
    assert_eq!((woken.started, woken.result), (StopScope::Nothing, ended));
}

#[tokio::test]
async fn a_stop_is_over_when_nothing_answers() {
    let service = Service::new();
    let up = service.up();
    let stop = service.sleep("env > $DIR/env; touch $DIR/done", MINUTE);
    let go_down = async {
        until(|| service.path("done").exists()).await;
        drop(up);
    };
    let (stopped, ()) = tokio::join!(stop, go_down);
    assert_eq!(stopped, Ok(()));
    let environment = service.read("env");
    assert!(
        environment.contains("WAKEPORT_EVENT=stop\n"),
        "{environment}"
    );
    assert!(environment.contains("WAKEPORT_TARGET="), "{environment}");
    assert!(!environment.contains("WAKEPORT_CLIENT"), "{environment}");
}

#[tokio::test]
async fn a_service_that_is_frozen_is_known_to_be_although_it_accepts_connections() {
    let service = Service::new();
    let _up = service.up();
    let dir = service.dir.path().display();
    let hook = |what: &str| sh(&format!("echo $WAKEPORT_EVENT >> {dir}/run; {what}"));
    let mut hooks = service.hooks(None, Some("true"), MINUTE);
    let (freeze, thaw) = (hook(""), hook(&format!("test -e {dir}/may-thaw")));
    hooks.pause = Some(Pause { freeze, thaw });
    assert_eq!(hooks.thaw().await, Ok(()), "nothing is frozen");
    assert_eq!(hooks.query().await, Ok(Phase::Up));
    assert_eq!(hooks.freeze().await, Ok(()));
    assert_eq!(hooks.query().await, Ok(Phase::Frozen));
    assert_eq!(
        hooks.thaw().await,
        failure("thaw hook `/bin/sh` failed (exit status: 1)")
    );
    assert_eq!(hooks.query().await, Ok(Phase::Frozen));
    fs::write(service.path("may-thaw"), "").expect("writes");
    // A start finds it up.
    let woken = hooks.wake(service.order(MINUTE)).await;
    assert_eq!((woken.started, woken.result), (StopScope::Nothing, Ok(())));
    assert_eq!(hooks.query().await, Ok(Phase::Up));
    assert_eq!(service.read("run"), "freeze\nthaw\nthaw\n");
}

#[tokio::test]
async fn what_an_earlier_process_may_have_frozen_is_thawed_before_it_is_used_or_stopped() {
    let service = Service::new();
    let up = service.up();
    let dir = service.dir.path().display();
    let hook = sh(&format!("echo $WAKEPORT_EVENT >> {dir}/run"));
    let mut hooks = service.hooks(None, Some("echo stop >> $DIR/run"), MINUTE);
    hooks.may_be_frozen = true.into();
    let (freeze, thaw) = (hook.clone(), hook);
    hooks.pause = Some(Pause { freeze, thaw });
    assert_eq!(hooks.query().await, Ok(Phase::Frozen));
    drop(up);
    fs::remove_file(service.path("socket")).expect("it is there");
    assert_eq!(hooks.query().await, Ok(Phase::Down));
    assert_eq!(hooks.sleep().await, Ok(()));
    assert_eq!(service.read("run"), "thaw\nstop\n");
}

#[tokio::test]
async fn a_stop_that_has_no_effect_is_a_failure() {
    let service = Service::new();
    let _up = service.up();
    let stopped = service.sleep("true", Duration::from_secs(1)).await;
    let socket = service.path("socket");
    let ended = format!(
        "stop hook `/bin/sh` succeeded, but `{}` still answers",
        socket.display()
    );
    assert_eq!(stopped, failure(&ended));
}

#[tokio::test]
async fn a_stop_can_fail_and_be_retried() {
    let service = Service::new();
    let ended = failure("stop hook `/bin/sh` failed (exit status: 2)");
    assert_eq!(service.sleep("exit 2", MINUTE).await, ended);
    let script = "[ $WAKEPORT_ATTEMPT = 2 ] || exit 75";
    assert_eq!(service.sleep(script, Duration::MAX).await, Ok(()));
}
