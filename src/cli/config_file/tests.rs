//! What files are taken for, and how they are refused.

use std::time::Duration;

use super::*;
use crate::cli::Exit;
use crate::config::UnitName;

/// What is in a file, one way or the other.
fn read(texts: &[&str]) -> Result<File, String> {
    let mut file = File::default();
    for (index, text) in texts.iter().enumerate() {
        let read = file.read(&format!("{index}.toml"), text.as_bytes());
        read.map_err(|invalid| invalid.to_string())?;
    }
    Ok(file)
}

fn loaded(texts: &[&str], flags: &[&str], variables: &[(&str, &str)]) -> Result<Config, Fatal> {
    let flags: Vec<_> = flags.iter().map(|&flag| flag.to_owned()).collect();
    let pair = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
    let variables: Vec<_> = variables.iter().map(pair).collect();
    let options = Options::read(&flags, &variables).expect("flags and variables");
    let path = "-/etc/wakeport/web.toml".parse().expect("a path");
    let file = read(texts).map_err(Fatal::config)?;
    config(&options, &path, &file)
}

fn services(texts: &[&str]) -> Vec<ServiceConfig> {
    loaded(texts, &[], &[]).expect("a file").services
}

/// How a file is refused.
fn refused(text: &str) -> String {
    let fatal = loaded(&[text], &[], &[]).expect_err(text);
    assert_eq!(fatal.exit, Exit::Config, "{fatal}");
    fatal.message
}

const TWO: &str = r#"
    [defaults]
    cooldown = "1min"
    wake-on-data = true

    [service.one]
    listener = "a"
    to = "127.0.0.1:1"
    cooldown = 20

    [service.two]
    listener = ["b", "c"]
    to = ["b=127.0.0.1:2", "c=127.0.0.1:3"]
    unit = "db web.socket"
    wake-on-data = "no"
    keepalive-probes = 7
"#;

#[test]
fn each_service_has_its_own_keys_and_the_defaults() {
    let [one, two] = &services(&[TWO])[..] else {
        panic!("two");
    };
    let units = |service: &ServiceConfig| -> Vec<String> {
        let ServiceKind::Units { units, .. } = &service.kind else {
            panic!("{:?}", service.kind);
        };
        units.iter().map(UnitName::to_string).collect()
    };
    assert_eq!(units(one), ["one.service"]);
    assert_eq!(units(two), ["db.service", "web.socket"]);
    assert_eq!(one.name.as_deref(), Some("one"));
    assert_eq!(one.listeners, Some(vec!["a".to_owned()]));
    assert_eq!(two.listeners.as_ref().map(Vec::len), Some(2));
    assert_eq!(two.routes.len(), 2);
    assert_eq!(one.timing.cooldown, Duration::from_secs(20));
    assert_eq!(two.timing.cooldown, Duration::from_secs(60));
    assert_eq!(one.timing.start_timeout, Duration::from_secs(90));
    assert_eq!(
        [one, two].map(|of| of.admission.wake_on_data),
        [true, false]
    );
    assert_eq!([one, two].map(|of| of.liveness.keepalive_probes), [6, 7]);
}

#[test]
fn flags_weigh_more_than_variables_and_these_more_than_the_file() {
    let cooldowns = |flags: &[&str], variables: &[(&str, &str)]| {
        let config = loaded(&[TWO], flags, variables).expect("a file");
        let services = config.services.into_iter();
        services
            .map(|service| service.timing.cooldown.as_secs())
            .collect::<Vec<_>>()
    };
    let variable = ("WAKEPORT_COOLDOWN", "2min");
    assert_eq!(cooldowns(&[], &[]), [20, 60]);
    assert_eq!(cooldowns(&[], &[("WAKEPORT_COOLDOWN", "")]), [20, 60]);
    assert_eq!(cooldowns(&[], &[variable]), [120, 120]);
    assert_eq!(cooldowns(&["--cooldown=3min"], &[variable]), [180, 180]);
    let config = loaded(&[TWO], &["--listen=a=1", "--threads=2"], &[]).expect("a file");
    assert_eq!(config.process.limits.threads.map(usize::from), Some(2));
    assert_eq!(config.process.listen.len(), 1);
}

#[test]
fn later_files_change_keys_and_add_services() {
    let services = services(&[
        TWO,
        "[defaults]\ncooldown = '9s'\n[service.three]\nlistener = 'd'\nto = '/run/x'",
        "[service.one]\nunit = ''\n[service.two]\ncooldown = 'infinity'",
    ]);
    let cooldowns = services.iter().map(|service| service.timing.cooldown);
    let [one, three, two] = cooldowns.collect::<Vec<_>>()[..] else {
        panic!("three");
    };
    assert_eq!(one.as_secs(), 20, "its own key weighs more than [defaults]");
    assert_eq!((three.as_secs(), two), (9, Duration::MAX));
    assert_eq!(
        services[0].kind,
        ServiceKind::Relay,
        "no unit, and none by default"
    );
}

