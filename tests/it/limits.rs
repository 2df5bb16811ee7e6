//! Connections, files, threads or memory run out.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::{
    Client, HookService, Place, Run, Server, Trace, Wakeport, Wire, now, soon, throughout, until,
};

#[test]
fn a_client_beyond_max_connections_waits_in_the_backlog_until_another_closes() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let server = Server::echo(&target);
    let wakeport = Run::new()
        .to(&target)
        .listen(&front)
        .option("--max-connections", 2)
        .start();
    let (one, two) = (front.connect(), front.connect());
    one.echoes("one");
    two.echoes("two");
    let three = front.connect();
    three.send("three");
    throughout(Duration::from_millis(300), "it waits", || three.is_silent());
    assert_eq!(server.connections(), 2);
    drop(one);
    assert_eq!(three.take(5), b"three");
    two.echoes("two again");
    wakeport.is("awake: 2 clients");
}

#[test]
fn a_thread_is_started_for_each_client_until_there_are_as_many_as_allowed() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let _server = Server::echo(&target);
    let wakeport = Run::new()
        .to(&target)
        .listen(&front)
        .option("--threads", 3)
        .start();
    let threads = || {
        let tasks = format!("/proc/{}/task", wakeport.id());
        let tasks = fs::read_dir(tasks).unwrap().flatten();
        let names = tasks.map(|task| fs::read_to_string(task.path().join("comm")).unwrap());
        names.filter(|name| name.trim_end() == "relay").count()
    };
    assert_eq!(threads(), 0, "no client yet");
    let mut clients = Vec::new();
    for expected in [1, 2, 3, 3, 3] {
        let client = front.connect();
        client.echoes("hello");
        clients.push(client);
        assert_eq!(threads(), expected);
    }
    clients.clear();
    wakeport.is("cooling");
    front.connect().echoes("again");
    assert_eq!(threads(), 3, "they are kept for the next clients");
}

#[test]
fn clients_beyond_max_waiting_wait_in_the_backlog_and_are_served_as_well() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let wakeport = Run::new()
        .to(&target)
        .listen(&front)
        .option("--max-waiting", 3)
        .start();
    let clients: Vec<_> = (0..10).map(|_| front.connect()).collect();
    wakeport.is("waking: the target has started, but does not answer yet, 3 clients waiting");
    let _server = Server::echo(&target);
    for (number, client) in clients.iter().enumerate() {
        client.echoes(&format!("client {number}"));
    }
    wakeport.is("awake: 10 clients");
}

#[test]
fn a_waiting_client_that_resets_frees_its_place_in_the_queue() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let wakeport = Run::new()
        .to(&target)
        .listen(&front)
        .option("--max-waiting", 1)
        .start();
    for _ in 0..5 {
        let client = front.connect();
        wakeport.is("waking: the target has started, but does not answer yet, 1 client waiting");
        client.reset();
    }
    let _server = Server::echo(&target);
    front.connect().echoes("hello");
}

/// Sets the limit on open files of a running process.
fn limit_files(wakeport: &Wakeport, files: usize) {
    let mut prlimit = Command::new("prlimit");
    let pid = format!("--pid={}", wakeport.id());
    let status = prlimit.args([pid, format!("--nofile={files}:")]).status();
    assert!(status.expect("util-linux").success());
}

#[test]
fn without_files_for_more_clients_it_neither_spins_nor_exits_and_recovers() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let _server = Server::echo(&target);
    let mut wakeport = Run::new()
        .to(&target)
        .listen(&front)
        .option("--start-timeout", "infinity")
        .start();
    let first = front.connect();
    first.echoes("first");
    limit_files(&wakeport, wakeport.open_files() + 5);
    let clients: Vec<_> = (0..20).map(|_| front.connect()).collect();
    wakeport.logs("connections stay in the backlog");
    let cpu = wakeport.cpu();
    throughout(Duration::from_secs(1), "it goes on", || {
        first.try_echo("still here").is_ok()
    });
    let cpu = wakeport.cpu() - cpu;
    assert!(
        cpu < Duration::from_millis(500),
        "{cpu:?} of processor time in a second"
    );
    limit_files(&wakeport, 500);
    for (number, client) in clients.iter().enumerate() {
        client.echoes(&format!("client {number}"));
    }
    assert!(wakeport.is_running());
    let complaints = wakeport.log().matches("cannot accept").count();
    assert!(complaints < 10, "{complaints} complaints");
}

