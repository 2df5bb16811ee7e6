//! Tests of what is delivered, from the outside.

mod examples;
mod tree;
mod units;
