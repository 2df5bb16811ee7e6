//! The proxies, each with its best documented settings: how one is started, and how it ends.

use std::error::Error;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process};

use crate::proc::{self, Memory};

/// How long a proxy may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The backlog of every listener; systemd's is as long.
const BACKLOG: i32 = 4096;

/// Where systemd keeps its own proxy.
pub(crate) const SOCKET_PROXYD: &str = "/lib/systemd/systemd-socket-proxyd";

/// What the kernel keeps for a UDP socket of ours, and of a peer that gets it: what `wakeport init` writes.
const RECEIVE_BUFFER: usize = 4 << 20;

/// What makes the standard input an inherited listener of nginx's.
const HAND_OVER_TO_NGINX: &str = r#"exec 3<&0 0</dev/null; NGINX='3;' exec "$@""#;

/// What makes the standard input the first socket that systemd hands over, and ignores SIGPIPE as systemd does.
const HAND_OVER: &str =
    r#"trap '' PIPE; exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@""#;

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Direct,
    SocketProxyd,
    /// With larger pipes than its own default, or not; with HTTP it also splices bodies.
    Haproxy {
        tuned: bool,
    },
    /// With larger buffers than its own default, or not; with HTTP without buffering, and for datagrams with the
    /// receive buffer that wakeport has.
    Nginx {
        tuned: bool,
    },
    /// This build of it.
    Wakeport(PathBuf),
}

/// What peers relay.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    Bytes,
    Http,
    Datagrams,
}

/// Somebody who takes part.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// What it is called on the command line and in the results.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    speaks: Speaks,
    /// A number that keeps the ports of all apart: what one leaves in TIME_WAIT hinders nobody else.
    number: u16,
}

impl Peer {
    /// One of those listed below, or `NAME=PATH` for another build of wakeport.
    pub(crate) fn parse(
        word: &str,
        number: u16,
        wakeport: &Path,
        speaks: Speaks,
    ) -> Result<Self, String> {
        let (name, kind) = match word.split_once('=') {
            Some((name, path)) => (name, Kind::Wakeport(path.into())),
            None => match word {
                "direct" => (word, Kind::Direct),
                "socket-proxyd" if speaks == Speaks::Http => {
                    return Err(format!("`{word}` does not speak HTTP"));
                }
                "socket-proxyd" | "haproxy" | "haproxy-tuned" if speaks == Speaks::Datagrams => {
                    return Err(format!("`{word}` relays no datagrams"));
                }
                "socket-proxyd" => (word, Kind::SocketProxyd),
                "haproxy" => (word, Kind::Haproxy { tuned: false }),
                "haproxy-tuned" => (word, Kind::Haproxy { tuned: true }),
                "nginx" => (word, Kind::Nginx { tuned: false }),
                "nginx-tuned" => (word, Kind::Nginx { tuned: true }),
                "wakeport" => (word, Kind::Wakeport(wakeport.into())),
                _ => {
                    return Err(format!(
                        "`{word}` is none of direct, socket-proxyd, haproxy, haproxy-tuned, nginx, nginx-tuned, wakeport, NAME=PATH"
                    ));
                }
            },
        };
        Ok(Self {
            name: name.to_owned(),
            kind,
            speaks,
            number,
        })
    }

