//! The files in `examples/`: units, and hooks with recording stand-ins for what cannot run here.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use tempfile::TempDir;

use crate::repository::{Tree, files, read, repo, run, text};
use crate::support::script;

#[test]
fn every_unit_verifies() {
    for example in examples() {
        let tree = Tree::system();
        let units = files(&example.join("etc/systemd/system"));
        if units.is_empty() {
            continue;
        }
        for path in units {
            let below = path.strip_prefix(&example).expect("a file of the example");
            tree.write(&below.to_string_lossy(), &read(&path));
        }
        tree.verify();
    }
}

#[test]
fn every_readme_matches_its_files() {
    for example in examples() {
        let dir = example
            .ancestors()
            .find(|dir| dir.join("README.md").exists())
            .expect("a README");
        assert_ne!(dir, repo("examples"), "{}: no README", example.display());
        let readme = read(&dir.join("README.md"));
        assert!(
            readme.contains("**Ran for real:**"),
            "{}: what ran for real?",
            dir.display()
        );
        let hooks = files(&example)
            .iter()
            .any(|path| read(path).contains("WAKEPORT_START_HOOK"));
        assert!(
            !hooks || readme.contains("wakeport's unit"),
            "{}: warn of background children of a hook",
            dir.display()
        );
    }
}

#[test]
fn every_unit_with_hooks_clears_the_unit_to_wake() {
    for path in drop_ins() {
        let drop_in = read(&path);
        if drop_in.contains("_HOOK=") || drop_in.contains("WAKEPORT_EXEC=") {
            assert!(
                drop_in.contains("\nEnvironment=WAKEPORT_UNIT=\n"),
                "{}",
                path.display()
            );
        }
    }
}

#[test]
fn a_cloud_vm_starts_and_stops() {
    for (event, status, verb, code) in [
        ("start", "TERMINATED", Some("start"), 0),
        ("start", "SUSPENDED", Some("resume"), 0),
        ("start", "RUNNING", None, 0),
        ("start", "STAGING", None, 0),
        ("start", "STOPPING", None, 75),
        ("stop", "RUNNING", Some("stop"), 0),
        ("stop", "TERMINATED", None, 0),
        ("stop", "STAGING", None, 75),
        ("nap", "RUNNING", None, 64),
    ] {
        let hook = Hook::of("cloud-vm", event);
        hook.stand_in(
            "gcloud",
            &format!("case $* in *describe*) echo {status} ;; esac"),
        );
        let instances = |verb: &str, rest: &str| {
            format!(
                "gcloud --quiet --project=my-project compute instances {verb} gamebox --zone=europe-west3-a{rest}"
            )
        };
        let mut calls = vec![instances("describe", " --format=value(status)")];
        calls.extend(verb.map(|verb| instances(verb, "")));
        assert_eq!(hook.run(), (code, calls), "{event} while {status}");
    }
}

#[test]
fn a_cloud_vm_without_capacity_is_retried() {
    for (error, code) in [
        ("ZONE_RESOURCE_POOL_EXHAUSTED", 75),
        ("PERMISSION_DENIED", 1),
    ] {
        let hook = Hook::of("cloud-vm", "start");
        hook.stand_in(
            "gcloud",
            &format!("case $* in *describe*) echo TERMINATED ;; *) echo 'ERROR: {error}' >&2; exit 1 ;; esac"),
        );
        assert_eq!(hook.run().0, code, "{error}");
    }
    let hook = Hook::of("cloud-vm", "stop");
    hook.stand_in("gcloud", "echo 'no network' >&2; exit 1");
    assert_eq!(hook.run().0, 1);
}

#[test]
fn a_vm_of_libvirt_starts() {
    for (state, verb, code) in [
        ("shut off", Some("start"), 0),
        ("paused", Some("resume"), 0),
        ("pmsuspended", Some("dompmwakeup"), 0),
        ("running", None, 0),
        ("in shutdown", None, 75),
    ] {
        let hook = Hook::of("libvirt-vm", "start");
        hook.stand_in(
            "virsh",
            &format!("case $1 in domstate) echo '{state}' ;; esac"),
        );
        let mut calls = vec!["virsh domstate devbox".to_owned()];
        calls.extend(verb.map(|verb| format!("virsh {verb} devbox")));
        assert_eq!(hook.run(), (code, calls), "start while {state}");
    }
}

