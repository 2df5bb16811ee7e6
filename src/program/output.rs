//! What a program writes, on its way to the log: line by line, in bounded pieces, and with
//! nothing in it that would control a terminal.

use std::convert::Infallible;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

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
            // However much a program has to say, everybody else gets a turn.
            tokio::task::yield_now().await;
        }
        std::future::pending().await
    }

    /// Passes on what is in the pipe by now, and no more: somebody else may still hold it open.
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

    /// Logs the line, unless it is blank. Terminals and log viewers are spared what would
    /// control them.
    fn end_line(&mut self) {
        let mut text = String::with_capacity(self.line.len());
        for c in String::from_utf8_lossy(&self.line).trim_end().chars() {
            match c {
                '\t' => text.push(c),
                _ if c.is_control() => text.extend(c.escape_default()),
                _ => text.push(c),
            }
        }
        self.line.clear();
        if !text.is_empty() {
            tracing::info!(program = self.what, "{text}");
        }
    }
}
