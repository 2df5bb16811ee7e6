//! Peers that vanish without a FIN or a reset: the link is cut.

use crate::support::{Client, Flow, Network, Place, Run, Wakeport, Wire, until};

/// Sends keepalive probes early, and so many of them.
fn keepalive(probes: u32) -> Run {
    Run::new()
        .option("--keepalive-probes", probes)
        .option("--keepalive-time", "1s")
        .option("--keepalive-interval", "1s")
}

/// A short user timeout.
fn user_timeout() -> Run {
    Run::new().option("--user-timeout", "2s")
}

/// A client on the other host whose target is here; their ends of the connection.
fn client_there(network: &Network, run: Run) -> (Wire, Client, Client) {
    let wire = Wire::between(Network::here(), Place::tcp(), run);
    let client = network.there(|| wire.front.connect());
    let server = wire.server();
    (wire, client, server)
}

/// A client here whose target is on the other host.
fn target_there(network: &Network, run: Run) -> (Wire, Client, Client) {
    let (front, target) = (Place::tcp(), Network::far());
    let listener = network.there(|| target.listen());
    let run = run.to(&target).listen(&front);
    let wire = Wire::on(front, listener, &run);
    let (client, server) = wire.pair();
    (wire, client, server)
}

/// Waits until a dead peer is reported.
fn tells(wakeport: &Wakeport) {
    wakeport.logs("peer timed out");
    until("it is counted", || {
        let status = wakeport.status();
        status.starts_with("cooling") && status.ends_with("1 closed as timed out")
    });
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn an_idle_client_that_vanishes_times_out_and_the_target_sees_a_reset() {
    let network = Network::new();
    let (wire, client, server) = client_there(&network, keepalive(2));
    client.send("I am here");
    server.take(9);
    network.cut();
    server.is_reset();
    tells(&wire.wakeport);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn an_idle_target_that_vanishes_times_out_and_the_client_sees_a_reset() {
    let network = Network::new();
    let (wire, client, server) = target_there(&network, keepalive(2));
    client.send("I am here");
    server.take(9);
    network.cut();
    client.is_reset();
    tells(&wire.wakeport);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_client_on_the_local_network_that_vanishes_times_out() {
    let network = Network::new();
    // Long enough for address resolution to fail.
    let (wire, client, server) = client_there(&network, keepalive(6));
    client.send("I am here");
    server.take(9);
    network.switch_off();
    server.is_reset();
    tells(&wire.wakeport);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_client_that_vanishes_during_an_answer_times_out() {
    let network = Network::new();
    let (wire, client, server) = client_there(&network, user_timeout());
    let flow = Flow::new(&server, &client, 1);
    wire.bulk([&flow], || wire.wakeport.pipes() > 0);
    network.cut();
    flow.breaks();
    tells(&wire.wakeport);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_target_that_vanishes_during_an_upload_times_out() {
    let network = Network::new();
    let (wire, client, server) = target_there(&network, user_timeout());
    let flow = Flow::new(&client, &server, 2);
    wire.bulk([&flow], || wire.wakeport.pipes() > 0);
    network.cut();
    flow.breaks();
    tells(&wire.wakeport);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_client_that_vanishes_with_an_answer_in_flight_times_out() {
    let network = Network::new();
    let (wire, client, server) = client_there(&network, user_timeout());
    client.send("a question");
    server.take(10);
    network.cut();
    server.send("an answer");
    server.is_reset();
    tells(&wire.wakeport);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_target_that_vanishes_with_a_request_in_flight_times_out() {
    let network = Network::new();
    let (wire, client, server) = target_there(&network, user_timeout());
    client.send("a question");
    server.take(10);
    network.cut();
    client.send("another question");
    client.is_reset();
    tells(&wire.wakeport);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_client_that_vanishes_while_it_waits_does_not_hold_up_the_exit() {
    let network = Network::new();
    let front = Network::here();
    // No server listens there.
    let wakeport = keepalive(2).to(Place::tcp()).listen(&front).start();
    let client = network.there(|| front.connect());
    client.send("a question");
    wakeport.is("waking: the target has started, but does not answer yet, 1 client waiting");
    network.cut();
    until("no client waits", || !wakeport.status().contains("waiting"));
}
