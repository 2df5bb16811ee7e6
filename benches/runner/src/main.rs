//! Puts wakeport and its peers under the same loads in turn; `benches/run` starts it, `benches/README.md` explains.

mod asleep;
mod chart;
mod datagrams;
mod exchange;
mod frozen;
mod loads;
mod peers;
mod proc;
mod report;
mod rig;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Instant;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use loads::Load;
use peers::{Kind, Peer, Speaks};
use report::{Results, SUBJECTS};

const IDLE: usize = 3_000;
const SLEEPERS: usize = 1_000;
const KIB: usize = 1024;

/// What was typed.
struct Options {
    /// The loads with HTTP or datagrams, instead of those of TCP.
    speaks: Speaks,
    rounds: u32,
    seconds: f64,
    /// Wakes of each way, in each round.
    wakes: u32,
    /// Loads whose names begin with one of these; all when there is none.
    only: Vec<String>,
    peers: Vec<Peer>,
    out: PathBuf,
    binary: PathBuf,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let (mut rounds, mut seconds, mut wakes) = (3, 2.0, 15);
        let (mut speaks, mut peers, mut only, mut out) = (Speaks::Bytes, None, Vec::new(), None);
        let mut binary = PathBuf::from("target/release/wakeport");
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("`{word}` needs a value"));
            match word.as_str() {
                "--http" => speaks = Speaks::Http,
                "--udp" => speaks = Speaks::Datagrams,
                "--quick" => (seconds, wakes) = (0.3, 5),
                "--rounds" => rounds = value()?.parse()?,
                "--seconds" => seconds = value()?.parse()?,
                "--only" => only = value()?.split(',').map(str::to_owned).collect(),
                "--peers" => peers = Some(value()?),
                "--out" => out = Some(PathBuf::from(value()?)),
                "--binary" => binary = value()?.into(),
                _ => {
                    return Err(format!(
                        "`{word}` is unknown; benches/README.md lists the options"
                    )
                    .into());
                }
            }
        }
        if rounds == 0 || !(0.05..=600.0).contains(&seconds) {
            return Err("at least one round, and from 0.05 to 600 seconds".into());
        }
        let loads = SUBJECTS.iter().map(|subject| subject.load);
        let loads: Vec<_> = loads.filter(|load| spoken(load) == speaks).collect();
        let begins = |name: &str| loads.iter().any(|load| load.starts_with(name));
        if let Some(unknown) = only.iter().find(|name| !begins(name)) {
            return Err(format!("no load begins with `{unknown}`: {}", loads.join(" ")).into());
        }
        let binary =
            fs::canonicalize(&binary).map_err(|error| format!("{}: {error}", binary.display()))?;
        let (all, usual) = match speaks {
            Speaks::Http => (
                "direct,haproxy,haproxy-tuned,nginx,nginx-tuned,wakeport",
                "target/bench/http",
            ),
            Speaks::Bytes => (
                "direct,socket-proxyd,haproxy,nginx,wakeport",
                "target/bench",
            ),
            Speaks::Datagrams => ("direct,nginx,nginx-tuned,wakeport", "target/bench/udp"),
        };
        let peers = peers
            .as_deref()
            .unwrap_or(all)
            .split(',')
            .zip(0..)
            .map(|(word, number)| Peer::parse(word, number, &binary, speaks));
        Ok(Self {
            speaks,
            rounds,
            seconds,
            wakes,
            only,
            peers: peers.collect::<Result<_, _>>()?,
            out: out.unwrap_or_else(|| usual.into()),
            binary,
        })
    }

    fn wants(&self, load: &str) -> bool {
        let named = |name: &String| load.starts_with(name.as_str());
        spoken(load) == self.speaks && (self.only.is_empty() || self.only.iter().any(named))
    }
}

