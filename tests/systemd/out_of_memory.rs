//! The kernel kills the service, or wakeport, for lack of memory.

use std::net::TcpStream;

use crate::echo_service::{Echo, Exchange};
use crate::rig::Rig;

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_service_killed_by_the_oom_killer_is_woken_by_the_next_client() {
    let rig = Rig::boot();
    let echo = Echo::asleep(&rig, "echo", "", &["WAKEPORT_COOLDOWN=300ms"]);
    for _ in 0..2 {
        let connected = TcpStream::connect(&echo.address).expect("the port is open");
        rig.wait_for("it is awake", || echo.state() == "awake");
        let starts = rig.starts("echo.service");
        let greedy = Exchange {
            bytes: 1 << 20,
            ..Exchange::short()
        };
        rig.starve("echo.service", || {
            let _ = greedy.run(&echo.address);
        });
        assert!(greedy.talk(connected).is_err());
        echo.serves(&Exchange::short());
        assert!(rig.starts("echo.service") > starts);
        rig.wait_until_asleep("echo");
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_wakeport_killed_by_the_oom_killer_is_restarted() {
    let rig = Rig::boot();
    let echo = Echo::asleep(&rig, "echo", "", &["WAKEPORT_COOLDOWN=300ms"]);
    let connected = TcpStream::connect(&echo.address).expect("the port is open");
    rig.wait_for("it is awake", || echo.state() == "awake");
    rig.starve(&echo.wakeport(), || {
        let _ = Exchange::short().run(&echo.address);
    });
    assert!(Exchange::short().talk(connected).is_err());
    echo.serves(&Exchange::short());
    rig.wait_until_asleep("echo");
    assert_eq!(rig.starts("echo.service"), 1, "it was adopted");
}
