//! Real programs, and what the tests of their users need.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tracing::subscriber::DefaultGuard;

use super::output::CHUNK;
use super::*;

/// What this thread has logged since.
pub(crate) struct Log {
    text: Arc<Mutex<Vec<u8>>>,
    _guard: DefaultGuard,
}

impl Log {
    pub(crate) fn start() -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let writer = Writer(Arc::clone(&text));
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .without_time()
            .with_writer(move || writer.clone())
            .finish();
        Self {
            text,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let text = self.text.lock().expect("not poisoned");
        String::from_utf8_lossy(&text)
            .lines()
            .map(str::to_owned)
            .collect()
    }

    pub(crate) fn has(&self, part: &str) -> bool {
        self.lines().iter().any(|line| line.contains(part))
    }
}

#[derive(Clone)]
struct Writer(Arc<Mutex<Vec<u8>>>);

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Marks a program and all its descendants, orphans included.
pub(crate) struct Mark {
    value: String,
}

impl Mark {
    pub(crate) const NAME: &str = "WAKEPORT_TEST_MARK";

    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let value = format!("{}.{next}", std::process::id());
        Self { value }
    }

    pub(crate) fn value(&self) -> &str {
        &self.value
    }

    /// `script`, marked from its first command on.
    pub(crate) fn script(&self, script: &str) -> String {
        let (name, value) = (Self::NAME, &self.value);
        format!("[ \"${name}\" ] || exec env {name}={value} /bin/sh -c \"$0\" \"$0\"; {script}")
    }

    /// How many of them live.
    pub(crate) fn alive(&self) -> usize {
        self.pids().len()
    }

    fn pids(&self) -> Vec<Pid> {
        let mark = format!("{}={}", Self::NAME, self.value);
        let mut pids = Vec::new();
        for entry in fs::read_dir("/proc").expect("it works").flatten() {
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            if environment
                .split(|&byte| byte == 0)
                .any(|variable| variable == mark.as_bytes())
            {
                let pid = entry.file_name().to_string_lossy().parse();
                pids.extend(pid.ok().and_then(Pid::from_raw));
            }
        }
        pids
    }
}

/// Waits for a condition.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(60), wait)
        .await
        .expect("it comes true in time");
}

/// A shell that runs `script`, which it finds in `$0`, too.
pub(crate) fn sh(script: &str) -> CommandLine {
    CommandLine {
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), script.into(), script.into()],
    }
}

async fn run(script: &str) -> Result<ExitStatus, RunError> {
    let given_up = CancellationToken::new();
    let limit = Duration::MAX;
    Launcher::direct()
        .run("test hook", &sh(script), &[], limit, &given_up)
        .await
}

#[tokio::test]
async fn the_exit_code_comes_back() {
    for code in [0, 1, 75] {
        let status = run(&format!("exit {code}")).await.expect("it runs");
        assert_eq!(status.code(), Some(code));
    }
    assert_eq!(run("kill -9 $$").await.expect("it runs").code(), None);
}

#[tokio::test]
async fn output_becomes_log_lines() {
    let log = Log::start();
    run(r"echo one; echo two >&2; echo; printf 'a\tb\033[31m\377\r\n'; printf end")
        .await
        .expect("it runs");
    let lines: Vec<_> = log
        .lines()
        .iter()
        .map(|line| line.replace(" INFO wakeport::program::output: ", ""))
        .collect();
    let field = "program=\"test hook\"";
    assert_eq!(
        lines,
        [
            format!("one {field}"),
            format!("two {field}"),
            format!("a\tb\\u{{1b}}[31m\u{fffd} {field}"),
            format!("end {field}"),
        ],
    );
}

#[tokio::test]
async fn a_line_without_end_is_split() {
    let log = Log::start();
    run("head -c 1000000 /dev/zero | tr '\\0' x")
        .await
        .expect("it runs");
    let lengths: Vec<_> = log
        .lines()
        .iter()
        .map(|line| line.matches('x').count())
        .collect();
    assert_eq!(lengths.iter().sum::<usize>(), 1_000_000);
    assert!(lengths.iter().all(|&length| length <= CHUNK));
}

#[tokio::test]
async fn a_program_that_writes_much_delays_no_other_task() {
    let others = async {
        for _ in 0..100 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        _ = run("exec yes") => panic!("`yes` has ended"),
        () = others => (),
    }
}

