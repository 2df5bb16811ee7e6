//! What a user of a service does and gets: `curl`, and connections held in the hand.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::{Rig, text};

/// No client waits longer than this for an answer: a scenario that hangs shall say where.
const ANSWER: Duration = Duration::from_secs(120);

impl Rig {
    /// What `curl` prints for a page that must be there.
    #[track_caller]
    pub(crate) fn curl(&self, url: &str) -> String {
        match self.try_curl(url) {
            Ok(page) => page,
            Err(why) => panic!("curl {url}: {why}"),
        }
    }

    /// What `curl` prints for a page, or what it says is wrong.
    pub(crate) fn try_curl(&self, url: &str) -> Result<String, String> {
        let limit = ANSWER.as_secs().to_string();
        let output = self
            .command([
                "curl",
                "-sS",
                "--fail",
                "--noproxy",
                "*",
                "--max-time",
                &limit,
                url,
            ])
            .output()
            .expect("curl can be run");
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }
}

/// How a connection came to an end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum GoneAs {
    /// The other side said that it had no more to say.
    Closed,
    /// The other side broke it off.
    Reset,
}

/// A connection to the rig. It is a plain one: the thread that opens it lives on the rig's network.
pub(crate) struct Client(TcpStream);

impl Client {
    /// Connects, which succeeds at once as long as somebody holds the port.
    #[track_caller]
    pub(crate) fn connect(address: &str) -> Self {
        let stream =
            TcpStream::connect(address).unwrap_or_else(|why| panic!("connect to {address}: {why}"));
        stream
            .set_read_timeout(Some(ANSWER))
            .expect("a limit can be set");
        Self(stream)
    }

    /// Connects and asks for `/`, without waiting for the answer.
    #[track_caller]
    pub(crate) fn asks(address: &str) -> Self {
        let mut client = Self::connect(address);
        client.ask();
        client
    }

    /// Sends a request for `/`.
    #[track_caller]
    pub(crate) fn ask(&mut self) {
        self.0
            .write_all(b"GET / HTTP/1.1\r\nHost: rig\r\nConnection: close\r\n\r\n")
            .expect("the request can be sent");
    }

    /// Reads until the end: what came, and how it ended.
    #[track_caller]
    pub(crate) fn reads(mut self) -> (String, GoneAs) {
        let mut bytes = Vec::new();
        let gone = match self.0.read_to_end(&mut bytes) {
            Ok(_) => GoneAs::Closed,
            Err(why) if why.kind() == io::ErrorKind::ConnectionReset => GoneAs::Reset,
            Err(why) => panic!("reading the answer, after {:?}: {why}", text(&bytes)),
        };
        (text(&bytes), gone)
    }

    /// The page that the server answers with; anything but a whole, good answer fails the scenario.
    #[track_caller]
    pub(crate) fn page(self) -> String {
        let (answer, gone) = self.reads();
        assert_eq!(gone, GoneAs::Closed, "the answer broke off: {answer:?}");
        let (head, page) = answer
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("no answer but {answer:?}"));
        assert!(head.contains(" 200 OK"), "not a good answer: {head:?}");
        page.to_owned()
    }
}
