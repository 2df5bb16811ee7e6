//! What `wakeport init` writes: systemd reads from it what was typed. The options are separated by
//! NUL, as in /proc/PID/cmdline.

use std::collections::BTreeSet;
use std::path::Path;

use wakeport::admin::Instance;
use wakeport::admin::unit_files::{Places, files, may_be_ours};
use wakeport::cli::test_api;
use wakeport::config::address::Bound;
use wakeport::config::{Manager, Named, UnitName};

const SOCKET: &str = include_str!("../../../systemd/wakeport@.socket");
const SERVICE: &str = include_str!("../../../systemd/wakeport@.service");
const USER_SERVICE: &str = include_str!("../../../systemd/user/wakeport@.service");

pub(super) fn property(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let arguments: Vec<_> = text.split('\0').collect();
    let instance = match test_api::init(&arguments) {
        Ok(instance) => instance,
        Err(reason) => {
            assert!(!reason.contains('\n'), "{reason}");
            return;
        }
    };
    let places = Places {
        units: "/u".into(),
        rules: "/r".into(),
        policies: "/p".into(),
        configs: "/c".into(),
        program: None,
    };
    let ids: Vec<_> = instance.units().iter().map(UnitName::to_string).collect();
    let files = files(&instance, &places, &ids);
    let mut paths = BTreeSet::new();
    for (path, text) in &files {
        assert!(instance.mark().is_on(text), "{text}");
        assert!(may_be_ours(path), "{path:?} would not be removed");
        assert!(paths.insert(path), "{path:?} is written twice");
        let inside = path.strip_prefix("/u").or_else(|_| path.strip_prefix("/r"));
        let is_whole = path.starts_with("/r") || is_beside(path);
        let depth = if instance.standalone || is_whole {
            1
        } else {
            2
        };
        assert_eq!(inside.expect("in its place").components().count(), depth);
    }
    let of = |end: &'static str| {
        files
            .iter()
            .filter(move |(path, _)| unit(path).ends_with(end) && !is_beside(path))
    };
    for (_, text) in of(".service") {
        runs_as_typed(&instance, text);
    }
    assert_eq!(of(".service").count(), 1);
    listens_as_typed(&instance, &of(".socket").cloned().collect::<Vec<_>>());
    for (_, text) in of(".rules") {
        assert_eq!(script(text), ids, "{text}");
    }
}

/// Whether it is the control socket, a timer or the service of one.
fn is_beside(path: &Path) -> bool {
    unit(path).starts_with("wakeport-")
}

