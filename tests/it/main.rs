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
mod proxy_protocol;
mod ready;
mod relay;
mod storm;
mod support;
mod tidy;
mod tree;
mod units;
mod wake;
