//! SIGKILL in every state, with one, two and three wakeports in front of the workload.

use rustix::process::Signal;

use crate::cluster::{Namespace, until};
use crate::program::{Client, WEB, Wakeport};

const LEASE: &str = "wakeport-deployment-web";

#[derive(Clone, Copy, Debug)]
enum State {
    Waking,
    Awake,
    Cooling,
    Stopping,
    Asleep,
}

/// The first of the wakeports is killed in this state, and starts again in its pod.
fn kill(space: &Namespace, pods: &[&str], state: State) {
    let options = [&WEB[..], &["--cooldown", "2s"]].concat();
    let start = |pod: &str| Wakeport::of("admin", pod, space, &options);
    let mut wakeports: Vec<Wakeport> = pods.iter().map(|pod| start(pod)).collect();
    let mut clients: Vec<Client> = wakeports.iter().map(Wakeport::connect).collect();
    if !matches!(state, State::Waking) {
        clients.iter_mut().for_each(|client| _ = client.greeted());
    }
    match state {
        State::Waking => until("each has a claim", || space.claims() == pods.len()),
        State::Awake => (),
        State::Cooling => clients.remove(0).closes(),
        State::Stopping => {
            clients.drain(..).for_each(Client::closes);
            until("it stops", || space.replicas("deployments") == 0);
        }
        State::Asleep => {
            clients.drain(..).for_each(Client::closes);
            space.sleeps("deployments");
        }
    }
    wakeports[0].signal(Signal::KILL);
    // Its own connections end with it; those of the others go on.
    if clients.len() == pods.len() {
        drop(clients.remove(0));
    }
    for client in &mut clients {
        if matches!(state, State::Waking) {
            client.greeted();
        }
        client.echoes("still here");
    }
    wakeports[0] = start(pods[0]);
    let mut news: Vec<Client> = wakeports.iter().map(Wakeport::connect).collect();
    for client in &mut news {
        client.greeted();
        client.echoes("hello");
    }
    for client in &mut clients {
        client.echoes("still here");
    }
    news.into_iter().chain(clients).for_each(Client::closes);
    space.sleeps("deployments");
    until("asleep, without a claim", || {
        space.lease(LEASE)["state"] == "asleep" && space.claims() == 0
    });
}

fn in_every_state(name: &str, pods: &[&str]) {
    let space = Namespace::new(name);
    space.workload(
        "deployments",
        0,
        &[("test/delay", "1"), ("test/grace", "1")],
    );
    for pod in &pods[1..] {
        space.pod(pod);
    }
    for state in [
        State::Waking,
        State::Awake,
        State::Cooling,
        State::Stopping,
        State::Asleep,
    ] {
        kill(&space, pods, state);
    }
}

#[test]
#[ignore = "tests/k8s/run"]
fn one_wakeport_is_killed_in_every_state() {
    in_every_state("kills-1", &[""]);
}

#[test]
#[ignore = "tests/k8s/run"]
fn one_of_two_wakeports_is_killed_in_every_state() {
    in_every_state("kills-2", &["", "second"]);
}

#[test]
#[ignore = "tests/k8s/run"]
fn one_of_three_wakeports_is_killed_in_every_state() {
    in_every_state("kills-3", &["", "second", "third"]);
}
