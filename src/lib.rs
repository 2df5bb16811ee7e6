//! `wakeport` makes an idle service cost nothing. systemd holds the service's listening sockets;
//! the first connection makes it start `wakeport`, which starts the service, holds the client
//! until the service answers, relays, and stops the service a cooldown after the last client
//! left. Then it exits, and systemd goes on holding the sockets.
//!
//! The words (wake, sleep, cooldown, target, ...) are in `docs/glossary.md`.
//! This page is the architecture: what there is, who knows whom, and what must stay true. Start
//! with [`core::lifecycle`], which holds every decision, then [`service`], which carries them out.
//!
//! # Promises, in this order
//!
//! 1. **No client is lost.** Lost is one that was accepted or queued and not served although the
//!    service could be had.
//! 2. **The port never dies.** No failure of the service, the bus or a hook, and no burst of
//!    clients, leaves the socket unit failed.
//! 3. **Nobody notices.** Bytes, half-closes, resets and latency pass as if there were no proxy.
//!
//! # Map
//!
//! ```text
//! main.rs              calls cli
//! -- decides: pure, opens nothing
//! core.rs core/        the lifecycle: (event, clients, now) -> action; how often it may wake
//! config.rs config/    what was given (settings: by flag, variable, file) -> what it means; every
//!                      default with its reason
//! -- connects
//! server.rs server/    what the process has once: accept loops, relay threads, limits
//! service.rs service/  the one loop of a service: events in, the core asked, effects carried out;
//!                      permits, the probe, the log lines and the record of what happens
//! session.rs session/  one client from accept to close; behind a balancer, who it is
//! -- acts: one outside thing per file
//! net.rs net/          listen, stream, dial, reach, proxy_header, relay
//! backend.rs backend/  starts and stops the service: systemd, hooks, exec
//! program.rs program/  runs an administrator's program: environment, time limit, output
//! systemd.rs systemd/  READY, STATUS, STOPPING, WATCHDOG; the log; MESSAGE_ID=s; which unit we are;
//!                      the client of its D-Bus interface
//! report.rs report/    the record of an instance, as a file and as metrics
//! -- helps: one owner each
//! util.rs util/        backoff, text (control characters), file (whole or not at all), proc (/proc)
//! -- commands
//! admin.rs admin/      the files of an instance, what is wrong with one, what is on the machine
//! cli.rs cli/          options (flags and variables), config_file (the file of several services),
//!                      plan (which listener goes where), run (wires it all),
//!                      observed (its record), status and exporter (show all records), init (sets
//!                      an instance up), check (verifies one), instances (all of them), output (of
//!                      commands), inside (for tests)
//! ```
//!
//! # The life of a connection
//!
//! [`server::accept`] takes it when there is room and hands it to the [`session::Sessions`], which tells the
//! driver ([`service::Handle::arrive`]) before anything else happens, and spawns a session on the
//! thread of [`server::workers`] that has the fewest. (Whoever comes from a network that is not let in is
//! reset instead, and the driver only counts it. Behind a load balancer, and with `--wake-on-data`,
//! it is only said that somebody knocks, [`service::Handle::knock`], which prevents the exit and
//! wakes nobody; that it is a client is said when its PROXY header or its first byte has come.) The
//! session holds a [`service::Permit`] from then on; dropping it *is* leaving. It waits for the
//! driver's [`service::Verdict`]. The driver gives one when the service is awake *and* the
//! client's own target answers: the connection that proved it goes to the first client, the
//! others dial for themselves. Whoever is refused then goes back to waiting, and the driver looks
//! whether the service still runs. [`net::relay`] moves the bytes.
//!
//! # Invariants
//!
//! - **The core decides and never acts.** [`core::lifecycle`] imports nothing of ours and names no
//!   clock, no socket, no bus. Failure is an event. (`tests/it/tidy.rs` checks this.)
//! - **One owner per fact.** All that is known of a service lives in its driver, without locks.
//!   Others send messages or hold guards.
//! - **The driver's inbox is the only order there is.** An accept loop that has ended has posted
//!   every client that it accepted; so whoever asks [`service::Handle::may_exit`] afterwards gets
//!   an answer that counts them all.
//! - **One order at a time.** An order to start or stop begins when the one before is over,
//!   whatever came of it.
//! - **ChangeFeed is a hint.** A signal from the bus only makes the driver look again, and a look that
//!   was begun before an order ended says nothing.
//! - **Control never waits behind data.** The driver, the accept loops and all programs have the
//!   main thread to themselves (a program ends with the thread that started it); sessions run on
//!   [`server::workers`], each on one of them to its end.
//! - **What blocks has a thread of its own:** the log, the notifications to systemd, the record.
//! - **What outlives the process has wall-clock times**, spans within a life are monotonic: a clock
//!   that jumps gives no absurd figures.
//! - **Edges do not import each other**, except that whatever asks a target goes through
//!   [`net::dial`], whatever runs a program through [`program`], and whatever asks a service
//!   manager through [`systemd::dbus`].
//!
//! # Exit
//!
//! Only with inherited sockets, and only when the service was seen down since it fell asleep (or,
//! where only systemd's start of us starts it, when a wake was in vain), nobody is here, and nobody
//! was refused for a while (all who are take one life, not one each): stop accepting, ask the driver
//! once more, accept a last time without waiting.
//! Anything found cancels the exit. What arrives later stays in the backlog and makes systemd
//! start us again.

pub mod core;
pub mod config;

pub mod server;
pub mod service;
pub mod session;

pub mod net;
pub mod backend;
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