#[test]
fn one_service_needs_no_listener_and_programs_take_the_units_place() {
    let [service] = &services(&["[service.'a:b']\nto = 'h:1'\nexec = 'echo \"a b\"'"])[..] else {
        panic!("one");
    };
    assert_eq!(service.listeners, None);
    let ServiceKind::Exec(command) = &service.kind else {
        panic!("{:?}", service.kind);
    };
    assert_eq!(command.arguments, ["a b"]);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let two = "[service.a]\nlistener='x'\nto='h:1'\n[service.b]\nto='h:1'\n";
    for (text, place, parts) in [
        ("", "`/etc", &["no service", "`[service.NAME]`"][..]),
        ("[service.a]\nto = ", "0.toml:2:6", &["not TOML"]),
        (
            "[service.a]\nto = 'a'\nto = 'b'",
            "0.toml:3:1",
            &["not TOML", "duplicate"],
        ),
        (
            "[service.a]\n[service.a]",
            "0.toml:2:10",
            &["not TOML", "duplicate"],
        ),
        (
            "cooldown = 5",
            "0.toml:1:1",
            &["`cooldown`", "`[defaults]`"],
        ),
        (
            "# é\n[services.a]",
            "0.toml:2:2",
            &["unknown table `services`"],
        ),
        ("[[service]]\n", "0.toml:1:3", &["write `[service.NAME]`"]),
        ("service.a = 1", "0.toml:1:9", &["write `[service.a]`"]),
        (
            "[service.'a/b']",
            "0.toml:1:10",
            &["`a/b` cannot be the name", "`/`"],
        ),
        (
            "[service.'.a']",
            "0.toml:1:10",
            &["does not begin with a dot"],
        ),
        (
            "[service.a]\ncool-down = 1",
            "0.toml:2:1",
            &["unknown key `cool-down`", "is it `cooldown`?"],
        ),
        (
            "[service.a]\nxyz = 1",
            "0.toml:2:1",
            &["unknown key `xyz`", "wakeport-run(1)"],
        ),
        (
            "[service.a]\nto='h:1'\nstart_timeout = 1",
            "0.toml:3:1",
            &["is it `start-timeout`?"],
        ),
        (
            "[defaults]\nthreads = 1",
            "0.toml:2:1",
            &["`--threads`", "WAKEPORT_THREADS"],
        ),
        (
            "[defaults]\nunit = 'a'",
            "0.toml:2:1",
            &["`unit` is for one service"],
        ),
        (
            "[defaults]\ncooldown = 'soon'",
            "0.toml:2:12",
            &["`cooldown` cannot be `soon`", "5min 20s"],
        ),
        (
            "[service.a]\nuser = 'perhaps'",
            "0.toml:2:8",
            &["`user` cannot be `perhaps`"],
        ),
        (
            "[service.a]\nkeepalive-probes = 128",
            "0.toml:2:20",
            &["1..=127"],
        ),
        (
            "[service.a]\nto = ['h:1', 'x']\nallow = ['::1', '1.2.3']",
            "0.toml:3:17",
            &["`allow` cannot be `1.2.3`"],
        ),
        (
            "[service.a]\nto = {a = 1}",
            "0.toml:2:6",
            &["a string, a number"],
        ),
        (
            "[service.a]\nto = [['h:1']]",
            "0.toml:2:7",
            &["a string, a number"],
        ),
        (
            "[service.a]\ncooldown = ['1', '2']",
            "0.toml:2:1",
            &["`cooldown` takes one value"],
        ),
        (
            "[service.a]\ncooldown = 2026-01-01",
            "0.toml:2:12",
            &["a string, a number"],
        ),
        (
            "[service.a]",
            "0.toml:1:10",
            &["service `a`", "`to` is missing"],
        ),
        (
            "[service.a]\nto='h:1'\nunit='b'\nexec='c'",
            "0.toml:3:1",
            &["only one of `unit`, hooks and `exec`"],
        ),
        (
            "[service.a]\nto='h:1'\nunit=''\nwake-rate='1/1h'",
            "0.toml:4:1",
            &["`wake-rate 1/1h`"],
        ),
        (
            "[service.a]\nto='x=h:1'\nlistener='y'",
            "0.toml:2:1",
            &["the listener `x`"],
        ),
        (
            two,
            "0.toml:4:10",
            &["service `b`", "`listener` is missing"],
        ),
        (
            &(two.to_owned() + "listener='x'"),
            "0.toml:6:1",
            &["`x` is that of service `a`"],
        ),
        (
            &(two.to_owned() + "listener='y'\nunit='a'"),
            "0.toml:7:1",
            &["the unit `a.service`"],
        ),
        ("[service.a]\nto=\"\\u0007\"", "0.toml:2:4", &["\\u{7}"]),
    ] {
        let said = refused(text);
        assert!(said.starts_with(place), "{text}\n{said}");
        assert!(!said.contains(char::is_control), "{said:?}");
        for part in parts {
            assert!(said.contains(part), "{text}\nno `{part}` in: {said}");
        }
    }
    let mut file = File::default();
    let said = file
        .read("x", b"[service.a]\n \xff")
        .expect_err("not UTF-8");
    assert_eq!(said.to_string(), "x:2:2: not UTF-8; save the file as UTF-8");
}