/// What is relayed under a load.
fn spoken(load: &str) -> Speaks {
    match load.split('-').next() {
        Some("http") => Speaks::Http,
        Some("udp") => Speaks::Datagrams,
        _ => Speaks::Bytes,
    }
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    let result = match words.next_if_eq("target") {
        Some(_) => asleep::target(words.next()),
        None => Options::parse(words).and_then(|options| run(&options)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let open_files = raise_open_files()?;
    fs::create_dir_all(&options.out)?;
    let dir = std::env::temp_dir().join(format!("wakeport-bench-{}", std::process::id()));
    fs::create_dir(&dir)?;
    let mut results = Results::default();
    let began = Instant::now();
    measure(options, &dir, open_files, &mut results);
    let _ = fs::remove_dir_all(&dir);

    let about = about(options);
    let line = |name: &str| {
        about
            .iter()
            .find(|(key, _)| *key == name)
            .map_or("", |(_, value)| value.as_str())
    };
    let place = format!("{}, {}, {}", line("machine"), line("kernel"), line("date"));
    let versions = format!(
        "{}; {}; {}; {}",
        line("wakeport"),
        line("systemd"),
        line("haproxy"),
        line("nginx")
    );
    let mut text = format!("Medians of {}; {place}. {versions}.\n", line("rounds"));
    text += &results.tables();
    let marks = results.marks();
    if !marks.is_empty() {
        text += &format!(
            "\nwakeport against its peers: ratios of medians, and the least and greatest of any round.\n\n{marks}"
        );
    }
    print!("\n{text}");
    fs::write(options.out.join("table.md"), text)?;
    fs::write(options.out.join("results.csv"), results.csv())?;
    fs::write(options.out.join("results.json"), results.json(&about))?;
    fs::write(
        options.out.join("chart.svg"),
        chart::draw(
            &results,
            &format!("Medians of {} · {place}", line("rounds")),
        ),
    )?;
    eprintln!(
        "\n{} s; table.md, chart.svg, results.csv and results.json are in {}",
        began.elapsed().as_secs(),
        options.out.display()
    );
    Ok(())
}

fn measure(options: &Options, dir: &Path, open_files: u64, results: &mut Results) {
    // A connection is two files of ours, and up to six of a proxy's.
    let idle = IDLE.min(usize::try_from(open_files.saturating_sub(500) / 6).unwrap_or(IDLE));
    if idle < IDLE {
        eprintln!("bench: {idle} idle connections instead of {IDLE}: `ulimit -Hn` is {open_files}");
    }
    let loads = [
        (
            "ping-64-1",
            Load::Ping {
                size: 64,
                connections: 1,
            },
        ),
        (
            "ping-64-16",
            Load::Ping {
                size: 64,
                connections: 16,
            },
        ),
        (
            "ping-64-64",
            Load::Ping {
                size: 64,
                connections: 64,
            },
        ),
        (
            "ping-16k-1",
            Load::Ping {
                size: 16 * KIB,
                connections: 1,
            },
        ),
        (
            "ping-16k-16",
            Load::Ping {
                size: 16 * KIB,
                connections: 16,
            },
        ),
        (
            "ping-16k-64",
            Load::Ping {
                size: 16 * KIB,
                connections: 64,
            },
        ),
        ("down-1", Load::Down(1)),
        ("up-1", Load::Up(1)),
        ("down-16", Load::Down(16)),
        ("up-16", Load::Up(16)),
        ("connects", Load::Connects),
        ("idle", Load::Idle(idle)),
        (
            "http-64-1",
            Load::Get {
                size: 64,
                connections: 1,
            },
        ),
        (
            "http-64-64",
            Load::Get {
                size: 64,
                connections: 64,
            },
        ),
        (
            "http-16k-64",
            Load::Get {
                size: 16 * KIB,
                connections: 64,
            },
        ),
        ("http-large-4", Load::Bodies(4)),
        ("http-idle", Load::KeptAlive(idle)),
        (
            "udp-64-64",
            Load::Datagrams(datagrams::Load::Echo {
                size: 64,
                flows: 64,
                outstanding: 4,
            }),
        ),
        (
            "udp-bulk",
            Load::Datagrams(datagrams::Load::Bulk {
                size: 1200,
                per_second: 100_000,
                train: 10,
            }),
        ),
    ];
    for round in 1..=options.rounds {
        for (index, (name, load)) in loads
            .iter()
            .enumerate()
            .filter(|(_, (name, _))| options.wants(name))
        {
            for turn in 0..options.peers.len() {
                let peer = &options.peers[(turn + index + round as usize) % options.peers.len()];
                if peer.kind == Kind::Direct && matches!(load, Load::Idle(_) | Load::KeptAlive(_)) {
                    continue;
                }
                match load.run(peer, dir, options.seconds) {
                    Ok(figures) => {
                        tell(round, name, &peer.name, &figures);
                        results.add(round, name, &peer.name, figures);
                    }
                    Err(error) => {
                        eprintln!("{round} {name:<12} {:<14} failed: {error}", peer.title());
                    }
                }
            }
        }
    }
    for (load, readiness) in asleep::Readiness::ALL {
        if !options.wants(load) {
            continue;
        }
        let outcome = asleep::wakes(
            &options.binary,
            &options.peers,
            readiness,
            options.rounds * options.wakes,
            |number, who, ms| {
                let round = (number - 1) / options.wakes + 1;
                results.add(round, load, who, vec![("ms", ms)]);
            },
        );
        if let Err(error) = outcome {
            eprintln!("{load} failed: {error}");
        }
    }
    for (load, sleeper) in frozen::Sleeper::ALL {
        let takes_part = options.peers.iter().any(|peer| peer.name == "wakeport");
        if !options.wants(load) || !takes_part {
            continue;
        }
        let rounds = options.rounds * options.wakes;
        let outcome = frozen::thaws(&options.binary, sleeper, rounds, |number, who, ms| {
            let round = (number - 1) / options.wakes + 1;
            results.add(round, load, who, vec![("ms", ms)]);
        });
        if let Err(error) = outcome {
            eprintln!("{load} failed: {error}");
        }
    }
    if options.wants("asleep") {
        for peer in options
            .peers
            .iter()
            .filter(|peer| ["socket-proxyd", "wakeport"].contains(&peer.name.as_str()))
        {
            match asleep::sleepers(&options.binary, &peer.name, SLEEPERS) {
                Ok(figures) => {
                    tell(1, "asleep", &peer.name, &figures);
                    results.add(1, "asleep", &peer.name, figures);
                }
                Err(error) => eprintln!("asleep {}: {error}", peer.name),
            }
        }
    }
}

/// A line for who waits.
fn tell(round: u32, load: &str, who: &str, figures: &[(&str, f64)]) {
    let figures: Vec<_> = figures
        .iter()
        .map(|(name, value)| format!("{name} {}", report::show(*value)))
        .collect();
    eprintln!("{round} {load:<12} {who:<14} {}", figures.join("  "));
}

/// Every connection is a file; the proxies inherit the limit.
fn raise_open_files() -> Result<u64, Box<dyn Error>> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    )?;
    Ok(maximum.unwrap_or(u64::MAX))
}

