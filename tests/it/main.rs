//! Tests of what is delivered, from the outside.

mod balancers;
mod check;
mod cli;
mod clocks;
mod documents;
mod drain;
mod examples;
mod exec;
mod filters;
mod hooks;
mod init;
mod limits;
mod liveness;
mod listeners;
mod manager;
mod manual;
mod observe;
mod orders;
#[path = "../docs/pages.rs"]
mod pages;
mod pipes;
mod proxy_protocol;
mod ready;
mod relay;
mod schedules;
mod spans;
mod soak;
mod stalls;
mod storm;
mod support;
mod sweep;
mod tidy;
mod tree;
mod units;
mod vanished;
mod wake;