/// Variables can only be set for another process, which therefore runs this test once more.
#[test]
fn the_environment_is_clean() {
    const NAME: &str = "program::tests::the_environment_is_clean";
    const AGAIN: &str = "WAKEPORT_TEST_AGAIN";
    if env::var_os(AGAIN).is_none() {
        let again = std::process::Command::new(env::current_exe().expect("it works"))
            .args([NAME, "--exact"])
            .envs(SYSTEMDS.iter().chain(&OURS).map(|name| (name, "stale")))
            .env(AGAIN, "yes")
            .output()
            .expect("it runs");
        assert!(again.status.success(), "{again:?}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("it works");
    runtime.block_on(async {
        let log = Log::start();
        let variables = [("WAKEPORT_EVENT", "start".to_owned())];
        let given_up = CancellationToken::new();
        let limit = Duration::MAX;
        Launcher::direct()
            .run("test hook", &sh("env"), &variables, limit, &given_up)
            .await
            .expect("it runs");
        assert!(log.has(": WAKEPORT_EVENT=start"));
        assert!(log.has(": WAKEPORT_TEST_AGAIN=yes"));
        assert!(!log.has("stale"), "{:?}", log.lines());
    });
}

#[tokio::test]
async fn programs_that_cannot_be_run_are_named() {
    let dir = tempfile::tempdir().expect("it works");
    let file = dir.path().join("file");
    fs::write(&file, "").expect("it works");
    let (file, dir) = (
        file.to_str().expect("it works"),
        dir.path().to_str().expect("it works"),
    );
    for (program, why) in [
        ("/no/such", "No such file or directory"),
        ("no-such-program", "entity not found"),
        (file, "Permission denied"),
        (dir, "permission denied"),
    ] {
        let command = CommandLine {
            program: program.into(),
            arguments: Vec::new(),
        };
        let error = Launcher::direct()
            .start("test hook", &command, &[])
            .expect_err("it cannot be run");
        let start = format!("cannot run the test hook `{program}`: {why}");
        assert!(error.to_string().starts_with(&start), "{error}");
    }
}

#[test]
fn programs_are_found_as_execvp_finds_them() {
    assert!(find("sh").is_ok() && find("/bin/sh").is_ok());
    let dir = tempfile::tempdir().expect("it works");
    let file = dir.path().join("file");
    fs::write(&file, "").expect("it works");
    assert!(executable(&file).is_err());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("it works");
    assert!(executable(&file).is_ok());
}

#[tokio::test]
async fn a_timeout_ends_the_whole_group() {
    let mark = Mark::new();
    let command = sh(&mark.script("sleep 1000 & wait"));
    let (limit, given_up) = (Duration::from_secs(1), CancellationToken::new());
    let cut = Launcher::direct()
        .run("test hook", &command, &[], limit, &given_up)
        .await
        .expect_err("it takes too long");
    assert_eq!(
        cut.to_string(),
        "the test hook `/bin/sh` timed out after 1s"
    );
    assert_eq!(mark.alive(), 0);
}

#[tokio::test]
async fn a_group_that_ignores_the_request_is_killed() {
    let mark = Mark::new();
    let command = sh(&mark.script("trap '' TERM; sleep 1000 & wait"));
    let mut running = Launcher::direct()
        .start("test hook", &command, &[])
        .expect("it runs");
    until(|| mark.alive() == 2).await;
    let status = running
        .stop(Duration::from_millis(50))
        .await
        .expect("it ends");
    assert_eq!(status.to_string(), "signal: 9 (SIGKILL)");
    assert_eq!(mark.alive(), 0);
}

#[tokio::test]
async fn a_group_has_time_to_end_after_its_leader() {
    let dir = tempfile::tempdir().expect("it works");
    let (ready, done) = (dir.path().join("ready"), dir.path().join("done"));
    let (r, d) = (ready.display(), done.display());
    let member =
        format!("trap 'sleep 0.2; touch {d}; exit' TERM; touch {r}; while :; do sleep 0.05; done");
    let command = sh(&format!("({member}) & wait"));
    let mut running = Launcher::direct()
        .start("test hook", &command, &[])
        .expect("it runs");
    until(|| ready.exists()).await;
    running.stop(Duration::MAX).await.expect("it ends");
    assert!(done.exists());
}

#[tokio::test]
async fn a_guard_that_is_dropped_kills_the_group() {
    let mark = Mark::new();
    let command = sh(&mark.script("trap '' TERM; sleep 1000 & wait"));
    let running = Launcher::direct()
        .start("test hook", &command, &[])
        .expect("it runs");
    until(|| mark.alive() == 2).await;
    drop(running);
    until(|| mark.alive() == 0).await;
}

#[tokio::test]
async fn background_processes_are_neither_waited_for_nor_killed() {
    let (log, mark) = (Log::start(), Mark::new());
    let ended = run(&mark.script("sleep 1000 & echo said")).await;
    assert!(ended.expect("it runs").success());
    assert!(log.has("said"));
    // In the middle of its exec a process shows no environment.
    until(|| mark.alive() == 1).await;
    let [sleeper] = mark.pids()[..] else {
        panic!("it is gone")
    };
    rustix::process::kill_process(sleeper, Signal::KILL).expect("it lives");
}