#[test]
fn a_vm_that_libvirt_does_not_know_fails_at_once() {
    let hook = Hook::of("libvirt-vm", "start");
    hook.stand_in("virsh", "echo 'error: failed to get domain' >&2; exit 1");
    assert_eq!(hook.run(), (1, vec!["virsh domstate devbox".to_owned()]));
}

#[test]
fn a_vm_of_libvirt_is_off_when_its_stop_hook_ends() {
    let hook = Hook::of("libvirt-vm", "stop");
    hook.stand_in(
        "virsh",
        r#"case $1 in
        shutdown) : >"$0.told" ;;
        domstate) if [ -e "$0.told" ] && ! rmdir "$0.busy" 2>/dev/null; then echo 'shut off'; else echo running; fi ;;
        esac"#,
    );
    fs::create_dir(hook.dir.path().join("virsh.busy")).expect("a scratch directory");
    let domstate = || "virsh domstate devbox".to_owned();
    let calls = vec![
        domstate(),
        "virsh shutdown devbox".to_owned(),
        domstate(),
        domstate(),
    ];
    assert_eq!(hook.run(), (0, calls));
}

#[test]
fn a_vm_of_libvirt_that_does_not_react_gets_another_shutdown() {
    let mut hook = Hook::of("libvirt-vm", "stop");
    hook.set("WAKEPORT_TIMEOUT_SEC", "11");
    hook.stand_in("virsh", "[ $1 != domstate ] || echo running");
    let (code, calls) = hook.run();
    assert_eq!((code, calls[1].as_str()), (75, "virsh shutdown devbox"));
}

#[test]
fn a_vm_of_libvirt_can_be_saved_instead() {
    let mut hook = Hook::of("libvirt-vm", "stop");
    hook.set("VM_SLEEP", "managedsave");
    hook.stand_in("virsh", "[ $1 != domstate ] || echo running");
    let calls = ["virsh domstate devbox", "virsh managedsave devbox"]
        .map(str::to_owned)
        .to_vec();
    assert_eq!(hook.run(), (0, calls));
}

#[test]
fn a_game_server_is_ready_when_it_answers_its_own_protocol() {
    for (answer, code) in [(&b"\x05\x00\x03{ }"[..], 0), (&b""[..], 1)] {
        let server = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut ping = Command::new(repo(
            "examples/game-server/usr/local/libexec/wakeport/minecraft-ping",
        ));
        ping.env(
            "WAKEPORT_TARGET",
            server.local_addr().expect("a bound socket").to_string(),
        );
        let server = thread::spawn(move || {
            let (mut client, _) = server.accept().expect("the question");
            let mut question = [0; 64];
            let length = client.read(&mut question).expect("the question");
            client.write_all(answer).expect("a listening client");
            question[..length].to_vec()
        });
        assert_eq!(run(&mut ping, "Python").status.code(), Some(code));
        let question = server.join().expect("the server does not panic");
        // Handshake: its length, packet 0, protocol 767, the host, the port, next state 1 (status); then the request.
        assert!(
            question.starts_with(b"\x10\x00\xff\x05\x09127.0.0.1"),
            "{question:?}"
        );
        assert!(question.ends_with(b"\x01\x01\x00"), "{question:?}");
    }
}

#[test]
fn docker_and_kubectl_get_the_commands_of_their_drop_ins() {
    for (example, event, calls) in [
        ("container/docker", "start", vec!["docker start whoami"]),
        ("container/docker", "stop", vec!["docker stop -t 30 whoami"]),
        (
            "moving-from-hibergate",
            "start",
            vec!["kubectl scale deployment/shop --replicas=1"],
        ),
        (
            "moving-from-hibergate",
            "stop",
            vec!["kubectl scale deployment/shop --replicas=0"],
        ),
        (
            "moving-from-hibergate",
            "ready",
            vec!["kubectl get deployment/shop -o jsonpath={.status.readyReplicas}"],
        ),
    ] {
        let hook = Hook::of(example, event);
        hook.stand_in("docker", "");
        hook.stand_in("kubectl", "echo 1");
        assert_eq!(
            hook.run(),
            (0, calls.into_iter().map(str::to_owned).collect()),
            "{example}: {event}"
        );
    }
}

