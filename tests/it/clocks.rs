//! Clocks that jump: counters stay possible, and a cooldown keeps its length.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::repository::{run, text};
use crate::support::{HookService, Place, Run, directory, throughout, until};

/// Sets the wall clock of what follows from a file: Debian's faketime. The file is read each time the
/// clock is read; all other clocks are untouched.
const FAKETIME: &str = "LD_PRELOAD=$(ls /usr/lib/*/faketime/libfaketimeMT.so.1) exec \"$@\"";

/// An instance with a record, and a wall clock of its own.
struct Clocked {
    dir: TempDir,
    stage: HookService,
    front: Place,
}

impl Clocked {
    fn new() -> Self {
        let clocked = Self {
            dir: directory(),
            stage: HookService::new(),
            front: Place::tcp(),
        };
        clocked.jumps("+0");
        clocked
    }

    fn run(&self) -> Run {
        let run = self.stage.run().listen(&self.front);
        run.option("--name", "app")
            .option("--state-dir", self.dir.path().display())
    }

    /// The same, with its own clock.
    fn faked(&self) -> Run {
        let clock = self.clock();
        self.run()
            .under(&["/bin/sh", "-c", FAKETIME, "sh"])
            .variable("FAKETIME_TIMESTAMP_FILE", clock.display())
            .variable("FAKETIME_NO_CACHE", "1")
            .variable("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .variable("DONT_FAKE_MONOTONIC", "1")
    }

    fn clock(&self) -> PathBuf {
        self.dir.path().join("clock")
    }

    /// Sets the offset of its clock from now on.
    fn jumps(&self, by: &str) {
        let new = self.dir.path().join("clock.new");
        fs::write(&new, by)
            .and_then(|()| fs::rename(&new, self.clock()))
            .expect("a file of ours");
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("instances/app.json")
    }

    /// What `wakeport status` shows of it, which must be possible values.
    #[track_caller]
    fn seen(&self) -> Value {
        let status = |words: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_wakeport"));
            command.arg("status").args(words).arg("--state-dir");
            command.arg(self.dir.path()).env_clear().env("TZ", "UTC");
            text(&run(&mut command, "wakeport"))
        };
        let mut seen: Value = serde_json::from_str(&status(&["--json"])).expect("JSON");
        assert_eq!(seen["problems"], json!([]));
        let seen = seen["instances"][0].take();
        for (name, at_most) in [
            ("for_seconds", LONG_AGO),
            ("left_seconds", 3600.0),
            ("asleep_share", 1.0),
        ] {
            if let Some(number) = seen[name].as_f64() {
                assert!((0.0..=at_most).contains(&number), "{name}: {seen:#}");
            }
        }
        for words in [&[][..], &["app"]] {
            status(words);
        }
        seen
    }

    fn is(&self, state: &str) {
        until(state, || self.seen()["state"] == state);
    }

    fn a_client_is_served(&self) {
        self.front.connect().echoes("hello");
    }
}

/// No span is longer than this program exists.
const LONG_AGO: f64 = 50.0 * 366.0 * 86_400.0;

