//! Datagram sockets.

pub mod filter;
