//! One request and its response, on two connections.

use std::task::{Context, Poll, ready};

use serde::{Deserialize, Serialize};

use super::body::{Begun, Body, Part, Passed};
use super::chunked::Malformed;
use super::head::{self, Refusal, Reply, Request, Response, Version};
use crate::net::relay::direction::with_buffer;
use crate::net::relay::{Cause, End};
use crate::net::stream::AsyncStream;

/// A request that was sent to the target, and what comes back.
pub struct Exchange<'a> {
    client: &'a AsyncStream,
    target: &'a AsyncStream,
    reply: Reply,
    up: Body<'a>,
    down: Body<'a>,
    progress: Progress,
    /// The client's end is still to be noticed.
    watches: bool,
}

/// How far an exchange is, beside its bodies.
#[derive(Debug, Serialize, Deserialize)]
struct Progress {
    request: Request,
    /// How the request has ended, if it has.
    sent: Option<End>,
    /// The head of the response, as far as it has come.
    head: Vec<u8>,
    response: Option<Response>,
    /// Other responses came before it (RFC 9110, section 15.2).
    answers: bool,
    /// The client has half-closed.
    is_half_closed: bool,
}

/// An exchange whose bytes do not move just now: what has to be known to go on where it was left, beside
/// what was read and could not be written yet.
#[derive(Debug, Serialize, Deserialize)]
pub struct Paused {
    progress: Progress,
    up: Part,
    down: Part,
    /// The request as it came, if it may be sent again.
    pub raw: Vec<u8>,
}

impl Paused {
    /// What the client has asked for.
    pub fn request(&self) -> Request {
        self.progress.request
    }
}

/// What has come of an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client has its response.
    Answered {
        /// Its status.
        status: u16,
        /// Whether the client may send another request on this connection.
        client: bool,
        /// Whether the target may be asked again on its.
        target: bool,
    },
    /// Both connections have another protocol; the target has sent this already.
    Upgraded(Vec<u8>),
    /// The connection to the target has ended without a byte of a response.
    Silent,
    /// What the target has sent is no response; the client knows nothing of it.
    NoResponse(Refusal),
    /// The client's body is not what it should be; there was no response before.
    NoRequest(Malformed),
    /// A message has ended in its midst, so both connections are to be reset.
    Cut,
}

/// How many responses may come at once before the one that counts.
const MOST_INTERIM: usize = 32;

impl<'a> Exchange<'a> {
    /// Sends what has `begun`, on the way to which `totals` are counted.
    pub fn new(
        (client, target): (&'a AsyncStream, &'a AsyncStream),
        (request, reply): (Request, Reply),
        begun: &Begun,
        (up, down): (&'a mut u64, &'a mut u64),
    ) -> Self {
        let mut up = Body::new(client, target, up);
        up.begin(begun);
        Self {
            up,
            down: Body::new(target, client, down),
            client,
            target,
            reply,
            progress: Progress {
                request,
                sent: None,
                head: Vec::new(),
                response: None,
                answers: false,
                is_half_closed: false,
            },
            watches: true,
        }
    }

    /// Goes on where it was paused; `up` and `down` are what was read and not written.
    pub fn resume(
        (client, target): (&'a AsyncStream, &'a AsyncStream),
        reply: Reply,
        (paused, up, down): (Paused, Vec<u8>, Vec<u8>),
        totals: (&'a mut u64, &'a mut u64),
    ) -> Self {
        Self {
            up: Body::resume(client, target, totals.0, (up, paused.up)),
            down: Body::resume(target, client, totals.1, (down, paused.down)),
            client,
            target,
            reply,
            progress: paused.progress,
            watches: true,
        }
    }

    /// Stops where it is, unless bytes would be lost: what [`Exchange::resume`] takes.
    pub fn pause(self) -> Option<(Paused, Vec<u8>, Vec<u8>)> {
        let (up, sent) = self.up.pause()?;
        let (down, got) = self.down.pause()?;
        let paused = Paused {
            progress: self.progress,
            up: sent,
            down: got,
            raw: Vec::new(),
        };
        Some((paused, up, down))
    }

    /// Whether a byte of a response has come.
    pub fn answers(&self) -> bool {
        let Progress {
            answers,
            head,
            response,
            ..
        } = &self.progress;
        *answers || !head.is_empty() || response.is_some()
    }

    /// The status of the response, once that has come.
    pub fn status(&self) -> Option<u16> {
        self.progress.response.map(|response| response.status)
    }

