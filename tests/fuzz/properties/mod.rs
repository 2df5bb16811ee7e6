//! Properties that hold for every input: a function for each kind. The fuzzer (../engine.rs)
//! searches for an input that breaks one; `cargo test` runs the kept inputs (../corpus) as well.

mod addresses;
mod answers;
mod calls;
mod chunks;
mod client_hellos;
mod commands;
mod files;
mod handovers;
mod lifecycles;
mod listeners;
mod networks;
mod patterns;
mod proxy_headers;
mod records;
mod requests;
mod services;
mod setups;
mod spans;
mod units;

use wakeport::core::lifecycle::Phase;

/// Panics if the property does not hold for these bytes.
pub(super) type Property = fn(&[u8]);

/// All of them, by the names of their corpora.
pub(super) const PROPERTIES: [(&str, Property); 19] = [
    ("addresses", addresses::property),
    ("answers", answers::property),
    ("calls", calls::property),
    ("chunks", chunks::property),
    ("client_hellos", client_hellos::property),
    ("commands", commands::property),
    ("files", files::property),
    ("handovers", handovers::property),
    ("lifecycles", lifecycles::property),
    ("listeners", listeners::property),
    ("networks", networks::property),
    ("patterns", patterns::property),
    ("proxy_headers", proxy_headers::property),
    ("records", records::property),
    ("requests", requests::property),
    ("services", services::property),
    ("setups", setups::property),
    ("spans", spans::property),
    ("units", units::property),
];

/// What a backend sees of a service: by the bits 0, 1 and 3.
fn phase(value: u8) -> Phase {
    match value & 0b1011 {
        0b1000 => Phase::Frozen,
        bits => [Phase::Up, Phase::Starting, Phase::Stopping, Phase::Down][usize::from(bits & 3)],
    }
}

/// Whether this is one printable line.
fn is_one_line(text: &str) -> bool {
    !text.trim().is_empty() && !text.contains(|c: char| c.is_control())
}

/// The first verdict over a growing beginning of `bytes` is the verdict over all that are longer:
/// where the pieces end that a network makes of them changes nothing.
fn is_the_same_in_pieces<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    verdict: impl Fn(&[u8]) -> Option<T>,
) {
    let whole = verdict(bytes);
    for end in 0..bytes.len() {
        let part = verdict(&bytes[..end]);
        assert!(
            part.is_none() || part == whole,
            "{part:?} after {end} bytes, {whole:?} after {}",
            bytes.len()
        );
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::panic::catch_unwind;
    use std::path::Path;

    use super::PROPERTIES;

    #[test]
    fn hold_for_every_input_that_is_kept() {
        let mut broken = Vec::new();
        for (name, property) in PROPERTIES {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/fuzz/corpus")
                .join(name);
            let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{name}: {error}"));
            let mut count = 0;
            for path in files.map(|file| file.unwrap().path()) {
                count += 1;
                let bytes = fs::read(&path).unwrap();
                if catch_unwind(|| property(&bytes)).is_err() {
                    broken.push(path);
                }
            }
            assert!(count > 0, "nothing is kept for {name}");
        }
        assert!(broken.is_empty(), "broken by {broken:#?}");
    }
}
