//! Probes a target until it answers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::handle::{Entrance, Message};
use super::settings::Settings;
use crate::config::address::HttpUrl;
use crate::config::{CommandLine, ReadyKind};
use crate::net::dial::{Connection, Target};
use crate::net::proxy_header::Origin;
use crate::net::stream::AsyncStream;
use crate::util::backoff::Backoff;

/// A connection to a target, and what it has sent already.
#[derive(Debug)]
pub struct Answer {
    /// The connection that proves it; the first client gets it.
    pub connection: Connection,
    /// What was read from it, to be passed on first.
    pub said: Vec<u8>,
}

impl Answer {
    /// Has the event loop of this thread watch the connection.
    pub fn rebind(self) -> io::Result<Self> {
        Ok(Self {
            connection: self.connection.rebind()?,
            said: self.said,
        })
    }
}

impl From<Connection> for Answer {
    fn from(connection: Connection) -> Self {
        Self {
            connection,
            said: Vec::new(),
        }
    }
}

/// A target, and the task that probes it.
#[derive(Debug)]
pub(super) struct Probed {
    pub(super) target: Arc<Target>,
    pub(super) entrance: Entrance,
    probe: Option<AbortOnDropHandle<()>>,
    /// The number of the latest probe; what an earlier one says is ignored.
    number: u64,
    /// Why it could not be reached last.
    pub(super) failure: Option<String>,
}

impl Probed {
    pub(super) fn new(target: Arc<Target>, entrance: Entrance) -> Self {
        Self {
            target,
            entrance,
            probe: None,
            number: 0,
            failure: None,
        }
    }

    /// Begins a probe, which ends with [`Message::Answered`].
    pub(super) fn probe(&mut self, settings: &Arc<Settings>, tasks: &TaskTracker) {
        self.number += 1;
        let (settings, target) = (settings.clone(), self.target.clone());
        let (entrance, number) = (self.entrance.clone(), self.number);
        self.probe = Some(AbortOnDropHandle::new(tasks.spawn(async move {
            let (handle, index) = (&entrance.0.service, entrance.0.index);
            let mut last = String::new();
            let missed = |why: String| {
                if why != last {
                    last.clone_from(&why);
                    handle.post(Message::Missed(index, number, why));
                }
            };
            let answer = settings.probe(&target, missed).await;
            handle.post(Message::Answered(index, number, answer));
        })));
    }

    pub(super) fn cancel(&mut self) {
        self.probe = None;
    }

    /// A probe has ended; whether its answer is waited for.
    pub(super) fn answered(&mut self, number: u64) -> bool {
        let current = self.number == number && self.probe.take().is_some();
        if current {
            self.failure = None;
        }
        current
    }

    /// The target does not answer a probe yet.
    pub(super) fn missed(&mut self, number: u64, why: String) {
        if self.number == number {
            self.failure = Some(why);
        }
    }

    /// Why its connections are rejected while the service is up.
    pub(super) fn silence(&self) -> String {
        let why = self.failure.as_deref();
        let why = why.unwrap_or("it was not reached in time");
        format!("target `{}` does not answer: {why}", self.target)
    }
}

/// A service that accepts a moment after its start job ended is found a moment later; one that
/// takes minutes costs four attempts a second.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// How long a target may take to answer, once connected.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one may take that is stopped.
const STILL: Duration = Duration::from_secs(1);

/// A status line with its headers is shorter than that, or is not worth waiting for.
const LONGEST_HEAD: usize = 16 * 1024;

impl Settings {
    /// Returns when `target` answers, with the connection that proved it if a client can have it.
    /// Until then tells `missed` why it does not.
    async fn probe(&self, target: &Target, mut missed: impl FnMut(String)) -> Option<Answer> {
        // A program is not run a thousand times a second.
        let first = match self.config.readiness.hook {
            Some(_) => LONGEST_PAUSE,
            None => FIRST_PAUSE,
        };
        let mut backoff = Backoff::new(first, LONGEST_PAUSE);
        loop {
            match self.ask(target).await {
                Ok(answer) => return answer,
                Err(why) => missed(why.to_string()),
            }
            sleep(backoff.pause()).await;
        }
    }