    /// What has come from the client behind the request.
    pub fn over(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.up.over)
    }

    /// How many bytes have passed, each way.
    pub fn moved(&self) -> (u64, u64) {
        (self.up.total(), self.down.total())
    }

    /// Goes on until there is nothing to do right now. `closes` is whether the client's connection is to
    /// end with the response, if that has not come yet.
    pub fn poll(&mut self, cx: &mut Context<'_>, closes: bool) -> Poll<Outcome> {
        if self.progress.sent.is_none()
            && let Poll::Ready(passed) = self.up.poll(cx, None)
        {
            match passed {
                // If the target wants no more, its response says why.
                Passed::As(end @ (End::Finished | End::SinkBroken(_))) => {
                    self.progress.sent = Some(end);
                }
                // The response may not need the rest of the request.
                Passed::Malformed(_) | Passed::As(End::SourceBroken(_))
                    if self.progress.response.is_some() =>
                {
                    self.progress.sent = Some(End::SinkBroken(Cause::Reset));
                }
                Passed::Malformed(malformed) => return self.instead(Outcome::NoRequest(malformed)),
                Passed::As(End::SourceBroken(_) | End::Failed) => {
                    return Poll::Ready(Outcome::Cut);
                }
            }
        }
        loop {
            // What comes before the response is passed on at once, and no more is read meanwhile.
            match self.down.poll(cx, self.progress.sent) {
                Poll::Ready(Passed::WHOLE) => (),
                Poll::Ready(_) => return Poll::Ready(Outcome::Cut),
                Poll::Pending => return self.poll_client(cx),
            }
            if self.progress.response.is_some() {
                return Poll::Ready(self.answered());
            }
            self.reply.closes |= closes;
            match self.poll_response(cx) {
                Poll::Ready(Ok(())) => (),
                Poll::Ready(Err(outcome)) => return self.instead(outcome),
                Poll::Pending => return self.poll_client(cx),
            }
        }
    }

    /// The client is to get another response, unless it has got a part of one.
    fn instead(&self, outcome: Outcome) -> Poll<Outcome> {
        Poll::Ready(match self.down.is_behind() {
            true => Outcome::Cut,
            false => outcome,
        })
    }

    fn answered(&mut self) -> Outcome {
        let over = std::mem::take(&mut self.down.over);
        let Some(response) = self.progress.response else {
            return Outcome::Cut;
        };
        if response.upgrades() {
            return Outcome::Upgraded(over);
        }
        let is_sent = self.progress.sent == Some(End::Finished);
        let is_whole = is_sent && over.is_empty() && !self.progress.is_half_closed;
        Outcome::Answered {
            status: response.status,
            client: is_sent && !response.closes,
            target: is_whole && response.persists && !self.progress.request.is_private,
        }
    }

    /// Reads more of the response: ready when a part of it is to be passed on.
    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Outcome>> {
        loop {
            let read = with_buffer(|buffer| {
                let read = self.target.try_read_all(buffer)?;
                Ok(match self.progress.head.is_empty() {
                    _ if read == 0 => Err(self.ends_early()),
                    true => self.take(&buffer[..read]),
                    false => {
                        let mut head = std::mem::take(&mut self.progress.head);
                        head.extend_from_slice(&buffer[..read]);
                        self.take(&head)
                    }
                })
            });
            match read {
                Ok(Ok(false)) => (),
                Ok(Ok(true)) => return Poll::Ready(Ok(())),
                Ok(Err(outcome)) => return Poll::Ready(Err(outcome)),
                Err(error) if is_would_block(&error) => {
                    if ready!(self.target.poll_readable(cx)).is_err() {
                        return Poll::Ready(Err(self.ends_early()));
                    }
                }
                Err(_) => return Poll::Ready(Err(self.ends_early())),
            }
        }
    }

    /// Takes in what has come of the response. Whether a part of it is to be passed on.
    fn take(&mut self, mut bytes: &[u8]) -> Result<bool, Outcome> {
        let (mut passes, mut interim) = (false, 0);
        let is_sent = self.progress.sent == Some(End::Finished);
        let request = self.progress.request;
        loop {
            let mut out = Vec::new();
            let reply = Reply {
                closes: self.reply.closes || !request.persists || !is_sent,
                ..self.reply
            };
            let read = head::response(bytes, &request, &reply, &mut out);
            let Some((response, length)) = read.map_err(Outcome::NoResponse)? else {
                self.progress.head = bytes.to_vec();
                return Ok(passes);
            };
            bytes = &bytes[length..];
            let knows_more = request.version == Version::Http11;
            if response.is_interim() {
                self.progress.answers = true;
                interim += 1;
                if interim > MOST_INTERIM {
                    let refusal = Refusal::gateway("too many responses before its response");
                    return Err(Outcome::NoResponse(refusal));
                }
                if knows_more {
                    self.down.write(&out);
                    passes = true;
                }
                continue;
            }
            let malformed = |Malformed(why)| Outcome::NoResponse(Refusal::gateway(why));
            let begun = Begun::new(out, bytes, response.length, knows_more).map_err(malformed)?;
            let (begun, taken) = begun;
            self.down.begin(&begun);
            self.down.over = bytes[taken..].to_vec();
            self.progress.response = Some(response);
            return Ok(true);
        }
    }

    /// The connection to the target has ended before the head of its response was complete.
    fn ends_early(&self) -> Outcome {
        match self.answers() {
            false => Outcome::Silent,
            true => Outcome::NoResponse(Refusal::gateway("its response ends early")),
        }
    }

    /// While the target takes its time, a client that half-closes is one that half-closes for the target:
    /// many give up then. After that, only a reset is noticed.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let is_sent = self.progress.sent == Some(End::Finished);
        while is_sent && self.watches && self.up.over.is_empty() {
            if ready!(self.client.poll_readable(cx)).is_err() {
                return Poll::Ready(Outcome::Cut);
            }
            match self.client.has_ended() {
                Ok(true) => {
                    self.progress.is_half_closed = true;
                    let _ = self.target.finish_writing();
                }
                // Another request, which is read in its turn.
                Ok(false) => (),
                Err(error) if is_would_block(&error) => continue,
                Err(_) => return Poll::Ready(Outcome::Cut),
            }
            self.watches = false;
        }
        self.down.poll_sink(cx).map(|_| Outcome::Cut)
    }
}

fn is_would_block(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::WouldBlock
}
