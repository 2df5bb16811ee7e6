//! Scenarios on a real systemd: each boots one of its own in namespaces and looks at it from the outside.
//!
//! They need root, so plain `cargo test` leaves them out and says so; `tests/run` runs them.
//! `rig.rs` boots the machine, `services.rs` and `echo_service.rs` are the services on it, `page_runner.rs` runs the
//! commands of a page; the other files are scenarios.

mod echo_service;
mod page_runner;
#[path = "../docs/pages.rs"]
mod pages;
mod rig;
mod services;

mod busy;
mod check;
mod config_file;
mod containers;
mod control;
mod external_changes;
mod failed_starts;
mod filters;
mod freeze;
mod fronts;
mod guide;
mod hooks;
mod http;
mod init;
mod observe;
mod one_transaction;
mod out_of_memory;
mod outages;
mod package;
mod polkit;
mod quic;
mod readmes;
mod restarts;
mod rig_selftest;
mod security;
mod several_services;
mod sigkill;
mod socket_proxyd_tests;
mod sockets;
mod status_text;
mod stop_and_restart;
mod ten_thousand_clients;
mod tls;
mod udp;
mod wake;
