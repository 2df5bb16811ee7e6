//! Tests of what is delivered, from the outside.

mod cli;
mod drain;
mod examples;
mod exec;
mod hooks;
mod listeners;
mod relay;
mod support;
mod tree;
mod units;
mod wake;