/// The unit, or rule, that a file is about.
fn unit(path: &Path) -> String {
    let name = |path: &Path| {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let folder = path.parent().map(name).unwrap_or_default();
    folder
        .strip_suffix(".d")
        .map_or_else(|| name(path), str::to_owned)
}

/// `wakeport run` in this unit does what was typed.
fn runs_as_typed(instance: &Instance, text: &str) {
    let base = match (instance.standalone, instance.manager) {
        (true, _) => "",
        (false, Manager::System) => SERVICE,
        (false, Manager::User) => USER_SERVICE,
    };
    let mut variables = Vec::new();
    for (_, value) in settings(&[base, text], "Service", "Environment") {
        for word in words(&value).unwrap_or_else(|| panic!("systemd cannot read {value:?}")) {
            let word = specified(&word, instance.stem());
            let (name, value) = word.split_once('=').expect("NAME=VALUE");
            variables.push((name.to_owned(), value.to_owned()));
        }
    }
    for (name, value) in &instance.settings {
        let set = variables.iter().rev().find(|(set, _)| set == name);
        assert_eq!(set.map(|(_, value)| value), Some(value), "{text}");
    }
    let run = test_api::run(&[], &variables);
    let run = run.unwrap_or_else(|reason| panic!("{reason}\n{text}"));
    // Settings of the socket units are not repeated.
    let mut typed = instance.config.clone();
    typed.process.listen = Vec::new();
    typed.process.stay = run.process.stay;
    assert_eq!(format!("{run:#?}"), format!("{typed:#?}"), "{text}");
    let stays = instance.settings.iter().any(|(name, value)| {
        name == "WAKEPORT_STAY"
            && !["no", "n", "false", "f", "off", "0"].contains(&value.to_lowercase().as_str())
    });
    assert_eq!(run.process.stay, stays, "{text}");
}

/// The socket units have the listeners that were typed.
fn listens_as_typed(instance: &Instance, files: &[(std::path::PathBuf, String)]) {
    let mut found = BTreeSet::new();
    for (index, (path, text)) in files.iter().enumerate() {
        let name = unit(path);
        assert!(
            name.parse::<UnitName>()
                .is_ok_and(|parsed| parsed.as_str() == name),
            "{name}"
        );
        let one = |key| {
            let values = settings(&[SOCKET, text], "Socket", key);
            values
                .last()
                .map(|(_, value)| specified(value, instance.stem()))
        };
        let own = settings(&[text], "Socket", "FileDescriptorName");
        let own = own.last().filter(|(_, value)| value != "%i");
        let name = own.map(|(_, value)| specified(value, instance.stem()));
        assert!(one("FileDescriptorName").is_some());
        let streams = settings(&[text], "Socket", "ListenStream").into_iter();
        let streams = streams.map(|(_, value)| value);
        let datagrams = settings(&[text], "Socket", "ListenDatagram").into_iter();
        let datagrams = datagrams.map(|(_, value)| format!("udp:{value}"));
        for value in streams.chain(datagrams) {
            let at = specified(&value, instance.stem());
            let value: Bound = at.parse().unwrap_or_else(|reason| panic!("{at}: {reason}"));
            assert!(found.insert(format!(
                "{:?}",
                Named {
                    name: name.clone(),
                    value
                }
            )));
        }
        let service = one("Service");
        assert_eq!(service.is_some(), index > 0, "{text}");
        assert!(
            service.is_none_or(|service| service == instance.service()),
            "{text}"
        );
    }
    let typed: BTreeSet<_> = instance
        .config
        .process
        .listen
        .iter()
        .map(|listen| format!("{listen:?}"))
        .collect();
    assert_eq!(found, typed);
}

/// The values of a key in a section, later files after earlier ones (systemd.syntax(7)), each with
/// its line.
fn settings(files: &[&str], section: &str, key: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for file in files {
        let (mut current, mut begun) = (String::new(), String::new());
        for (number, line) in file.split('\n').enumerate() {
            let line = line.trim_matches([' ', '\t', '\r']);
            if line.starts_with(['#', ';']) || (line.is_empty() && begun.is_empty()) {
                continue;
            }
            // systemd does not care whether the backslash is escaped itself.
            if let Some(part) = line.strip_suffix('\\') {
                begun += part;
                begun.push(' ');
                continue;
            }
            let line = std::mem::take(&mut begun) + line;
            if let Some(name) = line
                .strip_prefix('[')
                .and_then(|line| line.strip_suffix(']'))
            {
                current = name.to_owned();
            } else if let Some((name, value)) = line.split_once('=')
                && (current.as_str(), name.trim()) == (section, key)
            {
                found.push((number, value.trim().to_owned()));
            } else {
                assert!(line.contains('='), "systemd cannot read {line:?}");
            }
        }
        assert!(begun.is_empty(), "{file:?} ends with a backslash");
    }
    found
}

/// The words of a value, with quotes and escapes resolved, or `None` where systemd would reject it.
fn words(value: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<Vec<u8>>, None);
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        if quote.is_none() && " \t\n\r".contains(c) {
            words.extend(word.take());
            continue;
        }
        let bytes = word.get_or_insert_default();
        match c {
            '"' | '\'' if quote.is_none() => quote = Some(c),
            _ if quote == Some(c) => quote = None,
            '\\' => bytes.push(match chars.next()? {
                'n' => b'\n',
                't' => b'\t',
                's' => b' ',
                c @ ('\\' | '"' | '\'') => c as u8,
                'x' => {
                    let digits: String = chars.by_ref().take(2).collect();
                    u8::from_str_radix(&digits, 16)
                        .ok()
                        .filter(|&byte| byte != 0)?
                }
                _ => return None,
            }),
            c => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    words.extend(word);
    let words = words
        .into_iter()
        .map(String::from_utf8)
        .collect::<Result<_, _>>();
    words.ok().filter(|_| quote.is_none())
}

/// With the specifiers that occur (systemd.unit(5)).
fn specified(text: &str, instance: &str) -> String {
    let (mut expanded, mut chars) = (String::new(), text.chars());
    while let Some(c) = chars.next() {
        match c {
            '%' => match chars.next() {
                Some('%') => expanded.push('%'),
                Some('i') => expanded.push_str(instance),
                Some('E') => expanded.push_str("/etc"),
                other => panic!("%{other:?} in {text:?}"),
            },
            c => expanded.push(c),
        }
    }
    expanded
}

/// The units that a polkit rule names.
fn script(text: &str) -> Vec<String> {
    let list = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("var units = "));
    let list = list
        .and_then(|list| list.strip_suffix(';'))
        .expect("a list of units");
    // What is there is JSON as well.
    serde_json::from_str(list).expect("strings")
}
