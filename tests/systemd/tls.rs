//! TLS in front of two nginx, each with a certificate of its own: woken by name, and through restarts.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::guide::https_server;
use crate::page_runner::PageRunner;
use crate::rig::Rig;
use crate::services::SOON;

const UNIT: &str = "wakeport@https.service";
const PORT: &str = "127.0.0.1:443";

/// What `curl` prints, if the certificate is that of the name.
fn page(rig: &Rig, name: &str) -> String {
    let host = format!("{name}.example.org");
    rig.run(&format!(
        "curl -sS --fail --noproxy '*' --max-time 120 --cacert /etc/ssl/{name}.crt --connect-to {host}:443:{PORT} https://{host}/"
    ))
}

/// Two services behind port 443, as the recipe has it.
fn front(rig: &Rig) {
    let runner = PageRunner::new(rig);
    https_server(rig, "docs", 18443);
    https_server(rig, "films", 18444);
    runner.run_section("docs/recipes.md#several-https-servers-on-one-port");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn each_https_server_is_woken_by_its_name_and_sleeps_by_itself() {
    let rig = Rig::boot();
    front(&rig);
    rig.settings("https", &[SOON]);
    rig.systemctl(&format!("stop {UNIT}"));
    for round in 1..=3 {
        for name in ["docs", "films"] {
            let before = rig.starts("films.service");
            assert_eq!(page(&rig, name), name);
            if name == "docs" {
                assert_eq!(rig.starts("films.service"), before);
            }
            rig.wait_until("inactive", &format!("{name}.service"));
        }
        rig.wait_until("inactive", UNIT);
        let starts = ["docs.service", "films.service"].map(|unit| rig.starts(unit));
        assert!(starts.iter().all(|&starts| starts >= round), "{starts:?}");
    }
    let (docs, films) = (rig.starts("docs.service"), rig.starts("films.service"));
    for name in ["-servername other.example.org", "-noservername"] {
        let refused = rig.attempt(&format!("openssl s_client -connect {PORT} {name} 2>&1"));
        let said = String::from_utf8_lossy(&refused.stdout).into_owned();
        assert!(said.contains("SSL alert number 112"), "{said}");
    }
    rig.wait_until("inactive", UNIT);
    assert_eq!(
        (rig.starts("docs.service"), rig.starts("films.service")),
        (docs, films)
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn restarts_cut_no_tls_connection_not_even_in_its_hello() {
    let rig = Rig::boot();
    front(&rig);
    let restart = || rig.systemctl(&format!("restart {UNIT}"));
    // What a real client says first.
    rig.script(
        "/run/rig/hello",
        "#!/usr/bin/env python3\n\
         import ssl\n\
         out = ssl.MemoryBIO()\n\
         context = ssl.create_default_context()\n\
         tls = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname='films.example.org')\n\
         try: tls.do_handshake()\n\
         except ssl.SSLWantReadError: pass\n\
         open('/run/rig/bytes', 'wb').write(out.read())\n",
    );
    rig.run("/run/rig/hello");
    let hello = std::fs::read(rig.path("/run/rig/bytes")).expect("it was just written");
    rig.drop_in(
        "films.service",
        "scenario",
        "[Service]\nExecStartPre=/bin/sh -c 'until [ -e /run/go ]; do sleep 0.1; done'\n",
    );
    rig.systemctl("stop films.service");
    let starts = rig.starts("films.service");
    let mut client = TcpStream::connect(PORT).expect("the port is open");
    let handed = || rig.said(UNIT, "handed 1 connection over");
    for byte in &hello[..3] {
        client.write_all(&[*byte]).expect("it is open");
        let before = handed();
        rig.wait_for("it is accepted, and handed over", || {
            restart();
            handed() > before
        });
    }
    let before = handed();
    assert!(rig.is("inactive", "films.service"));
    client.write_all(&hello[3..]).expect("it is open");
    rig.wait_until("activating", "films.service");
    // It waits.
    restart();
    restart();
    rig.run("touch /run/go");
    // It is relayed: a ServerHello comes, in a record of its own.
    let mut record = [0; 5];
    client.read_exact(&mut record).expect("an answer");
    assert_eq!(record[..2], [22, 3]);
    restart();
    assert_eq!(page(&rig, "films"), "films");
    let mut rest = vec![0; usize::from(u16::from_be_bytes([record[3], record[4]]))];
    client.read_exact(&mut rest).expect("the rest of it");
    assert_eq!(rest[0], 2, "a ServerHello");
    assert_eq!(rig.starts("films.service"), starts + 1);
    assert_eq!(handed(), before + 3);
}
