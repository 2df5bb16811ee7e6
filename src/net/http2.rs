//! hyper on our sockets, for HTTP/2: it takes its bytes from them, and the connections to a target that
//! carry many requests at once are kept here.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes};
use hyper::client::conn::http2;
use hyper::rt::{Executor, Read, ReadBufCursor, Write};
use tokio::sync::MutexGuard;
use tokio::task::JoinSet;

use crate::net::relay::direction::with_buffer;
use crate::net::stream::AsyncStream;
use crate::util::lock::locked;

/// What may go wrong with a body.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request on its way to a target.
pub type Upload = Pin<Box<dyn Body<Data = Bytes, Error = Error> + Send>>;

/// So many requests one connection carries at most, and fewer where the target says so.
const MOST_STREAMS: usize = 100;

/// How much of a response is read that its client does not take. A connection takes as much for each of
/// its requests: a client that stalls must not stall the others.
const STREAM_WINDOW: u32 = 128 * 1024;
const WINDOW: u32 = MOST_STREAMS as u32 * STREAM_WINDOW;

/// How much of a request is buffered that the target does not take.
const SEND_BUFFER: usize = 64 * 1024;

/// How long the fields of a response may be.
const LONGEST: u32 = 32 * 1024;

/// A socket for hyper.
#[derive(Debug)]
pub struct Io {
    stream: Arc<AsyncStream>,
    /// What was read from it already.
    come: Vec<u8>,
}

impl Io {
    /// This socket, from which `come` was read.
    pub fn new(stream: Arc<AsyncStream>, come: Vec<u8>) -> Self {
        Self { stream, come }
    }
}

impl Read for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut room: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, come } = self.get_mut();
        if !come.is_empty() {
            let fits = come.len().min(room.remaining());
            room.put_slice(&come[..fits]);
            come.drain(..fits);
            return Poll::Ready(Ok(()));
        }
        loop {
            let read = with_buffer(|buffer| {
                let most = buffer.len().min(room.remaining());
                let read = stream.try_read_all(&mut buffer[..most])?;
                room.put_slice(&buffer[..read]);
                Ok(())
            });
            match read {
                Err(error) if would_block(&error) => ready!(stream.poll_readable(cx))?,
                read => return Poll::Ready(read),
            }
        }
    }
}

impl Io {
    fn poll_written(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&AsyncStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match write(&self.stream) {
                Err(error) if would_block(&error) => ready!(self.stream.poll_writable(cx))?,
                written => return Poll::Ready(written),
            }
        }
    }
}

impl Write for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_written(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_written(cx, |stream| stream.try_write_vectored(pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.finish_writing())
    }
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// The tasks of a connection. They end with it.
#[derive(Clone, Debug, Default)]
pub struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let mut tasks = locked(&self.0);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

impl Tasks {
    /// Ends all, and waits until they have.
    pub async fn end(&self) {
        let mut tasks = std::mem::take(&mut *locked(&self.0));
        tasks.shutdown().await;
    }
}

/// The connections to one target that carry several requests at once: one, unless there are more
/// requests than it may carry. Any thread may use them.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    open: Arc<Mutex<Vec<Arc<Connection>>>>,
    opening: Arc<tokio::sync::Mutex<()>>,
    tasks: Tasks,
}

#[derive(Debug)]
struct Connection {
    sender: http2::SendRequest<Upload>,
    stream: Arc<AsyncStream>,
    /// How many requests it carries.
    uses: AtomicUsize,
    /// How many it may carry.
    most: Arc<AtomicUsize>,
}

/// A connection as one of its requests has it. Unless it is shared it ends with the last of them.
#[derive(Debug)]
pub struct Use(Arc<Connection>);

impl Use {
    /// What sends the request.
    pub fn sender(&self) -> http2::SendRequest<Upload> {
        self.0.sender.clone()
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0.uses.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shared {
    /// One that may carry one request more.
    pub fn take(&self) -> Option<Use> {
        let mut open = locked(&self.open);
        open.retain(|connection| !connection.sender.is_closed());
        let has_room = |connection: &&Arc<Connection>| {
            let most = connection.most.load(Ordering::Relaxed);
            connection.uses.load(Ordering::SeqCst) < most
        };
        let connection = open.iter().find(has_room)?;
        connection.uses.fetch_add(1, Ordering::SeqCst);
        Some(Use(connection.clone()))
    }

    /// Only one is opened at a time: those who wait for it can use it then.
    pub async fn opening(&self) -> MutexGuard<'_, ()> {
        self.opening.lock().await
    }

    /// Begins to speak HTTP/2 on a connection, for a first request; it is shared only if that is said.
    pub async fn open(&self, io: Io, is_shared: bool) -> io::Result<Use> {
        let stream = io.stream.clone();
        let mut builder = http2::Builder::new(self.tasks.clone());
        builder
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(WINDOW)
            .initial_max_send_streams(MOST_STREAMS)
            .max_header_list_size(LONGEST)
            .max_send_buf_size(SEND_BUFFER);
        let (sender, connection) = builder.handshake(io).await.map_err(io::Error::other)?;
        let most = Arc::new(AtomicUsize::new(MOST_STREAMS));
        let known = most.clone();
        self.tasks.execute(async move {
            let mut connection = pin!(connection);
            poll_fn(|cx| {
                let over = connection.as_mut().poll(cx);
                let most = connection.current_max_send_streams();
                known.store(most.min(MOST_STREAMS), Ordering::Relaxed);
                over.map(drop)
            })
            .await;
        });
        let connection = Arc::new(Connection {
            sender,
            stream,
            uses: AtomicUsize::new(1),
            most,
        });
        if is_shared {
            locked(&self.open).push(connection.clone());
        }
        Ok(Use(connection))
    }

    /// Closes those that carry no request, at once. The others end with their last one.
    pub(super) fn clear(&self) {
        for connection in locked(&self.open).drain(..) {
            if connection.uses.load(Ordering::SeqCst) == 0 {
                connection.stream.shut_down();
            }
        }
    }
}
