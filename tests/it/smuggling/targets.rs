//! Servers of different makes that say which requests they see. A response has no body, and `X-Seen` is the path;
//! some say the body in `X-Body` as well.

use std::fs;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustix::process::Signal;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::support::{Place, Program};

/// A server, and what it has seen: a path a line, or `BAD` for what it takes for no request.
pub(crate) struct Target {
    pub(crate) place: Place,
    /// How it is ended so that all it has seen is written.
    end: Box<dyn FnOnce() -> String>,
}

impl Target {
    /// Ends it. What it has seen.
    pub(crate) fn end(self) -> Vec<String> {
        let seen = (self.end)();
        seen.lines().map(str::to_owned).collect()
    }

    fn of(place: Place, program: Program, (signal, file): (Signal, &'static str)) -> Self {
        let mut program = program.listens(&place);
        let end = move || {
            program.signal(signal);
            program.wait();
            fs::read_to_string(program.path(file)).expect("what it has seen")
        };
        Self {
            place,
            end: Box::new(end),
        }
    }

    pub(crate) fn nginx() -> Self {
        let place = Place::tcp();
        let conf = format!(
            "daemon off; master_process off; pid pid; error_log stderr;\n\
             events {{}}\n\
             http {{\n\
             client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;\n\
             uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
             map $request_uri $seen {{ default $request_uri; \"\" BAD; }}\n\
             log_format seen '$seen'; access_log seen seen;\n\
             server {{ listen {place}; location / {{ add_header X-Seen $request_uri; return 204; }} }}\n\
             }}\n"
        );
        let command = ["nginx", "-e", "stderr", "-p", ".", "-c", "conf"];
        let program = Program::start(&command, &[("conf", &conf)]);
        Self::of(place, program, (Signal::QUIT, "seen"))
    }

    pub(crate) fn haproxy() -> Self {
        let place = Place::tcp();
        let conf = format!(
            "defaults\n mode http\n timeout connect 30s\n timeout client 30s\n timeout server 30s\n\
             listen it\n bind {place}\n log stdout format raw local0\n log-format %ts%HU\n option dontlognull\n \
             option http-buffer-request\n http-request return status 200 hdr X-Seen %[url]\n"
        );
        let program = Program::start(&["haproxy", "-db", "-f", "conf"], &[("conf", &conf)]);
        Self::of(place, program, (Signal::USR1, "log"))
    }

    pub(crate) fn h11() -> Self {
        let place = Place::tcp();
        let port = place.tcp_address();
        let (host, port) = (port.ip().to_string(), port.port().to_string());
        let command = ["/usr/bin/python3", "server.py", &host, &port];
        let program = Program::start(&command, &[("server.py", H11)]);
        Self::of(place, program, (Signal::TERM, "log"))
    }

    pub(crate) fn node() -> Self {
        let place = Place::tcp();
        let port = place.tcp_address();
        let (host, port) = (port.ip().to_string(), port.port().to_string());
        let command = ["node", "server.js", &host, &port];
        let program = Program::start(&command, &[("server.js", NODE)]);
        Self::of(place, program, (Signal::TERM, "log"))
    }

    pub(crate) fn hyper() -> Self {
        let place = Place::tcp();
        let listener = std::net::TcpListener::from(place.listen());
        let seen = Arc::<Mutex<String>>::default();
        let (stop, stopped) = oneshot::channel::<()>();
        let (is_done, done) = channel();
        thread::spawn({
            let seen = seen.clone();
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                runtime.expect("a runtime").block_on(async {
                    tokio::select! {
                        () = serve(listener, &seen) => (),
                        _ = stopped => (),
                    }
                });
                let _ = is_done.send(());
            }
        });
        let end = move || {
            drop(stop);
            done.recv().expect("it ends");
            seen.lock().expect("no panic").clone()
        };
        Self {
            place,
            end: Box::new(end),
        }
    }
}

async fn serve(listener: std::net::TcpListener, seen: &Arc<Mutex<String>>) {
    listener.set_nonblocking(true).expect("an option");
    let listener = TcpListener::from_std(listener).expect("a listener");
    let tasks = TaskTracker::new();
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let seen = seen.clone();
        tasks.spawn(async move {
            let connection = http1::Builder::new().serve_connection(
                TokioIo::new(stream),
                service_fn(|request| respond(request, seen.clone())),
            );
            if connection.await.is_err_and(|error| error.is_parse()) {
                seen.lock().expect("no panic").push_str("BAD\n");
            }
        });
    }
}

async fn respond(
    request: Request<Incoming>,
    seen: Arc<Mutex<String>>,
) -> hyper::Result<Response<String>> {
    let (head, mut body) = request.into_parts();
    let path = head.uri.to_string();
    seen.lock()
        .expect("no panic")
        .push_str(&format!("{path}\n"));
    let mut hex = String::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        if let Ok(data) = frame?.into_data() {
            hex.extend(data.iter().map(|byte| format!("{byte:02x}")));
        }
    }
    let response = Response::builder()
        .header("X-Seen", path)
        .header("X-Body", hex);
    Ok(response.body(String::new()).expect("a response"))
}

const H11: &str = r#"
import h11, socket, sys, threading

listener = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=1000)

def serve(client):
    connection = h11.Connection(h11.SERVER)
    def event():
        while (event := connection.next_event()) is h11.NEED_DATA:
            connection.receive_data(client.recv(65536))
        return event
    def respond(status, headers):
        headers.append(("Content-Length", "0"))
        client.sendall(connection.send(h11.Response(status_code=status, headers=headers)))
        client.sendall(connection.send(h11.EndOfMessage()))
    try:
        while type(request := event()) is h11.Request:
            print(request.target.decode(), flush=True)
            body = b""
            while type(part := event()) is h11.Data:
                body += part.data
            respond(200, [("X-Seen", request.target), ("X-Body", body.hex())])
            if connection.our_state is h11.MUST_CLOSE:
                break
            connection.start_next_cycle()
    except h11.RemoteProtocolError as error:
        print("BAD", error, flush=True)
        if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            respond(error.error_status_hint, [])
    except OSError:
        pass
    client.close()

while True:
    threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()
"#;

const NODE: &str = r#"
const fs = require("fs");
const http = require("http");
const say = line => fs.writeSync(1, line + "\n");
const server = http.createServer((request, response) => {
  say(request.url);
  let body = "";
  request.setEncoding("hex");
  request.on("data", data => body += data);
  request.on("end", () => {
    response.writeHead(200, { "X-Seen": request.url, "X-Body": body, "Content-Length": 0 });
    response.end();
  });
});
server.on("clientError", (error, socket) => {
  if (error.code === "ECONNRESET" || error.code === "HPE_INVALID_EOF_STATE") return;
  say("BAD " + error.code);
  socket.end("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
});
server.listen(Number(process.argv[3]), process.argv[2]);
"#;