#[test]
fn a_record_from_the_future_or_the_past_gives_no_impossible_figures() {
    let clocked = Clocked::new();
    let mut wakeport = clocked.run().cooldown("10ms").start();
    clocked.a_client_is_served();
    until("it sleeps", || clocked.seen()["sleeps"] == 1);
    wakeport.signal(Signal::KILL);
    wakeport.wait();
    let record = fs::read_to_string(clocked.file()).expect("a record");
    let record: Value = serde_json::from_str(&record).expect("JSON");

    for time in [
        "1970-01-01T00:00:00Z",
        "1971-02-03T04:05:06Z",
        "2025-01-01T00:00:01Z",
        "2099-12-31T23:59:59Z",
        "9999-12-30T22:00:00Z",
        "-009999-01-02T02:00:00Z",
    ] {
        for state in ["asleep", "awake", "cooling", "failed", "unattended"] {
            for fields in [
                &["first_seen", "since", "written"][..],
                &["since"],
                &["written"],
            ] {
                let mut odd = record.clone();
                odd["state"] = json!(state);
                odd["until"] = json!(time);
                odd["last_failure"] = json!({ "kind": "start", "at": time, "why": "odd" });
                for field in fields {
                    odd[field] = json!(time);
                }
                fs::write(clocked.file(), odd.to_string()).expect("a file of ours");
                clocked.seen();
            }
        }
        // The next process counts from now.
        let mut wakeport = clocked.run().cooldown("1h").start();
        clocked.a_client_is_served();
        clocked.is("cooling");
        let seen = clocked.seen();
        assert!(seen["for_seconds"].as_f64() < Some(600.0), "{seen:#}");
        assert!(seen["left_seconds"].as_f64() > Some(3000.0), "{seen:#}");
        wakeport.signal(Signal::TERM);
        wakeport.ends();
        assert_eq!(clocked.seen()["state"], "unattended");
        clocked.stage.scene().down();
    }
}

#[test]
fn a_wall_clock_that_jumps_by_a_year_leaves_a_cooldown_as_long_as_it_was() {
    for (jump, year) in [("+366d", 1), ("-366d", -1)] {
        let clocked = Clocked::new();
        let now: i64 = text(&run(Command::new("date").args(["-u", "+%Y"]), "date"))
            .trim()
            .parse()
            .expect("a year");
        let jumped = [now + year, now + 2 * year].map(|year| format!("\"written\": \"{year}-"));

        // Not shorter.
        let mut wakeport = clocked.faked().cooldown("1h").start();
        clocked.a_client_is_served();
        clocked.is("cooling");
        clocked.jumps(jump);
        throughout(Duration::from_millis(300), "it still cools", || {
            let left = clocked.seen()["left_seconds"].as_f64();
            left > Some(3000.0)
        });
        clocked.a_client_is_served();
        until("the jump is in the record", || {
            let record = fs::read_to_string(clocked.file()).expect("a record");
            jumped.iter().any(|written| record.contains(written))
        });
        clocked.is("cooling");
        assert!(clocked.seen()["for_seconds"].as_f64() < Some(600.0));
        wakeport.signal(Signal::TERM);
        wakeport.ends();

        // Not longer, in a process that starts before the jump and exits after it.
        let mut wakeport = clocked.faked().cooldown("5s").start();
        clocked.a_client_is_served();
        clocked.is("cooling");
        clocked.jumps("+0");
        until("it sleeps", || clocked.seen()["sleeps"] == 1);
        wakeport.signal(Signal::TERM);
        wakeport.ends();
        clocked.seen();
    }
}

/// The monotonic clock is the same for as long as a machine runs, but not from boot to boot.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_record_of_an_earlier_boot_gives_no_impossible_figures() {
    let clocked = Clocked::new();
    let ten_years = "315360000";
    let mut wakeport = clocked
        .run()
        .under(&[
            "unshare",
            "--time",
            "--monotonic",
            ten_years,
            "--boottime",
            ten_years,
        ])
        .cooldown("1h")
        .start();
    clocked.a_client_is_served();
    until("the record says that it cools", || {
        fs::read_to_string(clocked.file()).is_ok_and(|record| record.contains("\"cooling\""))
    });
    wakeport.signal(Signal::KILL);
    wakeport.wait();
    assert_eq!(clocked.seen()["state"], "unattended");

    let _wakeport = clocked.run().cooldown("1h").start();
    clocked.is("cooling");
    let seen = clocked.seen();
    assert!(seen["for_seconds"].as_f64() < Some(600.0), "{seen:#}");
    assert!(seen["left_seconds"].as_f64() > Some(3000.0), "{seen:#}");
    let record = fs::read_to_string(clocked.file()).expect("a record");
    let record: Value = serde_json::from_str(&record).expect("JSON");
    let spent = record["seconds"].as_object().expect("states").values();
    let spent: f64 = spent.filter_map(Value::as_f64).sum();
    assert!((0.0..600.0).contains(&spent), "{record:#}");
}