    /// Where the service listens that this peer relays to.
    pub(crate) fn target(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 7100 + self.number).into()
    }

    /// Where clients connect.
    pub(crate) fn entrance(&self) -> SocketAddr {
        match self.kind {
            Kind::Direct => self.target(),
            _ => (Ipv4Addr::LOCALHOST, 7000 + self.number).into(),
        }
    }

    /// Starts it; `None` for no proxy at all. It is ended by dropping it.
    pub(crate) fn start(&self, dir: &Path) -> Result<Option<Running>, Box<dyn Error>> {
        let (entrance, target) = (self.entrance(), self.target());
        let cores = thread::available_parallelism()?;
        let file = dir.join(format!("{}.conf", self.name));
        let open_files = getrlimit(Resource::Nofile)
            .maximum
            .unwrap_or(1 << 20)
            .min(1 << 20);
        let mut end = Signal::KILL;
        let mut command = match &self.kind {
            Kind::Direct => return Ok(None),
            Kind::SocketProxyd => hand_over(
                entrance,
                &[SOCKET_PROXYD, "-c", "100000", &target.to_string()],
                self.speaks,
            )?,
            Kind::Wakeport(binary) => {
                let binary = binary.to_str().ok_or("a path in UTF-8")?;
                let to = match self.speaks {
                    Speaks::Datagrams => format!("udp:{target}"),
                    Speaks::Bytes | Speaks::Http => target.to_string(),
                };
                let mut words = vec![binary, "run", "--stay", "--log-level", "error", "--to", &to];
                words.extend((self.speaks == Speaks::Http).then_some("--http"));
                hand_over(entrance, &words, self.speaks)?
            }
            &Kind::Haproxy { tuned } => {
                // Two files for each connection, and half as many again for pipes.
                let connections = (open_files - 1000) * 2 / 5;
                let threads = cores.get();
                let http = self.speaks == Speaks::Http;
                let config = haproxy(entrance, target, threads, connections, http, tuned);
                fs::write(&file, config)?;
                let mut command = owned("haproxy", Signal::KILL);
                command.arg("-db").arg("-q").arg("-f").arg(&file);
                command
            }
            &Kind::Nginx { tuned } => {
                end = Signal::TERM;
                let (workers, server) = match self.speaks {
                    Speaks::Http => (cores.get(), nginx_http(entrance, target, dir, tuned)),
                    Speaks::Bytes => (cores.get(), nginx_stream(entrance, target, tuned)),
                    // Several would each take a part of a client's datagrams for a session of its own.
                    Speaks::Datagrams => (1, nginx_udp(entrance, target)),
                };
                fs::write(&file, nginx(workers, open_files, dir, &server))?;
                let mut command = match (self.speaks, tuned) {
                    (Speaks::Datagrams, true) => {
                        let mut command = owned("sh", Signal::TERM);
                        let socket = OwnedFd::from(datagrams(entrance)?);
                        command
                            .args(["-c", HAND_OVER_TO_NGINX, "sh", "nginx"])
                            .stdin(socket);
                        command
                    }
                    _ => owned("nginx", Signal::TERM),
                };
                command.arg("-p").arg(dir).arg("-c").arg(&file);
                command
            }
        };
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdout(Stdio::null());
        let child = command.spawn()?;
        let mut running = Running { child, end };
        let deadline = Instant::now() + PATIENCE;
        let listens = || match self.speaks {
            Speaks::Datagrams => echoes(entrance),
            Speaks::Bytes | Speaks::Http => TcpStream::connect(entrance).is_ok(),
        };
        while !listens() {
            if !running.runs() || Instant::now() > deadline {
                return Err(format!("{} does not listen", self.name).into());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(Some(running))
    }

    /// What it is called in the chart and the tables.
    pub(crate) fn title(&self) -> &str {
        title(&self.name)
    }
}

/// What a name stands for in the chart and the tables.
pub(crate) fn title(name: &str) -> &str {
    match name {
        "socket-proxyd" => "systemd-socket-proxyd",
        "haproxy" => "HAProxy",
        "haproxy-tuned" => "HAProxy, tuned",
        "nginx-tuned" => "nginx, tuned",
        other => other,
    }
}

/// A program that ends when we do, however that comes about.
fn owned(program: &str, end: Signal) -> Command {
    let mut command = Command::new("setpriv");
    let signal = if end == Signal::TERM { "TERM" } else { "KILL" };
    command
        .args(["--pdeathsig", signal, "--", program])
        .stdin(Stdio::null());
    command
}

/// A program that gets its listener as systemd would hand it over.
fn hand_over(entrance: SocketAddr, words: &[&str], speaks: Speaks) -> std::io::Result<Command> {
    let mut command = owned("sh", Signal::KILL);
    let socket: OwnedFd = match speaks {
        Speaks::Datagrams => datagrams(entrance)?.into(),
        Speaks::Bytes | Speaks::Http => listen(entrance)?.into(),
    };
    command
        .args(["-c", HAND_OVER, "sh"])
        .args(words)
        .stdin(socket);
    Ok(command)
}

/// A UDP socket with a buffer that holds a burst.
pub(crate) fn datagrams(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER)?;
    Ok(socket)
}

