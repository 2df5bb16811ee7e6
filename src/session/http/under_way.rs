//! A request under way: it gets its target, is answered by it or in its place, and is sent again if it
//! may be.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{sleep, sleep_until};

use super::super::counted::Counted;
use super::super::waiting_page::{self, Viewer, expected};
use super::super::{Reached, Relayed, Triggered, Turn, lost};
use super::{Asked, Entered, FRESH, KEEP_ALIVE_TOLD, Then, Web};
use crate::config::{WaitingPage, span};
use crate::http::answer::quiet_answer;
use crate::http::body::Begun;
use crate::http::chunked::Malformed;
use crate::http::exchange::{Exchange, Outcome, Paused};
use crate::http::head::{Refusal, Reply, Request};
use crate::http::page;
use crate::http::repeat::{Repeats, Sent};
use crate::net::pool;
use crate::net::relay::{self, IdleTimer, Interrupt};
use crate::net::stream::AsyncStream;
use crate::service::{Permit, Queued, Traffic, Verdict};

/// Two sockets between which an exchange goes on, and what was read and not written yet.
struct Resumed {
    paused: Paused,
    up: Vec<u8>,
    down: Vec<u8>,
    idle: Duration,
}

/// With what an exchange begins.
enum Beginning<'a> {
    New(Request, &'a Begun),
    Resumed(Box<Resumed>),
}

/// Why a request has no target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missed {
    /// The client is gone.
    Gone,
    /// The waiting page is due before.
    Due,
    /// The service cannot be had.
    Rejected,
    Paused,
}

/// What has stopped an exchange in its midst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopped {
    Interrupted(Interrupt),
    /// No byte has moved for too long.
    Idle,
}

impl Web {
    /// Has the target answer a request. What this needs until then is small: each request takes it anew.
    pub(super) fn answer(
        &mut self,
        asked: Asked,
        interrupt: &mut Triggered<'_>,
    ) -> impl Future<Output = Then> + Send {
        let Asked {
            request,
            begun,
            raw,
            viewer,
            entry,
        } = asked;
        async move {
            let is_repeatable = begun.is_whole() && request.is_idempotent();
            let (mut permit, mut queued, mut room) = match entry {
                Entered::Inside(permit) => (Some(permit), None, None),
                Entered::Waiting(queued, room) => (None, Some(queued), room),
                Entered::Quiet => {
                    return Box::pin(self.answer_quietly(request, begun, raw, interrupt)).await;
                }
            };
            let mut raw = Some(raw);
            let mut repeats = Repeats::default();
            let context = viewer.is_some().then(|| self.route.context.clone());
            let http = context.as_ref().and_then(|context| context.http.as_ref());
            let page = http.and_then(|http| http.page.as_ref());
            let page = page.zip(viewer.as_deref());
            if page.is_some_and(|(_, viewer)| viewer.is_the_page) {
                return Box::pin(self.tell(permit, queued, raw, interrupt)).await;
            }
            loop {
                let may_pool =
                    permit.is_some() && !repeats.was_sent && !self.route.context.dialer.announces();
                let pooled = || self.pooled(&mut permit, is_repeatable);
                let mut sent = Sent::Reused;
                let reached = match may_pool.then(pooled).flatten() {
                    Some(pooled) => Ok(pooled),
                    None => {
                        sent = Sent::Fresh;
                        Box::pin(self.reach(permit.take(), &mut queued, page, interrupt)).await
                    }
                };
                let (target, inside) = match reached {
                    Ok(reached) => reached,
                    Err(Missed::Due) => {
                        self.expected = queued.map(expected);
                        return Box::pin(self.show(page, false, request.persists)).await;
                    }
                    Err(Missed::Paused) => {
                        let raw = raw.unwrap_or_default();
                        self.come.splice(..0, raw);
                        return Then::Pause(queued.map_or(Turn::Between, Turn::Waiting));
                    }
                    Err(Missed::Rejected) if repeats.was_sent => {
                        let why = "the service ended when it had the request";
                        return Then::Refuse(Refusal::gateway(why), request.method);
                    }
                    Err(Missed::Rejected) => {
                        self.counted.iter().for_each(|counted| counted.failure(503));
                        if page.is_some() {
                            return Box::pin(self.show(page, true, false)).await;
                        }
                        let refusal = Refusal::new(503, "the service cannot be had");
                        return Then::Refuse(refusal, request.method);
                    }
                    Err(Missed::Gone) => return Then::Gone,
                };
                drop(room.take());
                self.expected = None;
                self.counted.iter_mut().for_each(Counted::is_let_through);
                if !is_repeatable && sent == Sent::Fresh {
                    raw = None;
                }
                let beginning = Beginning::New(request, &begun);
                let kept = raw.as_ref().filter(|_| is_repeatable);
                let exchange = self.exchange(target, Some(inside), beginning, kept, interrupt);
                let (outcome, target, inside) = match exchange.await {
                    Ok(over) => over,
                    Err(then) => return then,
                };
                // Of what was not even sent, nothing can have come.
                let is_unsent = inside.as_ref().is_some_and(|inside| inside.traffic.up == 0);
                let may_repeat = is_repeatable || (sent == Sent::Reused && is_unsent);
                let mut inside = match (outcome, inside) {
                    (Outcome::Silent, Some(inside)) => inside,
                    (outcome, inside) => return self.ends(outcome, request, inside, target),
                };
                let Some(pause) = repeats.again(sent, may_repeat) else {
                    return self.ends(Outcome::Silent, request, Some(inside), target);
                };
                inside.traffic = Traffic::default();
                permit = Some(inside);
                self.counted.iter().for_each(Counted::retry);
                drop(target);
                if pause.is_zero() {
                    continue;
                }
                match Box::pin(self.lets_die(pause, interrupt)).await {
                    None => (),
                    Some(Then::Pause(turn)) => {
                        self.come.splice(..0, raw.unwrap_or_default());
                        return Then::Pause(turn);
                    }
                    Some(then) => return then,
                }
            }
        }
    }

