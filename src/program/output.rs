//! What a program writes, on its way to the log: line by line, in bounded pieces.

use std::convert::Infallible;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::util::text::escape_controls;

/// Both outputs of one program.
#[derive(Debug)]
pub(super) struct Output {
    what: &'static str,
    pipe: Option<pipe::Receiver>,
    line: Vec<u8>,
}

/// How much is read at once, and the longest line; longer ones are split.
pub(super) const CHUNK: usize = 4096;

/// How much a pipe holds (pipe(7)).
const PIPE: usize = 65_536;

impl Output {
    pub(super) fn new(what: &'static str, pipe: pipe::Receiver) -> Self {
        let (pipe, line) = (Some(pipe), Vec::new());
        Self { what, pipe, line }
    }

    /// Passes on what is written. Never ends, so that it can wait along with something that does.
    pub(super) async fn pass_on(&mut self) -> Infallible {
        while let Some(pipe) = &mut self.pipe {
            let mut chunk = [0; CHUNK];
            match pipe.read(&mut chunk).await {
                Ok(count @ 1..) => self.take(&chunk[..count]),
                Ok(0) | Err(_) => self.pipe = None,
            }
            // Other tasks get their turn however much a program writes.
            tokio::task::yield_now().await;
        }
        std::future::pending().await
    }

    /// Passes on what is in the pipe by now, and no more: another process may still hold it open.
    pub(super) fn finish(&mut self) {
        let mut chunk = [0; CHUNK];
        for _ in 0..PIPE / CHUNK {
            // Not by way of tokio, which may not have heard of the last bytes yet.
            let count = self
                .pipe
                .as_ref()
                .map(|pipe| rustix::io::read(pipe, &mut chunk));
            let Some(Ok(count @ 1..)) = count else { break };
            self.take(&chunk[..count]);
        }
        self.end_line();
    }

    fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' || self.line.len() == CHUNK {
                self.end_line();
            }
            if byte != b'\n' {
                self.line.push(byte);
            }
        }
    }

    /// Logs the line, unless it is blank.
    fn end_line(&mut self) {
        let text = String::from_utf8_lossy(&self.line);
        let text = escape_controls(text.trim_end());
        if !text.is_empty() {
            tracing::info!(program = self.what, "{text}");
        }
        self.line.clear();
    }
}
