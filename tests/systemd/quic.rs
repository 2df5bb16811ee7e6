//! QUIC through wakeport, with quinn at both ends: wakes, restarts in the middle of streams, a client that moves to
//! another port.

use std::fs;
use std::future::Future;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use quinn::rustls::RootCertStore;
use quinn::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use quinn::{ClientConfig, Connection, Endpoint, ServerConfig, TransportConfig};
use tokio::runtime::Builder;
use tokio_util::task::TaskTracker;

use crate::echo_service::{Over, words};
use crate::rig::Rig;
use crate::udp::behind;

/// Whom the certificate is for.
const NAME: &str = "quic.example.org";
const CERTIFICATE: &str = "/etc/ssl/quic.crt";
const KEY: &str = "/etc/ssl/quic.key";

/// Where clients send to, and the server listens 10,000 higher.
const PORT: u16 = 9200;
const TO: &str = "WAKEPORT_TO=udp:127.0.0.1:19200";

/// Set where this program is the server: it listens there.
const SERVER: &str = "WAKEPORT_TEST_QUIC_SERVER";

/// How many streams there are at once, and how much each sends and gets back.
const STREAMS: u64 = 4;
const MUCH: usize = 1 << 19;
const LITTLE: usize = 10_000;

/// A flow is gone after that. On a busy machine QUIC may have to wait for long before it repeats what got lost: a
/// connection that is to last has all the time that it needs.
const LONG: &str = "WAKEPORT_UDP_IDLE_TIMEOUT=10min";
const SOON: &str = "WAKEPORT_UDP_IDLE_TIMEOUT=5s";

/// How often wakeport is restarted under one connection.
const RESTARTS: usize = 3;

/// The longest silence: a connection that hangs fails its scenario.
const SILENCE: Duration = Duration::from_secs(120);

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_connection_wakes_the_server_outlives_restarts_and_moves_to_another_port() {
    if let Ok(address) = std::env::var(SERVER) {
        return run(serves(address.parse().expect("an address")));
    }
    let rig = Rig::boot();
    let port = server(
        &rig,
        "quic",
        "quic::a_connection_wakes_the_server_outlives_restarts_and_moves_to_another_port",
    );
    let configuration = trusting(&rig.path(CERTIFICATE));
    let (over, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    assert!(rig.is("inactive", "quic.service") && rig.is("inactive", "wakeport@quic.service"));
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            run(async {
                let client = Client::connect(&configuration, port).await;
                // Streams are under way all the time, whatever happens meanwhile.
                let first = client.exchange(0, MUCH).await;
                while !over.load(SeqCst) {
                    let round = rounds.fetch_add(1, SeqCst) + 1;
                    let now = client.exchange(round as u64, MUCH).await;
                    assert_eq!(now, first, "the server sees the port that it saw");
                }
                client.moves();
                assert_ne!(client.exchange(1000, MUCH).await, first, "it is a new flow");
                assert!(client.is_validated(), "and a new path of the connection");
                client.closes().await;
            });
        });
        let _over = Over(&over);
        for _ in 0..RESTARTS {
            let before = rounds.load(SeqCst);
            rig.wait_for("streams are under way", || {
                client.is_finished() || rounds.load(SeqCst) > before + 1
            });
            rig.systemctl("restart wakeport@quic.service");
        }
        over.store(true, SeqCst);
        if let Err(panic) = client.join() {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(rig.said("wakeport@quic.service", "took 1 connection over") >= RESTARTS);
    assert_eq!(rig.starts("quic.service"), 1);
    rig.settings("quic", &[&settings(SOON)[..], &[TO]].concat());
    rig.systemctl("restart wakeport@quic.service");
    for wake in 2..=3 {
        rig.wait_until_asleep("quic");
        run(async {
            let client = Client::connect(&configuration, port).await;
            client.exchange(wake, LITTLE).await;
            client.closes().await;
        });
        assert_eq!(rig.starts("quic.service") as u64, wake);
    }
    rig.wait_until_asleep("quic");
    assert_eq!(rig.show("Result", "quic.service"), "success");
}

/// A client, and its connection.
struct Client {
    endpoint: Endpoint,
    connection: Connection,
}

impl Client {
    async fn connect(configuration: &ClientConfig, port: u16) -> Self {
        let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a free port");
        let connecting =
            endpoint.connect_with(configuration.clone(), ([127, 0, 0, 1], port).into(), NAME);
        let connection = connecting.expect("a name").await.expect("it is connected");
        Self {
            endpoint,
            connection,
        }
    }