#[test]
fn max_connections_is_limited_by_open_files() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let mut wakeport = Run::new()
        .to(&target)
        .listen(&front)
        .option("--max-connections", 1000)
        .option("--start-timeout", "infinity")
        .under(&["prlimit", "--nofile=90:90"])
        .start();
    wakeport.logs("`--max-connections 1000`");
    // If all were admitted, no file would be left for the connections to the target.
    let clients: Vec<_> = (0..100).map(|_| front.connect()).collect();
    wakeport.is("waking: the target has started, but does not answer yet, 13 clients waiting");
    let _server = Server::echo(&target);
    for (number, client) in clients.into_iter().enumerate() {
        client.echoes(&format!("client {number}"));
    }
    assert!(wakeport.is_running());
    assert!(
        !wakeport.log().contains("cannot accept"),
        "{}",
        wakeport.log()
    );
}

#[test]
fn the_soft_limit_on_open_files_is_raised() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let _server = Server::echo(&target);
    let wakeport = Run::new()
        .to(&target)
        .listen(&front)
        .under(&["prlimit", "--nofile=32:1000"])
        .start();
    let clients: Vec<_> = (0..100).map(|_| front.connect()).collect();
    clients.iter().for_each(|client| client.echoes("hello"));
    assert!(wakeport.open_files() > 200);
    drop(clients);
    until("the files are closed", || wakeport.open_files() < 32);
}

#[test]
fn max_connections_defaults_to_what_open_files_allow() {
    let stage = HookService::new();
    let front = Place::tcp();
    let mut wakeport = stage
        .run()
        .listen(&front)
        .under(&["prlimit", "--nofile=100:100"])
        .start();
    // Files for 18 clients, beside those of wakeport itself.
    let clients: Vec<_> = (0..30).map(|_| front.connect()).collect();
    for client in clients {
        client.echoes("hello");
    }
    assert!(wakeport.is_running());
    assert!(
        !wakeport.log().contains("cannot accept"),
        "{}",
        wakeport.log()
    );
}

#[test]
fn without_files_at_start_it_exits_after_its_minimum_life_and_leaves_the_backlog_to_the_next_instance()
 {
    let (front, target) = (Place::tcp(), Place::tcp());
    let _server = Server::echo(&target);
    let listener = front.listen();
    let client = front.connect();
    client.send("hello");
    let run = || Run::new().to(&target).inherit("web", &listener);
    for files in 5..10 {
        let began = now();
        let limit = format!("--nofile={files}:{files}");
        let (said, code) = run().under(&["prlimit", &limit]).fails();
        assert_eq!(code, 70, "{said}");
        assert!(said.contains("cannot go on: Too many open files"), "{said}");
        assert!(
            began.elapsed() >= Duration::from_millis(250),
            "systemd gives it up"
        );
    }
    let _wakeport = run().start();
    assert_eq!(client.take(5), b"hello");
}

#[test]
fn without_files_for_any_client_it_logs_once_and_runs_until_there_are_some() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let _server = Server::echo(&target);
    let listener = front.listen();
    let first = front.connect();
    let run = Run::new()
        .to(&target)
        .inherit("web", &listener)
        .cooldown("0");
    let mut wakeport = run.start();
    first.echoes("first");
    // Not one more, whatever is open.
    limit_files(&wakeport, 3);
    let client = front.connect();
    client.send("hello");
    wakeport.logs("connections stay in the backlog");
    drop(first);
    // It would exit by now, but the backlog may not be empty.
    throughout(Duration::from_secs(1), "it stays", || wakeport.is_running());
    assert_eq!(wakeport.log().matches("cannot accept").count(), 1);
    limit_files(&wakeport, 500);
    assert_eq!(client.take(5), b"hello");
}