/// Whether the service answers by way of this entrance.
fn echoes(entrance: SocketAddr) -> bool {
    let ask = || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        socket.send_to(b"are you there?", entrance)?;
        socket.recv(&mut [0; 64])
    };
    ask().is_ok()
}

/// A listener with a backlog that holds whatever comes.
pub(crate) fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

fn haproxy(
    entrance: SocketAddr,
    target: SocketAddr,
    threads: usize,
    connections: u64,
    http: bool,
    tuned: bool,
) -> String {
    let pipes = if tuned { "tune.pipesize 1048576" } else { "" };
    let mode = if http { "http" } else { "tcp" };
    let splice = match (http, tuned) {
        (false, _) => "option splice-auto",
        (true, true) => "option splice-response",
        (true, false) => "",
    };
    let more = if http {
        "option forwardfor
    http-request set-header X-Forwarded-Proto http
    http-reuse always
    timeout http-keep-alive 1h"
    } else {
        ""
    };
    format!(
        "global
    nbthread {threads}
    {pipes}
    maxconn {connections}
defaults
    mode {mode}
    {splice}
    maxconn {connections}
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen bench
    {more}
    bind {entrance} backlog {BACKLOG}
    server target {target}
"
    )
}

/// What is common to both of its modules.
fn nginx(workers: usize, open_files: u64, dir: &Path, server: &str) -> String {
    let dir = dir.display();
    format!(
        "daemon off;
user root;
worker_processes {workers};
worker_rlimit_nofile {open_files};
pid {dir}/nginx.pid;
error_log stderr crit;
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
events {{ worker_connections {open_files}; }}
{server}"
    )
}

fn nginx_stream(entrance: SocketAddr, target: SocketAddr, tuned: bool) -> String {
    let buffers = if tuned { "proxy_buffer_size 256k;" } else { "" };
    format!(
        "stream {{
    access_log off;
    tcp_nodelay on;
    proxy_half_close on;
    proxy_timeout 1h;
    {buffers}
    server {{
        listen {entrance} backlog={BACKLOG};
        proxy_pass {target};
    }}
}}
"
    )
}

fn nginx_udp(entrance: SocketAddr, target: SocketAddr) -> String {
    format!(
        "stream {{
    access_log off;
    proxy_timeout 30s;
    server {{
        listen {entrance} udp;
        proxy_pass {target};
    }}
}}
"
    )
}

/// No connection ends for its age, and no body goes to a file.
fn nginx_http(entrance: SocketAddr, target: SocketAddr, dir: &Path, tuned: bool) -> String {
    let dir = dir.display();
    let buffers = if tuned {
        "proxy_buffering off;
    proxy_buffer_size 64k;
    proxy_buffers 4 64k;"
    } else {
        "proxy_max_temp_file_size 0;"
    };
    format!(
        "http {{
    access_log off;
    tcp_nodelay on;
    keepalive_timeout 1h;
    keepalive_requests 1000000000;
    client_body_temp_path {dir}/nginx-body;
    proxy_temp_path {dir}/nginx-proxy;
    fastcgi_temp_path {dir}/nginx-fastcgi;
    uwsgi_temp_path {dir}/nginx-uwsgi;
    scgi_temp_path {dir}/nginx-scgi;
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header Connection \"\";
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
    {buffers}
    upstream target {{
        server {target};
        keepalive 128;
        keepalive_timeout 1h;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {entrance} backlog={BACKLOG};
        location / {{ proxy_pass http://target; }}
    }}
}}
"
    )
}

/// A proxy that runs.
pub(crate) struct Running {
    child: Child,
    end: Signal,
}

impl Running {
    /// Its processor time so far, in seconds.
    pub(crate) fn cpu(&self) -> f64 {
        proc::cpu(&proc::family(self.child.id()))
    }

    /// Its memory.
    pub(crate) fn memory(&self) -> Memory {
        proc::memory(&proc::family(self.child.id()))
    }

    /// Whether it is still there.
    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), self.end);
        let deadline = Instant::now() + PATIENCE;
        while self.runs() {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}
