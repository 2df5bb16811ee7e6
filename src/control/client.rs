//! The client of a control socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::interface::INSTANCE;
use super::message::{self, Call, Reply};

/// No reply is longer.
const LONGEST_REPLY: usize = 1 << 20;

/// How long the other side may take until there is room for a request: it has none of ours yet.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection to the control socket of an instance.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    said: Vec<u8>,
}

impl Client {
    /// Connects; systemd starts wakeport then if it does not run.
    pub async fn connect(path: &Path) -> io::Result<Self> {
        let said = Vec::new();
        let stream = UnixStream::connect(path).await?;
        Ok(Self { stream, said })
    }

    /// Calls a method of our interface; with `more`, for several replies.
    pub async fn call(&mut self, method: &str, parameters: Value, more: bool) -> io::Result<()> {
        let call = Call {
            method: format!("{INSTANCE}.{method}"),
            parameters: Reply::with(parameters).parameters,
            oneway: false,
            more,
            upgrade: false,
        };
        let call = message::write(&call);
        timeout(SEND_TIMEOUT, self.stream.write_all(&call)).await?
    }

    /// Waits for the next reply; without harm if it is dropped.
    pub async fn reply(&mut self) -> io::Result<Reply> {
        loop {
            if let Some(message) = message::first(&self.said) {
                let (reply, length) = (message::read(message), message.len() + 1);
                self.said.drain(..length);
                return reply.ok_or_else(|| io::ErrorKind::InvalidData.into());
            }
            if self.said.len() > LONGEST_REPLY {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if self.stream.read_buf(&mut self.said).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
