//! What comes to the control socket, and what comes back.

use wakeport::control::interface::{Error, Request, Verb};
use wakeport::control::message::{self, Call, Reply};

pub(super) fn property(bytes: &[u8]) {
    super::is_the_same_in_pieces(bytes, |bytes| message::first(bytes).map(<[u8]>::to_vec));
    let message = message::first(bytes).unwrap_or(bytes);
    if let Some(call) = message::read::<Call>(message) {
        let written = message::write(&call);
        let again = message::first(&written).and_then(message::read::<Call>);
        assert_eq!(again.as_ref(), Some(&call), "written and read again");
        match Request::read(call) {
            Ok(Request::Known(_)) => (),
            Ok(Request::Of(_, verb)) => {
                if let Verb::Hold { reason, .. } = verb {
                    assert!(
                        reason.is_empty() || super::is_one_line(&reason),
                        "{reason:?}"
                    );
                }
            }
            Err(error) => {
                let reply = Reply::from(error.clone());
                // What is shown of it is one line; the rest is as it was.
                let told = Error::of(&reply);
                assert!(told.is_some(), "{reply:?}");
            }
        }
    }
    if let Some(reply) = message::read::<Reply>(message) {
        let written = message::write(&reply);
        let again = message::first(&written).and_then(message::read::<Reply>);
        assert_eq!(again.as_ref(), Some(&reply), "written and read again");
        match Error::of(&reply) {
            Some(
                Error::Failed(text)
                | Error::InUse(text)
                | Error::Ended(text)
                | Error::InvalidParameter(text),
            ) => assert!(!text.contains(|c: char| c.is_control()), "{text:?}"),
            Some(
                Error::NoInterface(_)
                | Error::NoMethod(_)
                | Error::NoSuchService(_)
                | Error::AlreadyHeld
                | Error::TooManyConnections,
            )
            | None => (),
        }
    }
}
