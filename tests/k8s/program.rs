//! wakeport as it runs in a pod, and its clients.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::cluster::{Namespace, folder, until};

/// Instead of a user: the credentials are those of a kubeconfig, an administrator's.
pub(crate) const KUBECONFIG: &str = "KUBECONFIG";

/// What most are in front of.
pub(crate) const WEB: [&str; 4] = ["--scale", "deployment/web", "--to", "service/web"];

/// Where the API server is.
const API: &str = "https://127.0.0.1:6443";

fn take_token(credentials: &Path, user: &str) {
    let from = folder().join(format!("tokens/{user}"));
    fs::copy(from, credentials.join("token")).expect("a copy");
}

/// The credentials of a user, as a pod has them.
fn credentials(user: &str, namespace: &Namespace) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    fs::copy(folder().join("ca.crt"), dir.path().join("ca.crt")).expect("a copy");
    fs::write(dir.path().join("namespace"), &namespace.name).expect("a file");
    take_token(dir.path(), user);
    dir
}

/// The exit code of `wakeport check`, and what it says.
pub(crate) fn check(user: &str, namespace: &Namespace, options: &[&str]) -> (i32, String) {
    let dir = credentials(user, namespace);
    let mut command = Command::new(env!("CARGO_BIN_EXE_wakeport"));
    command
        .args(["check", "--listen", "127.0.0.1:9999", "--kube-api", API])
        .arg("--kube-credentials")
        .arg(dir.path());
    let ended = command.args(options).stdin(Stdio::null()).output();
    let ended = ended.expect("a process");
    let said = [ended.stdout, ended.stderr].concat();
    let code = ended.status.code().expect("an exit code");
    (code, String::from_utf8_lossy(&said).into_owned())
}

/// A wakeport in front of `web`; it is killed with this.
pub(crate) struct Wakeport {
    child: Child,
    dir: TempDir,
    front: SocketAddr,
}

impl Wakeport {
    /// For a Deployment, as an administrator, in the pod that is called as this machine.
    pub(crate) fn start(namespace: &Namespace, options: &[&str]) -> Self {
        let all = [&WEB[..], options].concat();
        Self::of("admin", "", namespace, &all)
    }

    /// The same with all options given, as another user or in another pod.
    pub(crate) fn of(user: &str, pod: &str, namespace: &Namespace, options: &[&str]) -> Self {
        // No other program is in the network of these tests.
        static PORT: AtomicU16 = AtomicU16::new(10_000);
        let port = PORT.fetch_add(1, Ordering::Relaxed);
        let front = SocketAddr::from(([127, 0, 0, 1], port));
        let dir = match user {
            KUBECONFIG => tempfile::tempdir().expect("a directory"),
            user => credentials(user, namespace),
        };
        let log = File::create(dir.path().join("log")).expect("a file");
        let program = env!("CARGO_BIN_EXE_wakeport");
        let mut command = Command::new("unshare");
        let script = r#"[ -z "$1" ] || hostname "$1"; shift; exec "$@""#;
        command.args(["--uts", "sh", "-c", script, "sh", pod, program, "run"]);
        command
            .args(["--listen", &format!("main={front}")])
            .args(["--log-level", "debug"])
            .args(options);
        if user == KUBECONFIG {
            command
                .env("KUBECONFIG", folder().join("admin.kubeconfig"))
                .args(["--namespace", &namespace.name]);
        } else {
            command.arg("--kube-credentials").arg(dir.path());
            if !options.contains(&"--kube-api") {
                command.args(["--kube-api", API]);
            }
        }
        if !options.contains(&"--cooldown") {
            command.args(["--cooldown", "1s"]);
        }
        let child = command
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("unshare");
        let wakeport = Self { child, dir, front };
        // Not by a connection, which would wake the service.
        let port = format!(":{port:04X} 00000000:0000 0A");
        until("a listener", || {
            fs::read_to_string("/proc/net/tcp").is_ok_and(|table| table.contains(&port))
        });
        wakeport
    }

    /// Replaces its token, as the kubelet does.
    pub(crate) fn takes_the_token_of(&self, user: &str) {
        take_token(self.dir.path(), user);
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn logs(&self, text: &str) {
        until(&format!("`{text}` in the log"), || {
            self.log().contains(text)
        });
    }

    pub(crate) fn connect(&self) -> Client {
        Client::to(self.front)
    }

    /// Four clients come, each after a pause, and are served at the same time; how many that were.
    pub(crate) fn serves_four(&self, pause: impl Fn(u64) -> Duration) -> u64 {
        let clients: Vec<_> = (0..4)
            .map(|number| {
                thread::sleep(pause(number));
                let mut client = self.connect();
                thread::spawn(move || {
                    client.greeted();
                    client.echoes("hello");
                    client.closes();
                })
            })
            .collect();
        let served = clients.len() as u64;
        for client in clients {
            client.join().expect("it was served");
        }
        served
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }
}

impl Drop for Wakeport {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let _ = writeln!(
                std::io::stderr(),
                "-- log of {}:\n{}",
                self.front,
                self.log()
            );
        }
    }
}

/// A client of the echo service.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    pub(crate) fn to(front: SocketAddr) -> Self {
        let stream = TcpStream::connect(front).expect("a listener");
        stream
            .set_read_timeout(Some(Duration::from_secs(90)))
            .expect("a time");
        Self(BufReader::new(stream))
    }

    /// Waits for the greeting: the name of the pod.
    pub(crate) fn greeted(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a greeting");
        assert!(
            line.ends_with('\n'),
            "the connection ended without a greeting: {line:?}"
        );
        line.trim_end().to_owned()
    }

    /// Sends something.
    pub(crate) fn asks(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).expect("a peer");
    }

    /// The next line.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a line");
        line
    }

    /// Sends a line and waits for its echo.
    pub(crate) fn echoes(&mut self, text: &str) {
        let line = format!("{text}\n");
        self.0.get_mut().write_all(line.as_bytes()).expect("a peer");
        let mut echo = String::new();
        self.0.read_line(&mut echo).expect("an echo");
        assert_eq!(echo, line);
    }

    /// Ends its side, and waits for the other end.
    pub(crate) fn closes(mut self) {
        let _ = self.0.get_ref().shutdown(Shutdown::Write);
        let _ = self.0.read_to_end(&mut Vec::new());
    }

    /// Whether nothing comes within this time.
    pub(crate) fn is_silent(&mut self, time: Duration) -> bool {
        self.0
            .get_ref()
            .set_read_timeout(Some(time))
            .expect("a time");
        let silent = self.0.fill_buf().is_err_and(|error| {
            matches!(
                error.kind(),
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
            )
        });
        let patient = Some(Duration::from_secs(90));
        self.0.get_ref().set_read_timeout(patient).expect("a time");
        silent
    }
}