#[test]
fn the_scaled_object_for_keda_asks_for_metrics_that_there_are() {
    let file = repo("examples/keda/scaledobject.yml");
    let script = "import sys, yaml
spec = yaml.safe_load(open(sys.argv[1]))
assert spec['kind'] == 'ScaledObject' and spec['spec']['minReplicaCount'] == 0
trigger, = spec['spec']['triggers']
assert trigger['type'] == 'prometheus'
assert all(isinstance(value, str) for value in trigger['metadata'].values())
print(trigger['metadata']['query'])";
    let output = run(
        Command::new("python3").args(["-c", script]).arg(&file),
        "python3 and python3-yaml",
    );
    assert!(output.status.success(), "{}", text(&output));
    let query = text(&output);
    let docs = read(&repo("docs/observing.md"));
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let metrics: Vec<_> = words.filter(|word| word.starts_with("wakeport_")).collect();
    assert_eq!(metrics.len(), 3, "{query}");
    for metric in metrics {
        assert!(docs.contains(&format!("| `{metric}{{host")), "{metric}");
    }
    let dir = tempfile::tempdir().expect("a scratch directory");
    let rules = dir.path().join("rules.yml");
    let rule = format!(
        "groups: [{{name: keda, rules: [{{record: keda, expr: '{}'}}]}}]",
        query.trim()
    );
    fs::write(&rules, rule).expect("a scratch file");
    let promtool = ["check", "rules"];
    let output = run(
        Command::new("promtool").args(promtool).arg(&rules),
        "prometheus",
    );
    assert!(output.status.success(), "{}", text(&output));
}

/// One hook of an example, as its drop-in configures it, with nothing on its PATH but stand-ins and the basics.
struct Hook {
    dir: TempDir,
    command: String,
    env: Vec<(String, String)>,
}

impl Hook {
    fn of(example: &str, event: &str) -> Self {
        let example = repo("examples").join(example);
        let drop_in = files(&example.join("etc"))
            .into_iter()
            .find(|path| path.ends_with("hooks.conf"));
        let mut env = environment(&read(&drop_in.expect("an example with hooks")));
        env.push(("WAKEPORT_EVENT".into(), event.into()));
        env.push(("WAKEPORT_TIMEOUT_SEC".into(), "60".into()));
        let hook = format!(
            "WAKEPORT_{}_HOOK",
            if event == "nap" {
                "START".into()
            } else {
                event.to_uppercase()
            }
        );
        let command = env
            .iter()
            .find(|(name, _)| *name == hook)
            .expect("a drop-in that sets the hook")
            .1
            .clone();
        let libexec = "/usr/local/libexec/wakeport/";
        let command = command.replace(libexec, &format!("{}{libexec}", example.display()));
        Self {
            dir: tempfile::tempdir().expect("a scratch directory"),
            command,
            env,
        }
    }

    fn set(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// A program that records its arguments and then runs `body`.
    fn stand_in(&self, name: &str, body: &str) {
        let calls = self.dir.path().join("calls");
        script(
            &self.dir.path().join(name),
            &format!(
                "#!/bin/sh\necho \"{name} $*\" >>'{}'\n{body}\n",
                calls.display()
            ),
        );
    }

    /// Its exit code, and what it called.
    fn run(&self) -> (i32, Vec<String>) {
        // The shell stands for wakeport, which splits the command in the same way.
        let output = run(
            Command::new("sh")
                .args(["-c", &self.command])
                .env_clear()
                .envs(self.env.iter().map(|(name, value)| (name, value)))
                .env(
                    "PATH",
                    format!("{}:/usr/local/bin:/usr/bin:/bin", self.dir.path().display()),
                ),
            "a shell",
        );
        let calls = fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default();
        let code = output
            .status
            .code()
            .unwrap_or_else(|| panic!("killed: {}", text(&output)));
        (code, calls.lines().map(str::to_owned).collect())
    }
}

/// The folders that are to be copied: everything that has an `etc`.
fn examples() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = files(&repo("examples"))
        .iter()
        .filter_map(|path| {
            path.ancestors()
                .find(|dir| dir.ends_with("etc"))
                .and_then(Path::parent)
                .map(PathBuf::from)
        })
        .collect();
    found.sort();
    found.dedup();
    assert!(found.len() >= 10, "too few examples found: {found:?}");
    found
}

fn drop_ins() -> Vec<PathBuf> {
    files(&repo("examples"))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "conf"))
        .collect()
}

/// The variables that a drop-in sets, read as systemd does as far as the examples need it.
fn environment(drop_in: &str) -> Vec<(String, String)> {
    drop_in
        .lines()
        .filter_map(|line| line.strip_prefix("Environment="))
        .flat_map(|line| {
            match line
                .strip_prefix('"')
                .and_then(|line| line.strip_suffix('"'))
            {
                Some(whole) => vec![whole],
                None => line.split_whitespace().collect(),
            }
        })
        .filter_map(|assignment| assignment.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
