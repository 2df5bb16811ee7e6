//! What each kind of message is called in a log without the journal.

use super::message_id;

/// What a message is called, where its number is not.
pub(super) fn name(id: &str) -> Option<&'static str> {
    Some(match id {
        message_id::WAKING => "waking",
        message_id::AWAKE => "awake",
        message_id::COOLING => "cooling",
        message_id::KEPT_AWAKE => "kept-awake",
        message_id::FROZEN => "frozen",
        message_id::THAWING => "thawing",
        message_id::FREEZE_FAILED => "freeze-failed",
        message_id::THAW_FAILED => "thaw-failed",
        message_id::STOPPING => "stopping",
        message_id::ASLEEP => "asleep",
        message_id::WAKE_FAILED => "wake-failed",
        message_id::WOKEN_TOO_OFTEN => "woken-too-often",
        message_id::SLEEP_FAILED => "sleep-failed",
        message_id::REQUEST => "request",
        message_id::EXITING => "exiting",
        message_id::DRAINING => "draining",
        message_id::HANDED_OVER => "handed-over",
        message_id::TAKEN_OVER => "taken-over",
        message_id::HANDOVER_FAILED => "handover-failed",
        _ => return None,
    })
}