#[test]
fn what_one_service_is_cannot_be_said_for_a_file_of_them() {
    let refused = |flags: &[&str], variables: &[(&str, &str)]| {
        let fatal = loaded(&[TWO], flags, variables).expect_err("not for a file");
        assert_eq!(fatal.exit, Exit::Usage);
        fatal.message
    };
    let said = refused(&["--to=h:1"], &[]);
    assert!(said.starts_with("`--to` is for a single service"), "{said}");
    let said = refused(&[], &[("WAKEPORT_UNIT", "other")]);
    assert!(
        said.contains("WAKEPORT_UNIT") && said.contains("web.toml"),
        "{said}"
    );
    // As the template has it.
    let template = [("WAKEPORT_UNIT", "web")];
    loaded(&[TWO], &[], &template).expect("the unit of an instance without a file");
}

#[test]
fn every_listener_has_one_service() {
    let config = loaded(&[TWO], &[], &[]).expect("a file");
    let owners = |names: &[&str]| config.owners(names.iter().copied());
    assert_eq!(
        owners(&["c", "a", "b"]),
        Ok(vec![vec![1], vec![0], vec![1]])
    );
    assert_eq!(
        owners(&["a", "b", "c", "d"]).expect("d has none")[3].len(),
        0
    );
    let said = owners(&["a", "b"]).expect_err("c is missing");
    assert!(
        said.contains("service `two`") && said.contains("there are `a`, `b`"),
        "{said}"
    );
    let one = loaded(&["[service.x]\nto='h:1'"], &[], &[]).expect("a file");
    assert_eq!(
        one.owners(["a", "b"].into_iter()),
        Ok(vec![vec![0], vec![0]])
    );
}

#[test]
fn services_that_have_hosts_share_a_listener() {
    let host = |name: &str, more: &str| format!("[service.{name}]\nto='h:1'\n{more}\n");
    let file = |services: &[String]| loaded(&[&services.concat()], &[], &[]);
    let (a, b) = (host("a", "host='a.example'"), host("b", "host='b.example'"));
    let plain = host("c", "listener='db'");
    let config = file(&[a.clone(), b.clone(), plain.clone()]).expect("a file");
    assert_eq!(
        config.owners(["web", "db"].into_iter()),
        Ok(vec![vec![0, 1], vec![2]])
    );
    let said = config.owners(["db"].into_iter()).expect_err("none is left");
    assert!(said.contains("service `a` has no listener"), "{said}");
    let path = host("b", "host='A.example.'\npath='/b'");
    file(&[a.clone(), path.clone()]).expect("another path");

    let refused = |services: &[String], words: &[&str]| {
        let said = file(services).expect_err("it is refused").message;
        for word in words {
            assert!(said.contains(word), "{said}");
        }
    };
    let same = host("b", "host='A.example.'");
    refused(
        &[a.clone(), same],
        &["0.toml:6:1", "host `a.example`", "service `a` already"],
    );
    refused(
        &[path.clone(), path.replace(".b]", ".c]")],
        &["path `/b`", "service `b` already"],
    );
    let relayed = host("c", "listener='web'");
    let other = host("a", "host='a.example'\nlistener='web'");
    refused(
        &[other, relayed],
        &["the listener `web`", "several that have a `host`"],
    );
    refused(
        &[host("a", "path='/x'")],
        &["`path` is about requests", "`host` or `http`"],
    );
    refused(&[host("a", "host='a:80'")], &["without a port"]);
    let behind = host("b", "host='b.example'\naccept-proxy=true");
    refused(&[a, behind], &["`accept-proxy`", "service `a`"]);
}