    /// A connection to the target that is idle, for a request that is inside.
    fn pooled(
        &self,
        permit: &mut Option<Permit>,
        is_repeatable: bool,
    ) -> Option<(AsyncStream, Permit)> {
        let oldest = if is_repeatable { pool::LONGEST } else { FRESH };
        let target = self.route.entrance.pool().take(oldest, is_repeatable)?;
        Some((target, permit.take()?))
    }

    /// Waits until a process that is killed takes no more connections; or what follows before that.
    async fn lets_die(&self, pause: Duration, interrupt: &mut Triggered<'_>) -> Option<Then> {
        tokio::select! {
            () = sleep(pause) => None,
            () = self.client.gone() => Some(Then::Gone),
            interrupt = interrupt => Some(match interrupt {
                Interrupt::Reset => Then::Reset,
                Interrupt::Pause => Then::Pause(Turn::Between),
            }),
        }
    }

    /// Shows the waiting page.
    async fn show(
        &self,
        page: Option<(&WaitingPage, &Viewer)>,
        failed: bool,
        persists: bool,
    ) -> Then {
        let Some((page, viewer)) = page else {
            return Then::Close;
        };
        self.counted.iter().for_each(Counted::page);
        let response = viewer.response(page, &self.route.entrance, failed, persists);
        Then::Say(response.await, persists)
    }

    /// Tells the waiting page when the service answers, or how it comes along.
    async fn tell(
        &mut self,
        inside: Option<Permit>,
        queued: Option<Box<Queued>>,
        raw: Option<Vec<u8>>,
        interrupt: &mut Triggered<'_>,
    ) -> Then {
        drop(inside);
        let Some(mut queued) = queued else {
            return Then::Say(page::IT_ANSWERS.into(), true);
        };
        let verdict = tokio::select! {
            biased;
            verdict = queued.verdict() => Ok(verdict),
            () = self.client.gone() => Err(Then::Gone),
            interrupt = interrupt => Err(match interrupt {
                Interrupt::Reset => Then::Reset,
                Interrupt::Pause => {
                    self.come.splice(..0, raw.unwrap_or_default());
                    return Then::Pause(Turn::Waiting(queued));
                }
            }),
            () = sleep(waiting_page::NEWS) => {
                // The next question comes soon.
                self.expected = Some(expected(queued));
                let news = waiting_page::news(&self.route, "starting").await;
                return Then::Say(news, true);
            }
        };
        match verdict {
            Ok(Verdict::Admitted(..)) => Then::Say(page::IT_ANSWERS.into(), true),
            Ok(Verdict::Rejected) => {
                let news = waiting_page::news(&self.route, "failed").await;
                Then::Say(news, true)
            }
            Err(then) => then,
        }
    }

