//! The chart, as far as it can be read without Helm; `tests/k8s` renders and installs it.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::repository::{read, repo};

/// What is between two backticks.
fn options(page: &str) -> BTreeSet<String> {
    let codes = page.split('`').skip(1).step_by(2);
    let options = codes.filter_map(|code| code.strip_prefix("--"));
    options
        .map(|option| option.split(' ').next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn the_keys_of_a_service_are_options_of_a_service() {
    let schema = read(&repo("deploy/helm/wakeport/values.schema.json"));
    let schema: Value = serde_json::from_str(&schema).expect("JSON");
    let page = read(&repo("docs/options.md"));
    let table = page
        .split("\n## ")
        .find(|part| part.starts_with("Of a service"));
    let known = options(table.expect("a table"));
    let keys = |keys: &Value| -> BTreeSet<String> {
        keys.as_object().expect("keys").keys().cloned().collect()
    };
    let service = keys(&schema["$defs"]["service"]["properties"]);
    let defaults = keys(&schema["properties"]["defaults"]["properties"]);
    assert!(service.len() > 30, "{service:?}");
    let unknown: Vec<_> = service.difference(&known).collect();
    assert_eq!(unknown, ["listener"], "these are no options");
    // What a service is cannot be for all.
    let own: Vec<_> = service.difference(&defaults).collect();
    assert_eq!(own, ["lease", "listener", "scale", "to"]);
    assert!(defaults.is_subset(&service));
}

#[test]
fn the_image_is_of_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    for (path, line) in [
        (
            "deploy/helm/wakeport/Chart.yaml",
            format!("\nappVersion: {version}\n"),
        ),
        (
            "deploy/helm/wakeport/Chart.yaml",
            format!("\nversion: {version}\n"),
        ),
        (
            "deploy/kustomize/wakeport.yaml",
            format!("/wakeport:{version}\n"),
        ),
        (
            "examples/kubernetes-tcp/kustomization.yaml",
            format!("newTag: {version}\n"),
        ),
        (
            "examples/kubernetes-http/kustomization.yaml",
            format!("newTag: {version}\n"),
        ),
    ] {
        assert!(
            read(&repo(path)).contains(&line),
            "{path}: no `{}`",
            line.trim()
        );
    }
}
