//! Searches for an input that breaks the property in `FUZZ_PROPERTY`. `run`, beside this file,
//! builds it with the instrumentation of libFuzzer, and starts it.

#![no_main]

mod properties;

use std::sync::LazyLock;

use properties::{PROPERTIES, Property};

static PROPERTY: LazyLock<Property> = LazyLock::new(|| {
    let wanted = std::env::var("FUZZ_PROPERTY").unwrap_or_default();
    let mut all = PROPERTIES.iter();
    let found = all.find(|(name, _)| *name == wanted);
    found.expect("FUZZ_PROPERTY names a property").1
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| PROPERTY(bytes));
