//! `wakeport` makes an idle service cost nothing. systemd holds the service's listening sockets;
//! the first connection makes it start `wakeport`, which starts the service, holds the client
//! until the service answers, relays, and stops the service a cooldown after the last connection
//! has closed. Then it exits, and systemd goes on holding the sockets.
//!
//! The words (wake, sleep, cooldown, target, ...) are in `docs/glossary.md`. This page is the
//! architecture. Start with [`core::service`], which decides, then [`service`], which carries that
//! out, then [`server`], which is the process around it.
//!
//! # Promises, in this order
//!
//! 1. **No client is lost.** Lost is one that was accepted or queued and not served although the
//!    service could be had.
//! 2. **The port never dies.** No failure of the service, the bus or a hook, and no burst of
//!    clients, leaves the socket unit failed.
//! 3. **The proxy goes unnoticed.** Bytes, half-closes, resets and latency pass as if there were
//!    none.
//!
//! # Map
//!
//! ```text
//! main.rs              calls cli
//! -- decides: pure, opens nothing
//! core.rs core/        everything that decides about a service
//!   service.rs         inputs in, effects out: queues, queries, orders, time limits, exit vote
//!   lifecycle.rs       its states: (event, clients, now) -> action
//!   gate.rs            how connections come and go without asking
//!   wake_limiter.rs    how often it may wake
//! config.rs config/    settings (flag, variable, file) -> what they mean; defaults with their reasons
//! -- connects
//! server.rs server/    what the process has once: signals, drain, reload, exit
//!   running.rs         its services: built, reconfigured, let go
//!   routes.rs          which listener leads to which target of which service
//!   listeners.rs       the accept loops, on the threads of workers.rs, as slots.rs has room
//!   datagrams.rs       the same for datagrams: each goes to its flow, or begins one
//!   handover.rs        connections that the next process goes on with
//!   control.rs         requests by the control socket, and holds
//!   unit_lock.rs       one instance stops a unit
//! service.rs service/  carries out one core's effects: the one loop of a service
//!   handle.rs          a connection's side of it: entrance, permit, verdict
//!   targets.rs         its targets, each with its gate (gate.rs) and its probe (probe.rs)
//!   orders.rs          start, stop, give up: one at a time; queries
//!   guard.rs           does work keep it awake without clients?
//!   holds.rs           what holds it awake by order; sleepers.rs has it stopped by order
//!   reporter.rs        tells the log, STATUS= and the record
//! session.rs session/  one connection from accept to close; whose it is, behind a balancer; HTTP; TLS;
//!                      one client's datagrams: flow, and what is held of them: held
//! -- asks and answers
//! control.rs control/  varlink: messages and our interface (pure); its client
//! -- acts: one outside thing per file
//! net.rs net/          listen, stream, dial, endpoints, pool, http2, reach, direct, proxy_header, client_hello, relay,
//!                      datagram: batches of them (filter: which the kernel keeps while everything sleeps)
//! http.rs http/        heads, framing, chunks, repeats (pure); a body, and an exchange, on two sockets
//! backend.rs backend/  starts and stops the service: systemd, hooks, exec, kubernetes
//! kubernetes.rs kubernetes/  the client of its API server, and what can go wrong with a call
//! program.rs program/  runs an administrator's program: environment, time limit, output
//! systemd.rs systemd/  READY, STATUS, STOPPING, WATCHDOG; the log; MESSAGE_ID=s; which unit we are,
//!                      and whether it starts again; the client of its D-Bus interface
//! report.rs report/    what is told of a service: log lines, STATUS=, the record, its file, metrics; what KEDA asks
//! -- helps: one owner each
//! util.rs util/        backoff, lock, per_thread, text (escaped), file (whole or not at all), proc (/proc)
//! -- commands
//! admin.rs admin/      the files of an instance, what is wrong with one, what is on the machine
//! cli.rs cli/          options and config_file; run begins the server; init sets an instance up, check
//!                      verifies one; status and exporter show all records; reclaim is for root's unit
//! ```
//!
//! # The life of a connection
//!
//! An accept loop takes it when there is room, on the relay thread that will serve it. Its
//! [`session::Route`] leads to one target of one service. **While the gate of that target is open** it
//! enters by one atomic operation ([`service::Entrance::enter`]). **Otherwise** it waits
//! ([`service::Entrance::arrive`]): the service knows of it when the accept loop goes on, and answers
//! with a [`service::Verdict`] as soon as it is awake *and* the target answers; the connection that
//! proved it goes to the first client, the others dial for themselves. Either way it holds a
//! [`service::Permit`] then; dropping it *is* leaving. A connection whose dial fails gives its permit
//! back and waits again; the gate closes, and the service's state is queried.
//!
//! With `--http` it is a request that enters or waits, and leaves when its response has ended. A
//! connection between two, or one that may turn out to be no client's (behind a balancer, `--tls`,
//! `--wake-on-data`), only counts as pending, which prevents the exit. `--deny` has it reset.
//!
//! # Datagrams
//!
//! A listener of datagrams has one loop on one relay thread. It reads a batch and passes each part on to its
//! [`session::flow::Flow`], which is a client and the address that the client sends to. A new flow enters or waits as
//! a connection does, and the core knows no difference. What it gets until its target can be had is held. It ends
//! when nothing has shown for a while that its client is there. One that begins with a mere query gets no permit:
//! it lasts while the service is awake, and keeps it from nothing. A target that refuses datagrams has the flow
//! give its permit back and wait again, as a dial that fails. Before the exit the filter is set, then the buffer is
//! read to its end. On a drain the loop goes on for the flows there are; on a restart they are handed over.
//!
//! # Work without clients
//!
//! When the cooldown is over the core asks whether work keeps the service awake; the state stays
//! cooling and the gates stay open, so that a client enters as ever, which makes the answer void.
//! `service::guard` puts the question: to [`net::direct`] (connections that bypass us), to the
//! backend (units that would be stopped along, what they use) and to a program. An objection puts
//! the question off by 30 s; an answer that is missing or late is none. The CPU that units use at the
//! end of a cooldown goes to the record with the stop: `check` proposes a limit for `--busy-cpu`.
//!
//! # Requests and holds
//!
//! The control socket starts us as a port does. A request to wake or hold a service waits as a connection
//! does, open gate or not, and what it gets is a permit that nothing is relayed with: a
//! [`service::Hold`] lasts until its connection ends, or its time is over. The core takes it for a
//! client; the reports tell them apart, and count it as none that was served. An order to stop cuts the
//! cooldown short, so that work is asked for as ever; by force it goes on from any state in which the
//! service is up. A connection that holds nothing is pending, and closed when it is silent for long.
//!
//! # Freezing
//!
//! With `--freeze-after` the same happens earlier, and its order is to freeze: no gate is open and no connection
//! inside, so that none is ever let through to what is frozen. The next one that waits has it thawed. While it is
//! frozen the process stays, since nothing else would thaw it; on SIGTERM that comes first. A freeze that others
//! order under clients is theirs: it is only ended for one that waits, by a start.
//!
//! # Kubernetes
//!
//! A service may be workloads that are scaled to zero and back ([`config::kubernetes`]), with other wakeports in front of
//! them. The core knows nothing of these: to it the service is up while a claim of ours stands in their Lease, and
//! [`backend`] writes that before it says so. Only the wakeport that drops the last claim scales to zero, and no
//! claim is written while its order may be under way. Pods have addresses that come and go: the backend writes them
//! to [`net::endpoints`], and the dialer goes to the one with the fewest connections.
//!
//! # The gate
//!
//! One 64-bit word for each target: an open bit, connections inside, connections that ever entered.
//! Only the service opens and closes it, by the rules in [`core::gate`]. When the cooldown is over
//! and no work objects, the gates of all targets are closed one after the other, each only while no
//! connection is inside; if one refuses, those already closed open again. Only after all have closed
//! is the order to stop given: a connection is inside before that, or finds a closed gate and waits.
//!
//! # A restart
//!
//! If the manager says that our unit starts again, every session pauses where it is, and
//! [`server::handover`] leaves them to the next process by way of the manager's file descriptor store.
//! Until this process ends, a permit for each service keeps it from being stopped. The next one takes
//! them before its first accept: a relayed connection is inside the gate of the target that its
//! listener leads to now before the service asks or stops anything, and a waiting one waits again.
//! What cannot be stored, as HTTP/2, drains here.
//!
//! # Invariants
//!
//! - **The core decides and never acts.** [`core`] knows std only, no clock, no socket, no bus.
//!   Failure is an input. (`tests/it/tidy.rs` checks this; `tests/model` takes it through all states.)
//! - **One owner per fact.** All that is known of a service lives in its core, without locks. Others
//!   send messages or hold permits.
//! - **A service's inbox is the only order there is**, beside its gates. An accept loop that has ended
//!   has entered or posted every connection that it accepted; so [`service::Handle::may_exit`], asked
//!   afterwards, counts them all.
//! - **One order at a time.** The next one begins when the one before is over, whatever came of it.
//! - **A signal from the bus is a hint.** It only causes a query, and a query that was begun before an
//!   order ended says nothing.
//! - **Services know nothing of each other.** They share listeners' room, relay threads and the
//!   process; each has a core, queues, backend and record of its own.
//! - **Control never waits behind data.** Services and programs have the main thread to themselves (a
//!   program ends with the thread that started it); connections are accepted and relayed on
//!   [`server::workers`], each on one of them to its end. The main thread accepts until there is one.
//! - **What blocks has a thread of its own:** the log, the notifications to systemd, the record.
//! - **What outlives the process has wall-clock times**, spans within a life are monotonic: a clock
//!   that jumps gives no absurd figures.
//! - **Edges do not import each other**, except that what asks a target goes through [`net::dial`],
//!   what runs a program through [`program`], and what asks a service manager through
//!   [`systemd::dbus`].
//!
//! # Exit
//!
//! Only with inherited sockets, and only when every service votes for it: it was seen down since it
//! fell asleep (or, where only systemd's start of us starts it, its wake has failed), no connection
//! waits or is inside, and none was refused for a while (all that are share one process). Then:
//! stop accepting, join the accept loops; none may be pending; ask every service once more; accept a
//! last time without waiting. Anything found cancels the exit; what comes later has systemd start us.

pub mod core;
pub mod config;

pub mod server;
pub mod service;
pub mod session;

pub mod control;
pub mod http;
pub mod net;
pub mod backend;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod program;
pub mod systemd;
pub mod util;

pub mod report;
pub mod admin;
pub mod cli;

#[cfg(test)]
extern crate self as wakeport;
#[cfg(test)]
#[path = "../tests/fuzz/properties/mod.rs"]
mod properties;
