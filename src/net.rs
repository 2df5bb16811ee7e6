//! Sockets: listening, connecting, relaying.

pub mod listen;
pub mod stream;
pub mod reach;
pub mod dial;
pub mod endpoints;
pub mod pool;
pub mod http2;
pub mod direct;
pub mod proxy_header;
pub mod client_hello;
pub mod datagram;
pub mod relay;
