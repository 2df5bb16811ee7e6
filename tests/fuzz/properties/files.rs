//! Files of services: rejected in one line with the place of the error, or parsed.

use std::collections::BTreeMap;

use wakeport::cli::test_api;

pub(super) fn property(bytes: &[u8]) {
    let config = match test_api::file(bytes, &[]) {
        Ok(config) => config,
        Err(reason) => {
            assert!(super::is_one_line(&reason), "{reason}");
            assert!(reason == EMPTY || is_within(&reason, bytes), "{reason}");
            return;
        }
    };
    assert!(!config.services.is_empty());
    // Only services that have hosts share a socket, whatever the names.
    let mut listeners = BTreeMap::<_, Vec<_>>::new();
    for service in &config.services {
        let is_by_host = service.admission.is_by_host();
        assert!(service.name.is_some() && !service.routes.is_empty());
        assert!(config.services.len() == 1 || service.listeners.is_some() || is_by_host);
        for listener in service.listeners.iter().flatten() {
            listeners
                .entry(listener.as_str())
                .or_default()
                .push(is_by_host);
        }
    }
    for (listener, owners) in &listeners {
        assert!(
            owners.len() == 1 || owners.iter().all(|it| *it),
            "{listener}"
        );
    }
    // One that is not named is for those that name none.
    listeners.entry("elsewhere").or_default();
    let owners = config.owners(listeners.keys().copied());
    assert_eq!(owners.map(|owners| owners.len()), Ok(listeners.len()));
    // Flags and variables change every service.
    let variables = [("WAKEPORT_STOP_TIMEOUT".to_owned(), "7s".to_owned())];
    let config = test_api::file(bytes, &variables).expect("a variable is no mistake");
    for service in &config.services {
        assert_eq!(service.timing.stop_timeout.as_secs(), 7);
    }
}

const EMPTY: &str = "`file.toml` has no service; add a table `[service.NAME]`";

/// Whether it begins with a position in the file.
fn is_within(reason: &str, bytes: &[u8]) -> bool {
    let rest = reason.strip_prefix("file.toml:").unwrap_or_default();
    let mut parts = rest.splitn(3, ':');
    let mut number = || parts.next()?.parse::<usize>().ok();
    let (Some(line), Some(column)) = (number(), number()) else {
        return false;
    };
    let lines: Vec<_> = bytes.split(|&byte| byte == b'\n').collect();
    let length = lines.get(line.wrapping_sub(1)).map(|line| line.len());
    length.is_some_and(|length| (1..=length + 1).contains(&column))
}