    async fn agrees(&self, hook: &CommandLine, target: &Target) -> io::Result<()> {
        let variables = [
            ("WAKEPORT_EVENT", "ready".into()),
            ("WAKEPORT_TARGET", target.to_string()),
        ];
        // Dropping the probe drops the hook.
        let never = CancellationToken::new();
        let run = self.launcher.run(
            "ready hook",
            hook,
            &variables,
            self.config.timing.start_timeout,
            &never,
        );
        let status = run.await.map_err(io::Error::other)?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!(
                "the ready hook reports not ready ({status})"
            )))
        }
    }

    /// Whether a target answers still, of a service that is stopped. No hook is run for that.
    pub(super) async fn still_answers(&self, target: &Target) -> bool {
        !target.is_udp() && matches!(timeout(STILL, self.contact(target)).await, Ok(Ok(_)))
    }

    async fn ask(&self, target: &Target) -> io::Result<Option<Answer>> {
        if let Some(hook) = &self.config.readiness.hook {
            self.agrees(hook, target).await?;
        }
        self.contact(target).await
    }

    async fn contact(&self, target: &Target) -> io::Result<Option<Answer>> {
        if target.is_udp() {
            return self.contact_beside().await;
        }
        self.contact_stream(target).await
    }

    /// Nothing can be known of a target of datagrams. If the service has one that accepts connections, that
    /// one is asked; otherwise it is ready as soon as it is started.
    async fn contact_beside(&self) -> io::Result<Option<Answer>> {
        let mut targets = self.targets.iter();
        match targets.find(|target| !target.is_udp()) {
            Some(stream) => self.contact_stream(stream).await.map(|_| None),
            None => Ok(None),
        }
    }

    async fn contact_stream(&self, target: &Target) -> io::Result<Option<Answer>> {
        match &self.config.readiness.kind {
            ReadyKind::Connect => Ok(Some(self.dialer.dial(target).await?.into())),
            ReadyKind::Banner => {
                let stream = self.dialer.dial(target).await?.announce(Origin::Local)?;
                let said = in_time(read_some(&stream)).await?;
                // Announced as local, it cannot become a client's.
                Ok((!self.dialer.announces()).then(|| Answer {
                    connection: stream.into(),
                    said,
                }))
            }
            ReadyKind::Http(url) => {
                let asked = url.host.as_ref().unwrap_or(target);
                // Another server expects no PROXY header.
                let stream = if asked == target {
                    self.dialer.dial(asked).await?.announce(Origin::Local)?
                } else {
                    self.dialer.connect(asked).await?
                };
                in_time(ask_over_http(&stream, url)).await?;
                Ok(Some(self.dialer.dial(target).await?.into()))
            }
        }
    }
}

async fn in_time<T>(answer: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "it accepts, but says nothing");
    timeout(ANSWER_TIMEOUT, answer)
        .await
        .unwrap_or_else(|_| Err(late()))
}

/// Reads what comes first; the end of the stream is no answer.
async fn read_some(stream: &AsyncStream) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 4096];
    loop {
        stream.ready(Interest::READABLE).await?;
        match stream.try_read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                buffer.truncate(n);
                return Ok(buffer);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
            Err(error) => return Err(error),
        }
    }
}

async fn ask_over_http(stream: &AsyncStream, url: &HttpUrl) -> io::Result<()> {
    let host = url.host.as_ref().map(ToString::to_string);
    let host = host.unwrap_or_else(|| "localhost".into());
    let agent = concat!("wakeport/", env!("CARGO_PKG_VERSION"));
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        url.path
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    loop {
        head.extend(read_some(stream).await?);
        match status(&head)? {
            Some(500..) => return Err(io::Error::other("it answers with a server error")),
            Some(_) => return Ok(()),
            None if head.len() > LONGEST_HEAD => {
                return Err(io::Error::other("its answer has no end of headers"));
            }
            None => (),
        }
    }
}

/// The status of the final response in `bytes`, if it is complete; `1xx` ones only precede it.
pub fn status(mut bytes: &[u8]) -> io::Result<Option<u16>> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 128];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(bytes).map_err(io::Error::other)? {
            httparse::Status::Complete(length) => match response.code {
                Some(100..200) => bytes = &bytes[length..],
                code => return Ok(code),
            },
            httparse::Status::Partial => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_that_of_the_final_response() {
        let early = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 503 No\r\n\r\n";
        assert_eq!(status(early).unwrap(), Some(503));
        assert_eq!(
            status(b"HTTP/1.0 404 Not Found\r\nA: b\r\n\r\nbody").unwrap(),
            Some(404)
        );
        assert_eq!(status(b"HTTP/1.1 200 OK\r\nA: b\r\n").unwrap(), None);
        assert!(status(b"220 smtp.example ESMTP\r\n").is_err());
    }
}
