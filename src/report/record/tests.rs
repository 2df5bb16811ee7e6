use super::*;

/// So many seconds after a day on which all clocks are set.
fn at(seconds: f64) -> Moment {
    let begin = Timestamp::from_second(1_760_000_000).unwrap();
    Moment {
        wall: begin + jiff::SignedDuration::from_secs_f64(seconds),
        monotonic: 1000.0 + seconds,
    }
}

fn begun(seconds: f64) -> Record {
    let mut record = Record::default();
    record.begin(Process::default(), at(seconds));
    record
}

fn written(mut record: Record, seconds: f64) -> Record {
    record.written = at(seconds).wall;
    Record::from_text(&record.to_text()).unwrap()
}

#[test]
fn the_latest_starts_are_known_to_later_processes() {
    let mut record = begun(0.0);
    for seconds in [0.0, 10.0, 20.0] {
        record.wakes.order(at(seconds).wall, 2);
    }
    let record = written(record, 30.0);
    let ages = |seconds| record.wakes.ages(at(seconds).wall);
    let seconds = Duration::from_secs;
    assert_eq!(ages(30.0), [seconds(20), seconds(10)]);
    // The clock was set back: what lies ahead is not known to have been.
    assert_eq!(ages(15.0), [seconds(5)]);
    assert_eq!(ages(-1e9), [] as [Duration; 0]);
    // And a clock that runs away only makes them older.
    assert_eq!(record.wakes.ages(Timestamp::MAX).len(), 2);
    // They are kept whatever becomes of the histogram.
    let mut other = record.clone();
    other.wakes.buckets.clear();
    assert_eq!(written(other, 30.0).wakes, record.wakes);
}

#[test]
fn a_written_record_is_read() {
    let mut record = begun(0.0);
    record.transition(RecordedState::Waking, at(1.0));
    record.wakes.add(Duration::from_millis(212));
    record.transition(RecordedState::Awake, at(1.25));
    record.fails(Kind::Stop, "it\n\"would\" not", at(2.0).wall);
    record.lasts(Some(Duration::from_secs(9)), at(2.0));
    record.memory_freed = Some(1 << 40);
    record.idles(Percent(30));
    assert_eq!(Record::from_text(&record.to_text()), Ok(record));
}

#[test]
fn times_are_read_to_their_last_digit() {
    let mut record = begun(0.0);
    for n in 1..1000 {
        record
            .seconds
            .insert(RecordedState::Awake, f64::from(n).sqrt());
        assert_eq!(Record::from_text(&record.to_text()).as_ref(), Ok(&record));
    }
}

#[test]
fn large_counts_do_not_overflow() {
    let most = u64::MAX;
    let text = format!(
        r#"{{"version": 1, "sleeps": {most}, "wakes": {{"total": {most}}}, "failures": {{"start": {most}, "stop": {most}}},
            "clients": {{"refused_failed": {most}, "refused_silent": {most}}}, "bytes": {{"up": {most}}}}}"#
    );
    let mut record = Record::from_text(&text).unwrap();
    record.wakes.add(Duration::from_secs(1));
    record.fails(Kind::Start, "", at(0.0).wall);
    let total = record.failures.values().sum::<u64>() + record.wakes.total + record.sleeps;
    let clients = record.clients.refused_failed + record.clients.refused_silent;
    assert!(total > 0 && clients + record.bytes.up > 0);
}

