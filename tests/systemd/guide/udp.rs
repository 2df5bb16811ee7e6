//! docs/udp.md, and the recipes with datagrams.

use std::net::UdpSocket;
use std::time::Duration;

use super::{cooldown, machine};
use crate::page_runner::PageRunner;
use crate::rig::Rig;

/// The longest wait for an answer: a scenario that hangs fails with its place.
const ANSWER: Duration = Duration::from_secs(60);

/// A client is gone soon, and the service sleeps soon after.
const SOON: &str = "WAKEPORT_COOLDOWN=300ms WAKEPORT_UDP_IDLE_TIMEOUT=1s";

/// What RakNet's messages outside of a connection hold.
const MAGIC: &[u8] = b"\x00\xff\xff\x00\xfe\xfe\xfe\xfe\xfd\xfd\xfd\xfd\x12\x34\x56\x78";

/// A program that answers each datagram on these ports with a name, and the port.
pub(crate) fn datagram_program(rig: &Rig, path: &str, name: &str, ports: &[u16]) {
    rig.script(
        path,
        &format!(
            "#!/usr/bin/env python3\nimport selectors, socket\nall = selectors.DefaultSelector()\nfor port in {ports:?}:\n    \
             s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n    s.bind(('127.0.0.1', port))\n    \
             all.register(s, selectors.EVENT_READ, port)\nwhile True:\n    for key, _ in all.select():\n        \
             data, client = key.fileobj.recvfrom(2048)\n        \
             key.fileobj.sendto(b'{name} %d' % key.data, client)\n"
        ),
    );
}

/// A unit that runs such a program.
fn datagram_server(rig: &Rig, name: &str, ports: &[u16]) {
    datagram_program(rig, &format!("/usr/local/bin/{name}-server"), name, ports);
    rig.unit(
        &format!("{name}.service"),
        &format!(
            "[Service]\nExecStart=/usr/local/bin/{name}-server\n[Install]\nWantedBy=multi-user.target\n"
        ),
    );
    rig.systemctl(&format!("enable --quiet --now {name}.service"));
}

/// A client of this address. Its thread is on the rig's network.
fn client(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).expect("binds");
    socket.connect(address).expect("connects");
    socket.set_read_timeout(Some(ANSWER)).expect("a limit");
    socket
}

/// The answer to one datagram, which is sent once.
#[track_caller]
fn asks(address: &str, datagram: &[u8]) -> String {
    let socket = client(address);
    socket.send(datagram).expect("sends");
    let mut buffer = [0; 2048];
    match socket.recv(&mut buffer) {
        Ok(length) => String::from_utf8_lossy(&buffer[..length]).into_owned(),
        Err(why) => panic!("no answer from {address}: {why}"),
    }
}

/// What has been started, of the service and of wakeport.
fn starts(rig: &Rig, name: &str) -> (usize, usize) {
    let relay = format!("wakeport@{name}.service");
    (rig.starts(&format!("{name}.service")), rig.starts(&relay))
}

/// `name` is woken twice by this datagram, and answers; while it sleeps `quiet` starts nothing.
#[track_caller]
pub(crate) fn sleeps(
    rig: &Rig,
    name: &str,
    address: &str,
    wakes: &[u8],
    expected: &str,
    quiet: &[Vec<u8>],
) {
    cooldown(rig, name, SOON);
    rig.systemctl(&format!("stop wakeport@{name}.service {name}.service"));
    for round in 0..2 {
        let before = starts(rig, name);
        // The first exit leaves the filter.
        if round > 0 {
            for datagram in quiet {
                client(address).send(datagram).expect("sends");
            }
        }
        assert_eq!(asks(address, wakes), expected);
        let (service, relay) = starts(rig, name);
        assert_eq!(
            (service - before.0, relay - before.1),
            (1, 1),
            "round {round}"
        );
        rig.wait_until_asleep(name);
    }
}

/// A message of RakNet's: a request to open a connection, or a ping.
pub(crate) fn raknet(id: u8) -> Vec<u8> {
    match id {
        0x05 => [&[id], MAGIC, &[11], &[0; 1400]].concat(),
        _ => [&[id], &[0; 8][..], MAGIC, &[0; 8]].concat(),
    }
}