    /// Dials the target, or waits for the service and then does.
    async fn reach(
        &self,
        inside: Option<Permit>,
        queued: &mut Option<Box<Queued>>,
        page: Option<(&WaitingPage, &Viewer)>,
        interrupt: &mut Triggered<'_>,
    ) -> Result<(AsyncStream, Permit), Missed> {
        let entrance = &self.route.entrance;
        let due = match (page, &queued) {
            (Some((page, viewer)), Some(_)) => viewer.due(page, entrance).await,
            _ => None,
        };
        let is_due = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        let dialled = self
            .route
            .dialled(&self.client, &self.arrival, inside, queued);
        let reached = tokio::select! {
            biased;
            reached = dialled => reached,
            () = is_due => return Err(Missed::Due),
            () = self.client.gone() => Reached::ClientGone,
            interrupt = interrupt => match interrupt {
                Interrupt::Reset => Reached::Rejected,
                Interrupt::Pause => Reached::Paused,
            },
        };
        match reached {
            // A server of HTTP says nothing before it is asked.
            Reached::Target(target, _, permit) => Ok((target, permit)),
            Reached::ClientGone | Reached::ClientIdle => Err(Missed::Gone),
            Reached::Rejected => Err(Missed::Rejected),
            Reached::Paused => Err(Missed::Paused),
        }
    }

    /// Passes on a request that does not count, if the service is awake.
    async fn answer_quietly(
        &mut self,
        request: Request,
        begun: Begun,
        raw: Vec<u8>,
        interrupt: &mut Triggered<'_>,
    ) -> Then {
        let route = self.route.clone();
        let persists = request.persists && begun.is_whole();
        let asleep = || {
            let answer = route
                .context
                .http
                .as_ref()
                .map_or(503, |http| http.quiet.answer);
            Then::Say(quiet_answer(answer, persists), persists)
        };
        if !route.entrance.is_open() {
            return asleep();
        }
        let dialled = tokio::select! {
            biased;
            dialled = route.context.dialer.dial(&route.target) => dialled,
            () = self.client.gone() => return Then::Gone,
            interrupt = &mut *interrupt => return match interrupt {
                Interrupt::Reset => Then::Reset,
                Interrupt::Pause => {
                    self.come.splice(..0, raw);
                    Then::Pause(Turn::Between)
                }
            },
        };
        let origin = route.origin(&self.client, self.arrival.peer);
        let Ok(target) = dialled.and_then(|target| target.announce(origin)) else {
            return asleep();
        };
        let beginning = Beginning::New(request, &begun);
        match self
            .exchange(target, None, beginning, None, interrupt)
            .await
        {
            Ok((Outcome::Silent, ..)) => asleep(),
            Ok((outcome, target, inside)) => self.ends(outcome, request, inside, target),
            Err(then) => then,
        }
    }

    /// Goes on with the request that was under way when the connection paused.
    pub(super) async fn resume(
        &mut self,
        relayed: Relayed,
        paused: Paused,
        interrupt: &mut Triggered<'_>,
    ) -> Then {
        let Relayed {
            target,
            paused: relay::Paused { up, down, idle },
            traffic,
            mut permit,
        } = relayed;
        permit.traffic = traffic;
        let peer = self.arrival.peer;
        let target = target.watch();
        let Ok(target) = target.inspect_err(|error| lost(peer, error)) else {
            return Then::Reset;
        };
        self.counted = Some(Counted::resume(&self.route, peer));
        self.connected.active(true);
        let request = paused.request();
        let raw = paused.raw.clone();
        let beginning = Beginning::Resumed(Box::new(Resumed {
            paused,
            up: up.rest,
            down: down.rest,
            idle,
        }));
        let kept = Some(&raw).filter(|raw| !raw.is_empty());
        let exchange = self.exchange(target, Some(permit), beginning, kept, interrupt);
        match exchange.await {
            Ok((Outcome::Silent, ..)) if kept.is_some() => {
                self.come.splice(..0, raw);
                self.leaves();
                Then::Next
            }
            Ok((outcome, target, inside)) => self.ends(outcome, request, inside, target),
            Err(then) => then,
        }
    }

