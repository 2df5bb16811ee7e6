//! Clients of a service: `curl`, and plain connections.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::{Rig, text};

/// The longest wait for an answer: a scenario that hangs fails with its place.
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

/// How a connection was closed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum GoneAs {
    /// The other side sent its end of file.
    Closed,
    /// The other side reset it.
    Reset,
}

/// A connection to the rig. It is a plain one: the thread that opens it lives on the rig's network.
pub(crate) struct Client {
    stream: TcpStream,
    /// The kernel reports a reset once; here the request on its way out got it.
    reset: bool,
}

impl Client {
    /// Connects, which succeeds at once as long as the port is open.
    #[track_caller]
    pub(crate) fn connect(address: &str) -> Self {
        let stream =
            TcpStream::connect(address).unwrap_or_else(|why| panic!("connect to {address}: {why}"));
        stream
            .set_read_timeout(Some(ANSWER))
            .expect("a limit can be set");
        Self {
            stream,
            reset: false,
        }
    }

    /// Connects and asks for `/`, without waiting for the answer.
    #[track_caller]
    pub(crate) fn asks(address: &str) -> Self {
        Self::asks_for("/", address)
    }

    /// Connects and asks for a page, without waiting for the answer.
    #[track_caller]
    pub(crate) fn asks_for(page: &str, address: &str) -> Self {
        let mut client = Self::connect(address);
        client.send(&format!(
            "GET {page} HTTP/1.1\r\nHost: rig\r\nConnection: close\r\n\r\n"
        ));
        client
    }

    /// Asks for `/` and reads the page, on a connection that stays open for more.
    #[track_caller]
    pub(crate) fn ask_again(&mut self) -> String {
        self.sends("GET / HTTP/1.1\r\nHost: rig\r\n\r\n")
    }

    /// The same with another request.
    #[track_caller]
    pub(crate) fn sends(&mut self, request: &str) -> String {
        self.send(request);
        let mut answer = String::new();
        loop {
            let mut bytes = [0; 4096];
            let length = self
                .stream
                .read(&mut bytes)
                .unwrap_or_else(|why| panic!("reading after {answer:?}: {why}"));
            assert_ne!(length, 0, "the connection ended after {answer:?}");
            answer += &text(&bytes[..length]);
            if let Some(page) = whole_page(&answer) {
                return page.to_owned();
            }
        }
    }

    #[track_caller]
    fn send(&mut self, request: &str) {
        match self.stream.write_all(request.as_bytes()) {
            Ok(()) => {}
            Err(why) if why.kind() == io::ErrorKind::ConnectionReset => self.reset = true,
            Err(why) => panic!("sending a request: {why}"),
        }
    }

    /// Reads until the end: what came, and how it ended.
    #[track_caller]
    pub(crate) fn reads(mut self) -> (String, GoneAs) {
        let mut bytes = Vec::new();
        let gone = match self.stream.read_to_end(&mut bytes) {
            _ if self.reset => GoneAs::Reset,
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
        let page = whole_page(&answer).unwrap_or_else(|| panic!("no whole answer but {answer:?}"));
        page.to_owned()
    }
}

/// The page in a good answer, when all of it is there.
fn whole_page(answer: &str) -> Option<&str> {
    let (head, page) = answer.split_once("\r\n\r\n")?;
    assert!(head.contains(" 200 OK"), "not a good answer: {head:?}");
    let mut headers = head.lines().filter_map(|line| line.split_once(": "));
    let (_, length) = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?;
    (length.parse() == Ok(page.len())).then_some(page)
}
