//! The addresses of a Service's ready pods, from its EndpointSlices. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use crate::config::kubernetes::ServicePods;

/// The addresses that these slices have together for a port: a pod that is ready and does not terminate. `number`
/// is the name of the port that the Service has with the number that was given. If the port is not known: why.
pub(super) fn addresses<'a>(
    slices: impl Iterator<Item = &'a Value> + Clone,
    service: &ServicePods,
    number: Option<&str>,
) -> Result<Vec<SocketAddr>, String> {
    let names = slices
        .clone()
        .flat_map(|slice| ports(slice).map(|(name, _)| name));
    let names: BTreeSet<&str> = names.collect();
    let given = number.or(service.port.as_deref());
    let own = service
        .listener
        .as_deref()
        .filter(|own| names.contains(own));
    let wanted = match (given, own, names.len()) {
        (Some(given), _, _) if names.is_empty() || names.contains(given) => given,
        (None, Some(own), _) => own,
        (None, None, 0) => return Ok(Vec::new()),
        (None, None, 1) => names.first().copied().unwrap_or_default(),
        _ => {
            let all: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            let (name, example) = (&service.name, names.first().copied().unwrap_or_default());
            return Err(format!(
                "service `{name}` has the ports {}; name one of them, as in `service/{name}:{example}`",
                all.join(", ")
            ));
        }
    };
    let mut found = BTreeSet::new();
    for slice in slices {
        for (_, port) in ports(slice).filter(|(name, _)| *name == wanted) {
            found.extend(ready(slice).map(|ip| SocketAddr::new(ip, port)));
        }
    }
    Ok(found.into_iter().collect())
}

/// The TCP ports of a slice, each with its name, which may be empty.
fn ports(slice: &Value) -> impl Iterator<Item = (&str, u16)> {
    let ports = slice["ports"].as_array().into_iter().flatten();
    let tcp = ports.filter(|port| matches!(port["protocol"].as_str(), None | Some("TCP")));
    tcp.filter_map(|port| {
        let number = port["port"]
            .as_u64()?
            .try_into()
            .ok()
            .filter(|port| *port > 0)?;
        Some((port["name"].as_str().unwrap_or_default(), number))
    })
}

/// Where the pods of a slice are that are ready. What is not said is so.
fn ready(slice: &Value) -> impl Iterator<Item = IpAddr> {
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    let ready = endpoints.filter(|endpoint| {
        let conditions = &endpoint["conditions"];
        conditions["ready"].as_bool().unwrap_or(true)
            && !conditions["terminating"].as_bool().unwrap_or(false)
    });
    // All addresses of an endpoint are the same pod's, and the first one does (EndpointSlice, v1).
    ready.filter_map(|endpoint| endpoint["addresses"][0].as_str()?.parse().ok())
}

/// The name of the port with this number; it may be empty.
pub(super) fn port_name(service: &Value, number: u16) -> Option<&str> {
    let mut ports = service["spec"]["ports"].as_array()?.iter();
    let port = ports.find(|port| port["port"] == number)?;
    Some(port["name"].as_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(ports: &[(&str, u16)], endpoints: Value) -> Value {
        let ports = ports
            .iter()
            .map(|(name, port)| json!({"name": name, "port": port, "protocol": "TCP"}));
        json!({"ports": ports.collect::<Vec<_>>(), "endpoints": endpoints})
    }

    fn found(
        slices: &[Value],
        service: &str,
        listener: Option<&str>,
    ) -> Result<Vec<String>, String> {
        let service = ServicePods {
            listener: listener.map(str::to_owned),
            ..service.parse().expect(service)
        };
        let found = addresses(slices.iter(), &service, None)?;
        Ok(found.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn slices_are_merged_and_what_terminates_is_left_out() {
        let slices = [
            // The first one of a Service is empty.
            json!({"endpoints": null, "ports": []}),
            slice(
                &[("http", 8080)],
                json!([
                    {"addresses": ["192.0.2.1"], "conditions": {"ready": true}},
                    {"addresses": ["192.0.2.2"], "conditions": {"ready": false}},
                    {"addresses": ["192.0.2.3"], "conditions": {"ready": true, "terminating": true}},
                    {"addresses": ["192.0.2.4", "192.0.2.5"], "conditions": {}},
                ]),
            ),
            slice(
                &[("http", 8081)],
                json!([
                    {"addresses": ["192.0.2.6"]},
                    {"addresses": ["2001:db8::1"]},
                    {"addresses": ["web.example"]},
                    {"addresses": []},
                    7,
                ]),
            ),
            // In two slices while it moves from one to the other.
            slice(&[("http", 8080)], json!([{"addresses": ["192.0.2.1"]}])),
        ];
        let expected = [
            "192.0.2.1:8080",
            "192.0.2.4:8080",
            "192.0.2.6:8081",
            "[2001:db8::1]:8081",
        ];
        assert_eq!(found(&slices, "web", None).unwrap(), expected);
        assert_eq!(found(&slices, "web:http", None).unwrap(), expected);
        assert!(found(&slices, "web:grpc", None).is_err());
        assert_eq!(found(&[], "web:grpc", None), Ok(Vec::new()));
    }

    #[test]
    fn the_port_is_the_one_given_or_the_listener_s_or_the_only_one() {
        let one = json!([{"addresses": ["192.0.2.1"]}]);
        let two = [slice(&[("http", 80), ("grpc", 81)], one.clone())];
        assert_eq!(
            found(&two, "web:grpc", Some("http")).unwrap(),
            ["192.0.2.1:81"]
        );
        assert_eq!(found(&two, "web", Some("http")).unwrap(), ["192.0.2.1:80"]);
        let error = found(&two, "web", Some("other")).expect_err("two ports");
        assert!(
            error.contains("`grpc`, `http`") && error.contains("service/web:grpc"),
            "{error}"
        );
        let unnamed = [slice(&[("", 80)], one)];
        assert_eq!(
            found(&unnamed, "web", Some("other")).unwrap(),
            ["192.0.2.1:80"]
        );
    }

    #[test]
    fn a_number_is_that_of_the_service() {
        let service = json!({"spec": {"ports": [{"name": "http", "port": 80}, {"port": 81}]}});
        assert_eq!(port_name(&service, 80), Some("http"));
        assert_eq!(port_name(&service, 81), Some(""));
        assert_eq!(port_name(&service, 82), None);
        assert_eq!(port_name(&Value::Null, 82), None);
    }
}
