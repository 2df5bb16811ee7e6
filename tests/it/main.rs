//! Tests of what is delivered, from the outside.

mod balancers;
mod cli;
mod drain;
mod examples;
mod exec;
mod hooks;
mod limits;
mod liveness;
mod listeners;
mod manager;
mod observe;
mod orders;
mod pipes;
mod proxy_protocol;
mod ready;
mod relay;
mod schedules;
mod stalls;
mod storm;
mod support;
mod tidy;
mod tree;
mod units;
mod vanished;
mod wake;
