//! Addresses: the printed form parses to the same value, and an invalid one is rejected in one
//! line.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use wakeport::config::address::{Address, Bound, HttpUrl};
use wakeport::config::{Named, ReadyKind};

pub(super) fn property(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    stays::<Address>(text);
    stays::<Bound>(text);
    url(text);
}

fn stays<T>(text: &str)
where
    T: FromStr<Err = String> + Display + Debug + PartialEq + Clone,
{
    if let Some(value) = read::<T>(text) {
        assert_eq!(value.to_string().parse(), Ok(value), "shown otherwise");
    }
    if let Some(Named { name, value }) = read::<Named<T>>(text) {
        let shown = match &name {
            Some(name) => format!("{name}={value}"),
            None => value.to_string(),
        };
        assert_eq!(shown.parse(), Ok(Named { name, value }), "{shown}");
    }
}

/// A probe is a request of one line to a host that can be dialled.
fn url(text: &str) {
    let Some(url) = read::<HttpUrl>(text) else {
        return;
    };
    assert_eq!(text.parse(), Ok(ReadyKind::Http(url.clone())));
    let breaks = |c: char| c.is_whitespace() || c.is_control();
    assert!(url.path.starts_with('/') && !url.path.contains(breaks));
    let mut authority = String::new();
    if let Some(address) = url.host.clone() {
        authority = address.to_string();
        assert!(!authority.contains(breaks), "{authority:?}");
        assert_eq!(authority.parse(), Ok(address));
    }
    let shown = format!("http://{authority}{}", url.path);
    assert_eq!(shown.parse(), Ok(url), "{shown}");
}

fn read<T: FromStr<Err = String>>(text: &str) -> Option<T> {
    let value = text.parse::<T>();
    if let Err(reason) = &value {
        assert!(
            super::is_one_line(reason) || text.contains(|c: char| c.is_control()),
            "{reason:?}"
        );
    }
    value.ok()
}