/// Where and when, and whose versions.
fn about(options: &Options) -> Vec<(&'static str, String)> {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let model = proc::line("/proc/cpuinfo", "model name").unwrap_or_default();
    let memory = proc::line("/proc/meminfo", "MemTotal")
        .and_then(|kb| kb.split(' ').next()?.parse::<f64>().ok());
    let wakeport = options.binary.to_str().unwrap_or("wakeport");
    let (rounds, seconds) = (options.rounds, options.seconds);
    vec![
        ("date", says("date", &["-u", "+%Y-%m-%d"])),
        (
            "machine",
            format!(
                "{cores} cores ({model}), {:.0} GiB",
                memory.unwrap_or(0.0) / 1024.0 / 1024.0
            ),
        ),
        ("kernel", format!("Linux {}", says("uname", &["-r"]))),
        ("rounds", format!("{rounds} rounds of {seconds} s")),
        (
            "wakeport",
            format!(
                "{} {}",
                says(wakeport, &["--version"]),
                says("git", &["describe", "--always", "--dirty"])
            ),
        ),
        ("systemd", says("systemctl", &["--version"])),
        ("haproxy", says("haproxy", &["-v"])),
        ("nginx", says("nginx", &["-v"])),
    ]
}

/// The beginning of what a program says first.
fn says(program: &str, words: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(words).output() else {
        return format!("no {program}");
    };
    let text = String::from_utf8_lossy(if output.stdout.is_empty() {
        &output.stderr
    } else {
        &output.stdout
    })
    .into_owned();
    let line = text
        .lines()
        .next()
        .unwrap_or_default()
        .trim_start_matches("nginx version: ");
    line.split(" 20")
        .next()
        .unwrap_or(line)
        .split(" - ")
        .next()
        .unwrap_or(line)
        .to_owned()
}
