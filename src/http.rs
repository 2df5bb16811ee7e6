//! HTTP in front of a service: what a message says, what of it is passed on, and where it ends. Heads,
//! framing, chunks and repeats are pure; a [`body`] moves, an [`exchange`] is a request with its response.

pub mod answer;
pub mod body;
pub mod chunked;
pub mod exchange;
pub mod framing;
pub mod head;
pub mod page;
pub mod repeat;