#[test]
fn damaged_and_newer_records_are_refused() {
    for damaged in ["", "{", "[]", "{}", "\0\0\0", "{\"version\": -1}"] {
        let why = Record::from_text(damaged).unwrap_err();
        assert!(why.starts_with("it is damaged ("), "{damaged:?}: {why}");
    }
    let wrong = r#"{"version": 1, "state": "levitating"}"#;
    let why = Record::from_text(wrong).unwrap_err();
    assert!(why.starts_with("it is damaged ("), "{why}");
    let why = Record::from_text(r#"{"version": 1, "state": "a\nb\u001b"}"#).unwrap_err();
    assert!(!why.to_string().contains(char::is_control), "{why}");
    let newer = r#"{"version": 2, "state": "levitating"}"#;
    let why = Record::from_text(newer).unwrap_err();
    assert!(
        why.starts_with("it is of version 2, from a newer "),
        "{why}"
    );
    let text = begun(0.0).to_text();
    for cut in 1..text.len() - 2 {
        assert!(Record::from_text(&text[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn missing_fields_are_empty_and_unknown_ones_ignored() {
    let read = Record::from_text(r#"{"version": 1, "mood": "good", "sleeps": 3}"#).unwrap();
    assert_eq!((read.sleeps, read.wakes.total), (3, 0));
    assert_eq!(read.usual_idle_cpu(), None);
    assert_eq!(read.wakes.buckets, Wakes::default().buckets);
}

#[test]
fn a_histogram_that_does_not_add_up_begins_anew() {
    for buckets in [
        r#"[{"le": 3, "count": 1}]"#,
        r#"[{"le": 0.025, "count": 7}]"#,
    ] {
        let text = format!(r#"{{"version": 1, "wakes": {{"total": 1, "buckets": {buckets}}}}}"#);
        assert_eq!(Record::from_text(&text).unwrap().wakes, Wakes::default());
    }
}

#[test]
fn time_is_counted_by_state_over_several_processes() {
    let mut record = begun(0.0);
    record.transition(RecordedState::Waking, at(100.0));
    record.transition(RecordedState::Awake, at(101.0));
    record.transition(RecordedState::Asleep, at(111.0));
    record.end(at(112.0));
    assert_eq!(record.state(false), RecordedState::Asleep);
    assert_eq!(record.stretch(false, at(911.0)), 800.0);

    let mut record = written(record, 112.0);
    record.begin(Process::default(), at(911.0));
    assert_eq!(record.since, at(111.0).wall, "the same sleep goes on");
    record.transition(RecordedState::Waking, at(911.0));
    let seconds = record.seconds(true, at(1000.0));
    assert_eq!(seconds[&RecordedState::Asleep], 900.0);
    assert_eq!(seconds[&RecordedState::Waking], 90.0);
    assert_eq!(seconds[&RecordedState::Awake], 10.0);
    assert_eq!(record.share_asleep(true, at(1000.0)), Some(0.9));
}

#[test]
fn a_killed_process_leaves_the_service_unattended() {
    let mut record = begun(0.0);
    record.transition(RecordedState::Awake, at(10.0));
    record.clients.active = 3;
    let mut record = written(record, 20.0);
    assert_eq!(record.state(true), RecordedState::Awake);
    assert_eq!(record.state(false), RecordedState::Unattended);
    assert_eq!(record.since(false), at(20.0).wall);
    let told = record.seconds(false, at(50.0));
    record.begin(Process::default(), at(50.0));
    let counted = record.seconds(true, at(50.0));
    assert_eq!(told, counted, "who reads counts as who goes on");
    assert_eq!(counted[&RecordedState::Awake], 10.0);
    assert_eq!(counted[&RecordedState::Unattended], 30.0);
    assert_eq!(record.clients.active, 0);
}

#[test]
fn a_stopped_process_leaves_the_service_unattended() {
    let mut record = begun(0.0);
    record.transition(RecordedState::Cooling, at(10.0));
    record.lasts(Some(Duration::from_secs(300)), at(10.0));
    assert_eq!(record.left(true, at(20.0)), Some(290.0));
    record.end(at(20.0));
    assert_eq!(record.state(false), RecordedState::Unattended);
    assert_eq!(record.left(false, at(20.0)), None);
    assert_eq!(record.stretch(false, at(25.0)), 5.0);
}

#[test]
fn a_clock_that_jumps_gives_no_absurd_figures() {
    let back = |moment: Moment, seconds| Moment {
        wall: at(seconds).wall,
        ..moment
    };
    let mut record = begun(0.0);
    record.transition(RecordedState::Awake, at(10.0));
    // Within a life the monotonic clock counts, however the other one jumps.
    assert_eq!(record.stretch(true, back(at(15.0), -1e6)), 5.0);
    assert_eq!(record.stretch(true, back(at(15.0), 1e6)), 5.0);
    record.transition(RecordedState::Asleep, back(at(20.0), 1e6));
    assert_eq!(record.seconds[&RecordedState::Awake], 10.0);
    record.end(back(at(21.0), 1e6));
    // Between lives a clock that was set back counts for nothing.
    assert_eq!(record.stretch(false, at(30.0)), 0.0);
    assert_eq!(record.share_asleep(false, at(30.0)), Some(0.5));
    // Nor does one that was never set.
    let epoch = Moment {
        wall: Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(5),
        monotonic: 5.0,
    };
    let mut record = Record::default();
    record.begin(Process::default(), epoch);
    assert_eq!(record.stretch(true, at(0.0)), 0.0);
    assert_eq!(record.share_asleep(true, at(0.0)), None);
}

#[test]
fn a_cooldown_with_work_does_not_change_what_the_units_use_when_idle() {
    let mut record = begun(0.0);
    for cpu in [30, 80_000, 20, 40, 90_000] {
        record.idles(Percent(cpu));
    }
    assert_eq!(record.usual_idle_cpu(), Some(Percent(40)));
    // What was long ago is forgotten.
    (0..RECENT).for_each(|_| record.idles(Percent(7)));
    assert_eq!(record.idle_cpu, [Percent(7); RECENT]);
}

#[test]
fn what_units_use_when_idle_is_forgotten_with_them() {
    let mut record = begun(0.0);
    let web = || vec!["web.service".to_owned()];
    record.concerns(web(), Manager::System);
    record.idles(Percent(30));
    let mut record = written(record, 1.0);
    record.concerns(web(), Manager::System);
    assert_eq!(record.usual_idle_cpu(), Some(Percent(30)));
    for (units, manager) in [(web(), Manager::User), (Vec::new(), Manager::System)] {
        let mut record = record.clone();
        record.concerns(units, manager);
        assert_eq!(record.usual_idle_cpu(), None);
    }
}

#[test]
fn the_median_is_that_of_the_latest_wakes() {
    let mut wakes = Wakes::default();
    assert_eq!((wakes.median(), wakes.last()), (None, None));
    for _ in 0..100 {
        wakes.add(Duration::from_secs(1000));
    }
    for _ in 0..99 {
        wakes.add(Duration::from_millis(20));
    }
    wakes.add(Duration::from_millis(200));
    assert_eq!((wakes.median(), wakes.last()), (Some(0.02), Some(0.2)));
    assert_eq!(wakes.total, 200);
    let counts: Vec<_> = wakes.buckets.iter().map(|bucket| bucket.count).collect();
    assert_eq!(counts[..4], [99, 0, 0, 1]);
    assert_eq!(counts.iter().sum::<u64>(), 100, "the others took too long");
}