    /// Has a request and its response pass. What has come of it, or what follows if nothing has.
    fn exchange(
        &mut self,
        target: AsyncStream,
        mut inside: Option<Permit>,
        beginning: Beginning<'_>,
        raw: Option<&Vec<u8>>,
        interrupt: &mut Triggered<'_>,
    ) -> impl Future<Output = Result<(Outcome, AsyncStream, Option<Permit>), Then>> + Send {
        let reply = Reply {
            closes: false,
            keep_alive: KEEP_ALIVE_TOLD,
        };
        // An `async fn` would keep all of this twice.
        async move {
            let context = &self.route.context;
            let sockets = (&self.client, &target);
            let mut uncounted = Traffic::default();
            let traffic = match &mut inside {
                Some(inside) => &mut inside.traffic,
                None => &mut uncounted,
            };
            let totals = (&mut traffic.up, &mut traffic.down);
            let (mut exchange, idle) = match beginning {
                Beginning::New(request, begun) => {
                    let exchange = Exchange::new(sockets, (request, reply), begun, totals);
                    (exchange, Duration::ZERO)
                }
                Beginning::Resumed(resumed) => {
                    let Resumed {
                        paused,
                        up,
                        down,
                        idle,
                    } = *resumed;
                    let exchange = Exchange::resume(sockets, reply, (paused, up, down), totals);
                    (exchange, idle)
                }
            };
            let mut idle = IdleTimer::new(context.liveness.idle_timeout, idle);
            let abort = &context.abort;
            let stopped = poll_fn(|cx| {
                if let Poll::Ready(interrupt) = Pin::new(&mut *interrupt).poll(cx) {
                    return Poll::Ready(Err(Stopped::Interrupted(interrupt)));
                }
                let before = exchange.moved();
                match (exchange.poll(cx, abort.is_closing()), &mut idle) {
                    (Poll::Ready(outcome), _) => Poll::Ready(Ok(outcome)),
                    (Poll::Pending, Some(idle)) => {
                        let moved = exchange.moved() != before;
                        idle.poll(cx, moved).map(|()| Err(Stopped::Idle))
                    }
                    (Poll::Pending, None) => Poll::Pending,
                }
            });
            let stopped = stopped.await;
            self.come.extend(exchange.over());
            let raw = raw.filter(|_| !exchange.answers());
            if let Some(counted) = &mut self.counted {
                let (up, down) = exchange.moved();
                counted.carries(up, down);
                counted.status(exchange.status().unwrap_or(0));
            }
            let why = match stopped {
                Ok(outcome) => {
                    drop(exchange);
                    return Ok((outcome, target, inside));
                }
                Err(why) => why,
            };
            let paused = match why {
                Stopped::Interrupted(Interrupt::Pause) => exchange.pause(),
                Stopped::Interrupted(Interrupt::Reset) | Stopped::Idle => {
                    drop(exchange);
                    None
                }
            };
            if let Some((mut paused, up, down)) = paused
                && let Ok(target) = target.unwatch()
            {
                let way = |rest| relay::Way {
                    rest,
                    ..Default::default()
                };
                paused.raw = raw.cloned().unwrap_or_default();
                // What goes on in the next process counts there.
                let mut inside = inside.unwrap_or_else(|| self.route.entrance.resume());
                let relayed = Relayed {
                    target,
                    paused: relay::Paused {
                        up: way(up),
                        down: way(down),
                        idle: idle.map_or(Duration::ZERO, |idle| idle.elapsed()),
                    },
                    traffic: std::mem::take(&mut inside.traffic),
                    permit: inside,
                };
                return Err(Then::Pause(Turn::Exchanging(
                    Box::new(relayed),
                    Box::new(paused),
                )));
            }
            if why == Stopped::Idle {
                if let Some(inside) = &mut inside {
                    inside.traffic.idle = 1;
                }
                let limit = span::show(context.liveness.idle_timeout);
                tracing::info!(client = %self.arrival.peer, "{} closed: idle for {limit}", self.arrival.peer);
            }
            Err(Then::Reset)
        }
    }

    /// What follows an exchange, when its request is not sent again.
    fn ends(
        &self,
        outcome: Outcome,
        request: Request,
        inside: Option<Permit>,
        // Closed before the request leaves.
        target: AsyncStream,
    ) -> Then {
        match outcome {
            Outcome::Answered {
                status,
                client,
                target: is_reusable,
            } => {
                tracing::debug!(client = %self.arrival.peer, status, "answered: {status}");
                let is_counted = inside.is_some();
                if is_reusable && is_counted && !self.route.context.dialer.announces() {
                    self.route.entrance.pool().put(target);
                }
                match client {
                    true => Then::Next,
                    false => Then::Close,
                }
            }
            Outcome::Upgraded(said) => match inside {
                Some(inside) => Then::Relay(target, said, inside),
                None => Then::Reset,
            },
            Outcome::Silent => {
                let why = "the service closed the connection without a response";
                Then::Refuse(Refusal::gateway(why), request.method)
            }
            Outcome::NoResponse(refusal) => Then::Refuse(refusal, request.method),
            Outcome::NoRequest(Malformed(why)) => {
                target.reset();
                Then::Refuse(Refusal::bad(why), request.method)
            }
            Outcome::Cut => {
                target.reset();
                Then::Reset
            }
        }
    }
}