    /// Sends so much on each of several streams at once, and gets all of it back; the port that the server sees.
    async fn exchange(&self, seed: u64, each: usize) -> u16 {
        let (tracker, mut tasks) = (TaskTracker::new(), Vec::new());
        for number in 0..STREAMS {
            let connection = self.connection.clone();
            let said = words(seed * STREAMS + number, each);
            tasks.push(tracker.spawn(async move {
                let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
                let says = async {
                    send.write_all(&said).await.expect("it is sent");
                    send.finish().expect("it is not closed");
                };
                let ((), heard) = tokio::join!(says, receive.read_to_end(each + 3));
                let heard = heard.expect("it is answered");
                let (port, heard) = heard.split_first_chunk().expect("a port");
                assert!(*heard == said, "each byte comes back, and nothing else");
                u16::from_be_bytes(*port)
            }));
        }
        let mut ports = Vec::new();
        for task in tasks {
            ports.push(task.await.expect("no panic"));
        }
        assert!(ports.iter().all(|port| *port == ports[0]), "{ports:?}");
        ports[0]
    }

    /// Goes on from another port, as after a change of networks.
    fn moves(&self) {
        let before = self.endpoint.local_addr().expect("it is bound");
        let other = UdpSocket::bind(("127.0.0.1", 0)).expect("a free port");
        self.endpoint.rebind(other).expect("it goes on");
        assert_ne!(self.endpoint.local_addr().expect("it is bound"), before);
    }

    /// Whether the server has asked for a sign of life on a new path, and got one.
    fn is_validated(&self) -> bool {
        let frames = self.connection.stats();
        frames.frame_rx.path_challenge > 0 && frames.frame_tx.path_response > 0
    }

    async fn closes(self) {
        self.connection.close(0_u8.into(), b"");
        self.endpoint.wait_idle().await;
    }
}

/// NAME.service, behind wakeport; its port. It is this very program, which runs `test` there.
fn server(rig: &Rig, name: &str, test: &str) -> u16 {
    // webpki takes no certificate of an authority for that of a server.
    rig.write(
        "/etc/ssl/quic.cnf",
        &format!(
            "[req]\ndistinguished_name = name\nx509_extensions = server\n[name]\n[server]\nbasicConstraints = CA:FALSE\n\
             subjectAltName = DNS:{NAME}\n"
        ),
    );
    rig.run(&format!(
        "openssl req -config /etc/ssl/quic.cnf -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
         -subj /CN={NAME} -keyout /etc/ssl/quic.pem -outform DER -out {CERTIFICATE} 2>&1 && \
         openssl pkcs8 -topk8 -nocrypt -in /etc/ssl/quic.pem -outform DER -out {KEY}"
    ));
    let program = std::env::current_exe().expect("a program");
    fs::copy(program, rig.path("/usr/local/bin/quic-server")).expect("it is copied");
    let (port, own) = (PORT, PORT + 10_000);
    rig.unit(
        &format!("{name}.service"),
        &format!(
            "[Service]\nEnvironment={SERVER}=127.0.0.1:{own}\n\
             ExecStart=/usr/local/bin/quic-server --exact {test} --ignored --nocapture\n"
        ),
    );
    behind(rig, name, port, &settings(LONG));
    port
}

fn settings(idle_timeout: &str) -> [&str; 3] {
    [
        "WAKEPORT_COOLDOWN=100ms",
        "WAKEPORT_UDP_WAKE=quic",
        idle_timeout,
    ]
}

/// Sends back what comes on each stream, behind the port from which its client sends then.
async fn serves(address: SocketAddr) {
    let certificate = CertificateDer::from(fs::read(CERTIFICATE).expect(CERTIFICATE));
    let key = PrivatePkcs8KeyDer::from(fs::read(KEY).expect(KEY));
    let configuration = ServerConfig::with_single_cert(vec![certificate], key.into());
    let mut configuration = configuration.expect("a certificate with its key");
    configuration.transport_config(patient());
    let endpoint = Endpoint::server(configuration, address).expect("the port is ours");
    let tasks = TaskTracker::new();
    while let Some(incoming) = endpoint.accept().await {
        let streams = tasks.clone();
        tasks.spawn(async move {
            let Ok(connection) = incoming.await else {
                return;
            };
            while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                let port = connection.remote_address().port();
                streams.spawn(async move {
                    let mut bytes = vec![0; 65_536];
                    let mut answer = port.to_be_bytes().to_vec();
                    while send.write_all(&answer).await.is_ok() {
                        let Ok(Some(count)) = receive.read(&mut bytes).await else {
                            // Both directions end.
                            return;
                        };
                        answer = bytes[..count].to_vec();
                    }
                });
            }
        });
    }
}

/// What a client goes by that trusts this certificate.
fn trusting(certificate: &Path) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let certificate = fs::read(certificate).expect("a certificate");
    roots.add(certificate.into()).expect("a certificate");
    let configuration = ClientConfig::with_root_certificates(Arc::new(roots));
    let mut configuration = configuration.expect("what quinn needs of rustls");
    configuration.transport_config(patient());
    configuration
}

fn patient() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(SILENCE.try_into().expect("a time")));
    Arc::new(transport)
}

/// Runs on this thread, which is on the rig's network.
fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("an event loop").block_on(future)
}