#[test]
fn drop_ins_are_read_in_order_and_a_file_may_be_missing() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("web.toml");
    let read = |prefix: &str| {
        let path: ConfigPath = format!("{prefix}{}", path.display())
            .parse()
            .expect("a path");
        path.read()
    };
    assert!(read("-").expect("may be missing").is_none());
    let fatal = read("").expect_err("must be there");
    assert!(fatal.message.contains("web.toml"), "{fatal}");
    assert_eq!(fatal.exit, Exit::Config);

    let drop_ins = folder.path().join("web.toml.d");
    fs::create_dir(&drop_ins).expect("a directory");
    let write = |path: PathBuf, text: &str| fs::write(path, text).expect("a file");
    write(drop_ins.join("20.toml"), "[service.a]\ncooldown=20");
    write(
        drop_ins.join("10.toml"),
        "[service.a]\ncooldown=10\nto='h:1'",
    );
    write(drop_ins.join("30.toml.bak"), "nonsense");
    write(drop_ins.join(".30.toml"), "nonsense");
    let cooldown = || {
        let file = read("-").expect("files").expect("there is one");
        let (_, _, settings) = file.services().next().expect("a service");
        settings
            .get("cooldown")
            .map(|setting| setting.values[0].0.clone())
    };
    assert_eq!(cooldown().as_deref(), Some("20"));
    write(path.clone(), "[service.a]\ncooldown=5\n[service.b]");
    assert_eq!(cooldown().as_deref(), Some("20"));
    write(drop_ins.join("40.toml"), "nonsense");
    let fatal = read("").expect_err("nonsense");
    assert!(fatal.message.contains("40.toml:1:"), "{fatal}");
}

#[test]
fn the_example_in_the_docs_is_a_file() {
    let page = include_str!("../../../docs/options.md");
    let example = page.split("```toml\n").nth(1).expect("an example");
    let example = example.split("```").next().expect("its end");
    let [jellyfin, paperless] = &services(&[example])[..] else {
        panic!("two services");
    };
    assert_eq!(jellyfin.timing.cooldown, Duration::from_secs(600));
    assert!(paperless.admission.wake_on_data);
    assert_eq!(paperless.listeners.as_ref().map(Vec::len), Some(2));
}

#[test]
fn what_cannot_be_frozen_is_refused_with_the_remedy() {
    let service = |more: &str| format!("[service.a]\nto = \"127.0.0.1:1\"\n{more}\n");
    for (more, words) in [
        ("unit = \"a\"\nfreeze-after = \"5min\"", "`cooldown 5min`"),
        (
            "unit = \"a\"\ncooldown = \"1min\"\nfreeze-after = \"2min\"",
            "`cooldown 1min`",
        ),
        (
            "start-hook = \"a\"\nfreeze-after = \"1min\"",
            "`stop-hook` where hooks",
        ),
        (
            "start-hook = \"a\"\nstop-hook = \"b\"\nfreeze-hook = \"c\"\nfreeze-after = \"1min\"",
            "`thaw-hook`",
        ),
        (
            "unit = \"a\"\nthaw-hook = \"c\"\nfreeze-after = \"1min\"",
            "`thaw-hook` is for",
        ),
        (
            "start-hook = \"a\"\nfreeze-hook = \"c\"",
            "`freeze-hook` is for",
        ),
        (
            "unit = \"a\"\nfreeze-reclaim = true",
            "`freeze-reclaim` is for units",
        ),
        (
            "exec = \"a\"\nfreeze-after = \"1min\"\nfreeze-reclaim = true",
            "`freeze-reclaim` is for units",
        ),
        (
            "start-hook = \"a\"\nstop-hook = \"b\"\nfreeze-hook = \"c\"\nthaw-hook = \"d\"\nfreeze-after = \"1min\"\n\
             freeze-reclaim = true",
            "`freeze-reclaim` is for units",
        ),
        (
            "unit = \"a\"\nuser = true\nfreeze-after = \"1min\"\nfreeze-reclaim = true",
            "`freeze-reclaim` is for units",
        ),
    ] {
        let line = refused(&service(more));
        assert!(line.contains(words), "{more}: {line}");
    }
    let flags = ["--to=127.0.0.1:1", "--freeze-after=1min"].map(str::to_owned);
    let relay = Options::read(&flags, &[]).expect("flags").config();
    let line = relay.expect_err("it starts nothing").message;
    assert!(
        line.contains("`--freeze-after 1min` freezes what"),
        "{line}"
    );
    for more in [
        "unit = \"a\"\nfreeze-after = \"2min\"",
        "unit = \"a\"\ncooldown = \"infinity\"\nfreeze-after = \"1h\"",
        "exec = \"a\"\nfreeze-after = 0",
        "unit = \"a\"\nfreeze-after = \"2min\"\nfreeze-reclaim = true",
        "unit = \"a\"\nfreeze-reclaim = false",
        "start-hook = \"a\"\nstop-hook = \"b\"\nfreeze-hook = \"c\"\nthaw-hook = \"d\"\nfreeze-after = \"1min\"",
    ] {
        assert_eq!(services(&[&service(more)]).len(), 1, "{more}");
    }
}
