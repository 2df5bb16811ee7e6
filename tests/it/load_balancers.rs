//! nginx and HAProxy in front of `wakeport` and behind it, speaking the PROXY protocol.

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::{Client, Place, Run, Server, directory, soon, throughout, until};

/// A load balancer that runs until this is dropped.
struct Balancer {
    process: Child,
    dir: TempDir,
}

impl Balancer {
    /// Runs a program in a directory of its own, where its configuration is `conf`.
    fn start(program: &str, arguments: &[&str], configuration: &str) -> Self {
        let dir = directory();
        fs::write(dir.path().join("conf"), configuration).expect("a file of ours");
        let log = fs::File::create(dir.path().join("log")).expect("a file of ours");
        let process = Command::new(program)
            .args(arguments)
            .current_dir(&dir)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn();
        let process = process
            .unwrap_or_else(|error| panic!("`{program}`: {error}; install it (tests/run does)"));
        Self { process, dir }
    }

    /// A server of nginx's stream module.
    fn nginx(server: &str) -> Self {
        let configuration = format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
             daemon off; master_process off; pid pid; error_log stderr;\n\
             events {{}}\n\
             stream {{ server {{ {server} }} }}\n"
        );
        let arguments = ["-e", "stderr", "-p", ".", "-c", "conf"];
        Self::start("nginx", &arguments, &configuration)
    }

    fn haproxy(section: &str) -> Self {
        let configuration = format!(
            "defaults\n timeout connect 30s\n timeout client 30s\n timeout server 30s\n{section}"
        );
        Self::start("haproxy", &["-db", "-f", "conf"], &configuration)
    }

    /// A client that has connected to it; the first one waits until it listens.
    fn connect(&mut self, place: &Place) -> Client {
        soon("the balancer listens", || {
            let ended = self.process.try_wait().expect("it is ours");
            assert!(ended.is_none(), "{ended:?}");
            place.try_connect().ok()
        })
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.path().join("log"));
            #[expect(clippy::print_stderr, reason = "only a test that fails says this")]
            {
                eprintln!("-- the balancer's log:\n{}", log.unwrap_or_default());
            }
        }
    }
}

/// Where a client comes from.
fn own(client: &Client) -> SocketAddr {
    let address = client.socket().local_addr().expect("an open connection");
    address.as_socket().expect("TCP")
}

/// nginx that prints its client's address as soon as the header has arrived.
fn nginx_target(place: &Place) -> Balancer {
    Balancer::nginx(&format!(
        "listen {place} proxy_protocol; \
         return \"client $proxy_protocol_addr:$proxy_protocol_port\";"
    ))
}

/// HAProxy that answers HTTP requests with its client's address.
fn haproxy_target(place: &Place) -> Balancer {
    Balancer::haproxy(&format!(
        "frontend target\n mode http\n bind {place} accept-proxy\n \
         http-request return status 200 content-type text/plain \
         lf-string \"client %[src]:%[src_port]\"\n"
    ))
}

/// All data until the end of file, as text.
fn text(client: &Client) -> String {
    String::from_utf8_lossy(&client.all()).into_owned()
}

/// With a PROXY header of this version, to a target that is asked in this way.
fn announcing(wakeport: Run, version: &str, ready: &str) -> Run {
    let wakeport = wakeport.option("--send-proxy", version);
    wakeport.option("--ready", ready)
}

#[test]
fn nginx_reads_the_client_address_from_the_proxy_header() {
    let (target, unix) = (Place::tcp(), Place::abstract_name());
    let _nginx = nginx_target(&target);
    for version in ["v1", "v2"] {
        for ready in ["connect", "banner"] {
            let front = Place::tcp();
            let wakeport = Run::new().to(&target).listen(&front).listen(&unix);
            let _wakeport = announcing(wakeport, version, ready).start();
            for _ in 0..3 {
                let client = front.connect();
                let expected = format!("client {}", own(&client));
                assert_eq!(text(&client), expected, "{version}");
            }
            // Accepted, although the header has no address.
            assert_eq!(text(&unix.connect()), "client :", "{version}");
        }
    }
}

#[test]
fn haproxy_reads_the_client_address_from_the_proxy_header() {
    let (target, unix) = (Place::tcp(), Place::abstract_name());
    let _haproxy = haproxy_target(&target);
    let ask = |client: &Client| {
        client.send("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = text(client);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer
    };
    for version in ["v1", "v2"] {
        for ready in ["connect", "http:///"] {
            let front = Place::tcp();
            let wakeport = Run::new().to(&target).listen(&front).listen(&unix);
            let _wakeport = announcing(wakeport, version, ready).start();
            for _ in 0..3 {
                let client = front.connect();
                let expected = format!("client {}", own(&client));
                let answer = ask(&client);
                assert!(answer.ends_with(&expected), "{answer}, not {expected}");
            }
            let answer = ask(&unix.connect());
            assert!(answer.contains("client "), "{answer}");
        }
    }
}

#[test]
fn the_client_address_is_read_from_nginx() {
    let (outside, front, target) = (Place::tcp(), Place::tcp(), Place::tcp());
    let _server = Server::echo(&target);
    let wakeport = Run::new()
        .to(&target)
        .listen(&front)
        .flag("--accept-proxy")
        .start();
    let mut nginx = Balancer::nginx(&format!(
        "listen {outside}; proxy_pass {front}; proxy_protocol on;"
    ));
    let client = nginx.connect(&outside);
    client.echoes("hello");
    wakeport.logs(&format!("waking the target for {}", own(&client)));
}

#[test]
fn the_client_address_is_read_from_haproxy_and_its_checks_wake_nothing() {
    for version in ["send-proxy", "send-proxy-v2"] {
        let (outside, front, target) = (Place::tcp(), Place::tcp(), Place::tcp());
        let server = Server::echo(&target);
        let wakeport = Run::new()
            .to(&target)
            .listen(&front)
            .flag("--accept-proxy")
            .cooldown("200ms")
            .option("--log-level", "debug")
            .start();
        let mut haproxy = Balancer::haproxy(&format!(
            "listen front\n mode tcp\n bind {outside}\n \
             server wakeport {front} check inter 20ms fall 1000 {version}\n"
        ));
        until("it has checked", || {
            let log = wakeport.log();
            log.matches("closed before it was served").count() > 10
        });
        assert!(!wakeport.log().contains("waking"), "{version}");
        assert_eq!(server.connections(), 0);
        let client = haproxy.connect(&outside);
        client.echoes("hello");
        wakeport.logs(&format!("waking the target for {}", own(&client)));
        wakeport.is("awake");
        drop(client);
        wakeport.is("asleep");
        throughout(Duration::from_millis(300), "it sleeps", || {
            wakeport.status().starts_with("asleep")
        });
        assert!(!wakeport.log().contains("WARN"), "{version}");
    }
}

#[test]
fn the_client_is_known_behind_two_balancers() {
    let (outside, front, target) = (Place::tcp(), Place::tcp(), Place::tcp());
    let _nginx = nginx_target(&target);
    let _wakeport = Run::new()
        .to(&target)
        .listen(&front)
        .flag("--accept-proxy")
        .option("--send-proxy", "v2")
        .start();
    let mut haproxy = Balancer::haproxy(&format!(
        "listen front\n mode tcp\n bind {outside}\n server wakeport {front} send-proxy-v2\n"
    ));
    for _ in 0..3 {
        let client = haproxy.connect(&outside);
        let expected = format!("client {}", own(&client));
        assert_eq!(text(&client), expected);
    }
}