/// Allows the first threads, and none after them.
fn without_threads_after(count: usize) -> Trace {
    let calls = "clone,clone3";
    Trace::of(calls).inject(&format!("{calls}:error=EAGAIN:when={}+", count + 1))
}

#[test]
fn without_relay_threads_clients_are_served_on_the_main_thread() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let _server = Server::echo(&target);
    // The log and the notifications have theirs.
    let trace = without_threads_after(2);
    let mut wakeport = trace.around(Run::new().to(&target).listen(&front)).start();
    let clients: Vec<_> = (0..10).map(|_| front.connect()).collect();
    clients.iter().for_each(|client| client.echoes("hello"));
    wakeport.logs("cannot start a thread");
    wakeport.is("awake: 10 clients");
    assert!(wakeport.is_running());
}

#[test]
fn without_a_resolver_thread_the_lookup_is_retried() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let _server = Server::echo(&target);
    let target = target.tcp_address();
    // One that only the resolver knows: two numbers in place of four.
    let IpAddr::V4(ip) = target.ip() else {
        panic!("it is IPv4");
    };
    let name = format!("127.{}:{}", ip.to_bits() & 0xff_ffff, target.port());
    // The relay has its thread; the first lookups have none.
    let trace = Trace::of("clone,clone3").inject("clone,clone3:error=EAGAIN:when=4..8");
    let wakeport = trace.around(Run::new().to(name).listen(&front)).start();
    for _ in 0..3 {
        front.connect().echoes("hello");
    }
    assert!(!wakeport.log().contains("panicked"), "{}", wakeport.log());
    assert!(trace.count(&["INJECTED"]) > 3);
}

#[test]
fn a_connection_without_send_memory_is_reset_and_others_go_on() {
    for error in ["ENOBUFS", "ENOMEM"] {
        let trace = Trace::of("sendto").inject(&format!("sendto:error={error}:when=5"));
        let run = Run::new().option("--threads", 1);
        let wire = Wire::between(Place::tcp(), Place::tcp(), trace.around(run));
        let (other, other_server) = wire.pair();
        let (client, server) = wire.pair();
        let told = soon("it fails", || {
            client.send("ping");
            match server.some() {
                Ok(bytes) => (bytes != b"ping").then_some(Ok(bytes)),
                Err(error) => Some(Err(error.kind())),
            }
        });
        assert_eq!(told, Err(io::ErrorKind::ConnectionReset));
        client.is_reset();
        other.send("ping");
        assert_eq!(other_server.take(4), b"ping");
    }
}

#[test]
#[ignore = "needs 20,000 files: tests/run as root runs it"]
fn ten_thousand_clients_that_wait_for_one_start_are_served_in_batches() {
    const CLIENTS: u64 = 10_000;
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).expect("up to the hard limit");
    let stage = HookService::direct(|_| (), |_, _| 0);
    let front = Place::tcp();
    let run = stage.run().listen(&front);
    let wakeport = run.option("--max-waiting", CLIENTS).start();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let client = front.connect();
            client.send(number.to_le_bytes());
            client
        })
        .collect();
    // Without files for all, the others are in the backlog.
    until("they wait", || {
        let status = wakeport.status();
        let last = status.rsplit(", ").next().unwrap_or_default();
        let waiting = last.strip_suffix(" clients waiting");
        waiting.is_some_and(|count| {
            count
                .parse()
                .is_ok_and(|count: u64| count > CLIENTS * 9 / 10)
        })
    });
    // One after the other.
    let listener = stage.scene().place.listen_with_backlog(128);
    let server = thread::spawn(move || {
        for _ in 0..CLIENTS {
            let (socket, _) = listener.accept().expect("a client");
            let client = Client::from(socket);
            client.send(client.take(8));
        }
    });
    for (number, client) in (0..).zip(clients) {
        assert_eq!(client.all(), u64::to_le_bytes(number));
    }
    server.join().expect("no panic");
    wakeport.is("cooling: stopping in 5min, 10000 served");
    assert_eq!(stage.count("start"), 1);
}
