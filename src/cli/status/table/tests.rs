use std::time::Duration;

use super::*;
use crate::admin::machine::inventory::{Inventory, Service, Socket};
use crate::report::record::{Kind, Process, Record};

/// So many seconds after the beginning.
fn at(seconds: i32) -> Moment {
    Moment {
        wall: Timestamp::constant(1_760_000_000, 0)
            + Duration::from_secs(seconds.unsigned_abs().into()),
        monotonic: seconds.into(),
    }
}

fn record(name: &str) -> Record {
    let mut record = Record {
        name: name.into(),
        unit: Some(format!("wakeport@{name}.service")),
        service: format!("{name}.service"),
        units: vec![format!("{name}.service")],
        ..Record::default()
    };
    record.begin(Process::default(), at(0));
    record
}

/// What a manager says of sockets in these states.
fn inventory(sockets: &[(&str, &str)]) -> Inventory {
    let service = |state: &str| Service {
        active: false,
        sockets: vec![Socket {
            unit: "wakeport@x.socket".into(),
            state: state.into(),
            enabled: "enabled".into(),
            listen: vec!["[::]:80".into()],
        }],
        ..Service::default()
    };
    let services = sockets.iter();
    Inventory {
        services: services
            .map(|(name, state)| (format!("wakeport@{name}.service"), service(state)))
            .collect(),
        ..Inventory::default()
    }
}

fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

#[test]
fn a_service_that_was_woken_too_often_says_until_when() {
    let mut record = record("web");
    record.wakes.not_before = Some(at(3600).wall);
    for (seconds, shown) in [(3599, true), (3600, false)] {
        let now = at(seconds);
        let views = [View::of(&record, false, None, now)];
        assert_eq!(
            plain(&table(&views, None, now)).contains("no wake before"),
            shown
        );
        assert_eq!(
            plain(&details(&views[0], now)).contains("woken too often"),
            shown
        );
    }
    // Not what it is like as long as it runs.
    record.transition(RecordedState::Awake, at(1));
    let view = View::of(&record, true, None, at(2));
    assert!(!plain(&details(&view, at(2))).contains("woken too often"));
}

#[test]
fn datagrams_that_were_dropped_are_shown_by_reason() {
    let mut record = record("game");
    let shown = |record: &Record| {
        let view = View::of(record, false, None, at(1));
        let json = serde_json::to_value(&view).expect("JSON");
        let details = plain(&details(&view, at(1)));
        let line = details.lines().find(|line| line.contains("Dropped"));
        (line.map(str::to_owned), json["datagrams_dropped"].clone())
    };
    record.datagrams_dropped.insert("held".into(), 0);
    assert_eq!(shown(&record), (None, serde_json::json!({"held": 0})));
    record.datagrams_dropped.insert("quiet".into(), 120);
    record.datagrams_dropped.insert("room\x1b[2J".into(), 1);
    let line = "    Dropped: 121 datagrams: 120 quiet, 1 room [2J".to_owned();
    assert_eq!(shown(&record).0, Some(line));
    assert_eq!(shown(&record).1["quiet"], 120);
}

#[test]
fn the_table_has_80_columns_and_says_what_needs_attention() {
    let inventory = inventory(&[
        ("web", "active"),
        ("postgresql@15-main-and-more", "active"),
        ("game", "failed"),
    ]);
    let now = at(7000);
    let mut views = Vec::new();

    let mut asleep = record("web");
    asleep.transition(RecordedState::Waking, at(100));
    asleep.wakes.add(Duration::from_millis(212));
    asleep.transition(RecordedState::Awake, at(101));
    asleep.transition(RecordedState::Asleep, at(400));
    asleep.memory_freed = Some(50_646_220);
    asleep.end(at(400));
    views.push(View::of(&asleep, false, Some(&inventory), now));

    let mut cooling = record("postgresql@15-main-and-more");
    cooling.transition(RecordedState::Cooling, at(6990));
    cooling.lasts(Some(Duration::from_secs(252)), at(6990));
    cooling.clients.active = 1234;
    cooling.clients.waiting = 5;
    views.push(View::of(&cooling, true, Some(&inventory), now));

    let mut failed = record("game");
    failed.transition(RecordedState::Failed, at(6999));
    failed.lasts(Some(Duration::from_secs(30)), at(6999));
    failed.fails(Kind::Died, "it went down\x1b[2J", at(6999).wall);
    views.push(View::of(&failed, true, Some(&inventory), now));

    views.push(View::of(&record("gone"), false, Some(&inventory), now));
    let door = Service {
        active: true,
        ..inventory.services["wakeport@web.service"].clone()
    };
    views.push(View::unknown("door.service", Manager::User, &door));

    let expected = "\
NAME              STATE            FOR CLIENTS WAKES MEDIAN   LAST ASLEEP  FREED
web               asleep            1h       -     1  212ms  212ms    96%  48.3M
postgresql@15-m…  cooling 4min     10s  1234+5     0      -      -  99.8%      -
game              failed 29s        1s       -     0      -      -  99.9%      -
  its port is closed: wakeport@x.socket is failed; `systemctl start wakeport@x.socket` opens it
  failed 1s ago (died): it went down [2J
gone              asleep            1h       -     0      -      -   100%      -
  known from its record only: no socket unit starts it
door (user)       -                  -       -     -      -      -      -      -
  wakeport runs and keeps no record: its unit has no StateDirectory=
";
    let shown = plain(&table(&views, Some(80), now));
    assert_eq!(shown, expected);
    for line in shown.lines().filter(|line| !line.starts_with(' ')) {
        assert!(line.chars().count() <= 80, "{line}");
    }
    // Where there is room, or no terminal, names are whole.
    for width in [None, Some(120)] {
        assert!(table(&views, width, now).contains("postgresql@15-main-and-more "));
    }
}
