//! Ten thousand clients connect before the service has started.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::rig::{Client, Rig};
use crate::services::{PORT, SOON, TARGET, nginx_does};

const CLIENTS: usize = 10_000;

/// So many may wait inside; as many again are in the kernel's backlog, and the others retransmit until there is room.
const WAITING: &str = "WAKEPORT_MAX_WAITING=3000";

const CLIENT_TIMEOUT: Duration = Duration::from_secs(200);

#[test]
#[ignore = "needs root: tests/run runs it"]
fn ten_thousand_clients_during_one_start_are_all_served_in_batches() {
    let rig = Rig::boot();
    rig.write(
        "/etc/nginx/nginx.conf",
        &format!(
            "pid /run/nginx.pid;
             error_log stderr;
             worker_rlimit_nofile 16384;
             events {{ worker_connections 16000; }}
             http {{
                 access_log off;
                 client_header_timeout 200s;
                 server {{ listen {TARGET} backlog=4096; return 200 hello$args; }}
             }}"
        ),
    );
    nginx_does(&rig, "ExecStartPre=sleep 4");
    rig.instance("nginx", PORT, TARGET, &[SOON, WAITING]);
    // A SYN to a full backlog is sent again after 1 s, 3 s, 7 s (tcp(7), tcp_syn_retries): a while may pass without others.
    let stays = Client::connect(PORT);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let served = runtime.block_on(async {
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            clients.spawn(async move {
                let answer = timeout(CLIENT_TIMEOUT, asks(number)).await;
                let answer = answer.unwrap_or_else(|_| panic!("client {number} waits in vain"));
                answer.unwrap_or_else(|why| panic!("client {number}: {why}"))
            });
        }
        let mut served = 0;
        while let Some(client) = clients.join_next().await {
            let (number, answer) = client.expect("served");
            assert!(
                answer.ends_with(&format!("\r\n\r\nhello{number}")),
                "{answer:?}"
            );
            served += 1;
        }
        served
    });
    assert_eq!(served, CLIENTS);
    assert_eq!(rig.starts("nginx.service"), 1);
    drop(stays);
    rig.wait_until_asleep("nginx");
    assert_eq!(rig.starts("nginx.service"), 1);
}

async fn asks(number: usize) -> std::io::Result<(usize, String)> {
    let mut stream = TcpStream::connect(PORT).await?;
    let request = format!("GET /?{number} HTTP/1.1\r\nHost: rig\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok((number, answer))
}
