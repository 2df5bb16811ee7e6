//! Messages of varlink: a JSON object, and a NUL. Pure.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What ends a message.
pub const END: u8 = 0;

/// No request is longer: they name a service and a reason.
pub const LONGEST_CALL: usize = 8 * 1024;

/// Parameters of a call, a reply or an error.
pub type Parameters = Map<String, Value>;

/// A request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// The interface and the method: `io.wakeport.Instance.Hold`.
    pub method: String,
    /// What it is about.
    #[serde(default, deserialize_with = "or_none")]
    pub parameters: Parameters,
    /// No reply is wanted.
    #[serde(default, skip_serializing_if = "is_false")]
    pub oneway: bool,
    /// Several replies are.
    #[serde(default, skip_serializing_if = "is_false")]
    pub more: bool,
    /// The connection is to speak something else afterwards.
    #[serde(default, skip_serializing_if = "is_false")]
    pub upgrade: bool,
}

/// What comes back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// What is wrong, if something is: the interface and the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What was asked for, or more about the error.
    #[serde(default, deserialize_with = "or_none")]
    pub parameters: Parameters,
    /// Another one follows.
    #[serde(default, skip_serializing_if = "is_false")]
    pub continues: bool,
}

fn is_false(it: &bool) -> bool {
    !it
}

/// What is null is as good as missing.
fn or_none<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Parameters, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// A message as it is sent.
pub fn write(message: &impl Serialize) -> Vec<u8> {
    // Fails only for maps whose keys are not strings.
    let mut bytes = serde_json::to_vec(message).unwrap_or_default();
    bytes.push(END);
    bytes
}

/// The first message in these bytes, without its end; `None` if they have no whole one.
pub fn first(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|&byte| byte == END)?;
    Some(&bytes[..end])
}

/// Reads a message; one that is none is not worth a reply.
pub fn read<'a, T: Deserialize<'a>>(message: &'a [u8]) -> Option<T> {
    serde_json::from_slice(message).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_may_leave_out_all_but_its_method() {
        let call = |text: &str| read::<Call>(text.as_bytes());
        let short = call(r#"{"method":"a.b.C"}"#).expect("a call");
        assert_eq!(
            call(r#"{"method":"a.b.C","parameters":null,"more":false,"x":1}"#),
            Some(short.clone())
        );
        assert_eq!(write(&short), b"{\"method\":\"a.b.C\",\"parameters\":{}}\0");
        let deep = format!(
            "{{\"method\":\"a\",\"parameters\":{}",
            "{\"a\":".repeat(4000)
        );
        for wrong in [
            "",
            "[]",
            "{}",
            r#"{"method":1}"#,
            r#"{"method":"a","more":2}"#,
            r#"{"method":"a","parameters":[]}"#,
            "\u{0}",
            &deep,
        ] {
            assert_eq!(call(wrong), None, "{wrong:.40}");
        }
        assert_eq!(read::<Call>(b"{\"method\":\"\xff\"}"), None);
    }

    #[test]
    fn a_message_is_whole_with_its_end() {
        assert_eq!(first(b"{}\0{"), Some(&b"{}"[..]));
        assert_eq!(first(b"\0"), Some(&b""[..]));
        assert_eq!(first(b"{}"), None);
    }
}