/// The server of Bedrock, with its port moved up by one, sleeps through pings.
fn bedrock_sleeps(rig: &Rig) {
    let pings = [raknet(0x01), raknet(0x02)];
    sleeps(
        rig,
        "bedrock",
        "127.0.0.1:19132",
        &raknet(0x05),
        "bedrock 19133",
        &pings,
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_page_about_datagrams() {
    let rig = machine();
    datagram_server(&rig, "bedrock", &[19133]);
    rig.systemctl("disable --quiet --now bedrock.service");
    PageRunner::new(&rig).run_section("docs/udp.md");
    bedrock_sleeps(&rig);
    assert!(
        rig.run("wakeport status bedrock")
            .contains("udp:[::]:19132")
    );
    // Nothing of it stays.
    rig.run("wakeport init bedrock --remove");
    let left = rig.ask("find /etc/systemd/system /etc/polkit-1 -path '*bedrock*init*'");
    assert_eq!(left, "");
    assert!(!rig.run("ss -Huln").contains(":19132"));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn game_servers_over_udp() {
    let rig = machine();
    datagram_server(&rig, "bedrock", &[19133]);
    datagram_server(&rig, "valheim", &[2466, 2467]);
    PageRunner::new(&rig).run_section("docs/recipes.md#a-game-server-over-udp");
    bedrock_sleeps(&rig);
    let queries = [
        b"\xff\xff\xff\xffTSource Engine Query\0".to_vec(),
        b"\xff\xff\xff\xffU\xff\xff\xff\xff".to_vec(),
    ];
    let player = [7; 60];
    sleeps(
        &rig,
        "valheim",
        "127.0.0.1:2456",
        &player,
        "valheim 2466",
        &queries,
    );
    sleeps(
        &rig,
        "valheim",
        "127.0.0.1:2457",
        &player,
        "valheim 2467",
        &[],
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_dns_server() {
    let rig = machine();
    rig.run("ip address add 192.0.2.53/32 dev lo");
    rig.unit(
        "dnsmasq.service",
        "[Service]\nExecStart=dnsmasq --keep-in-foreground --conf-file=/dev/null --user=root --no-resolv --no-hosts --port=5353 \
         --listen-address=127.0.0.1 --bind-interfaces --address=/example.org/192.0.2.80\n[Install]\nWantedBy=multi-user.target\n",
    );
    rig.systemctl("enable --quiet --now dnsmasq.service");
    PageRunner::new(&rig).run_section("docs/recipes.md#a-dns-server");
    cooldown(&rig, "dnsmasq", SOON);
    // A query for the address of example.org, by itself and with its length before it.
    let query =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03org\x00\x00\x01\x00\x01";
    let address = [192, 0, 2, 80];
    for _ in 0..2 {
        rig.wait_until_asleep("dnsmasq");
        let socket = client("192.0.2.53:53");
        socket.send(query).expect("sends");
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer).expect("an answer");
        assert_eq!(
            (&answer[..2], &answer[length - 4..length]),
            (&query[..2], &address[..])
        );
    }
    rig.wait_until_asleep("dnsmasq");
    let by_stream = rig.run(
        "python3 -c 'import socket\ns = socket.create_connection((\"192.0.2.53\", 53))\n\
         q = bytes.fromhex(\"123401000001000000000000076578616d706c65036f72670000010001\")\n\
         s.sendall(len(q).to_bytes(2, \"big\") + q)\nprint(list(s.recv(512)[-4:]))'",
    );
    assert_eq!(by_stream, "[192, 0, 2, 80]\n");
    rig.wait_until_asleep("dnsmasq");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_gateway_of_wireguard() {
    let rig = machine();
    datagram_server(&rig, "wg-quick@wg0", &[51821]);
    PageRunner::new(&rig).run_section("docs/recipes.md#a-gateway-of-wireguard");
    let message = |kind: u8, length: usize| {
        let mut message = vec![9; length];
        message[..4].copy_from_slice(&[kind, 0, 0, 0]);
        message
    };
    let quiet = [message(4, 148), message(1, 147), message(2, 92)];
    let expected = "wg-quick@wg0 51821";
    sleeps(
        &rig,
        "wg-quick@wg0",
        "127.0.0.1:51820",
        &message(1, 148),
        expected,
        &quiet,
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn http3_beside_https() {
    let rig = machine();
    datagram_server(&rig, "web", &[8443]);
    // The same unit serves a page on the TCP port.
    rig.write("/srv/web/index.html", "web\n");
    rig.drop_in(
        "web.service",
        "stream",
        "[Service]\nExecStart=\nExecStart=sh -c 'python3 -m http.server --bind 127.0.0.1 --directory /srv/web 8443 & exec web-server'\n",
    );
    PageRunner::new(&rig).run_section("docs/recipes.md#http3-beside-https");
    let packet = |length: usize| {
        let mut packet = vec![3; length];
        packet[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]);
        packet
    };
    let quiet = [packet(1199), vec![0x43; 1300]];
    sleeps(
        &rig,
        "web",
        "127.0.0.1:443",
        &packet(1200),
        "web 8443",
        &quiet,
    );
    assert_eq!(rig.curl("http://127.0.0.1:443/"), "web\n");
    rig.wait_until_asleep("web");
}
