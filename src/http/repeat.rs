//! Whether a request without a response is sent once more, and when. Pure.

use std::time::Duration;

/// How long the sockets of a process that is killed may take to close, one after the other: its listener
/// takes connections until its turn comes.
pub const DYING: Duration = Duration::from_millis(250);

/// How a request was sent that had no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Over a connection that was open already, so that the target may only have closed that.
    Reused,
    /// Over a connection of its own: the target may be about to end.
    Fresh,
}

/// How often a request was sent without a response.
#[derive(Clone, Copy, Debug, Default)]
pub struct Repeats {
    /// It was sent at all.
    pub was_sent: bool,
    was_sent_fresh: bool,
}

impl Repeats {
    /// The pause after which it is sent once more; `None` if it is not. It `may` be if the target has
    /// seen nothing of it, or does not mind to see it twice.
    pub fn again(&mut self, sent: Sent, may: bool) -> Option<Duration> {
        let is_first = match sent {
            Sent::Reused => !self.was_sent,
            Sent::Fresh => !self.was_sent_fresh,
        };
        self.was_sent = true;
        self.was_sent_fresh |= sent == Sent::Fresh;
        (may && is_first).then_some(match sent {
            Sent::Reused => Duration::ZERO,
            Sent::Fresh => DYING,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_sent_once_more_for_each_kind_of_connection() {
        let mut repeats = Repeats::default();
        assert_eq!(repeats.again(Sent::Reused, true), Some(Duration::ZERO));
        assert_eq!(repeats.again(Sent::Fresh, true), Some(DYING));
        assert_eq!(repeats.again(Sent::Fresh, true), None);
        assert_eq!(repeats.again(Sent::Reused, true), None);
        let mut repeats = Repeats::default();
        assert_eq!(repeats.again(Sent::Fresh, true), Some(DYING));
        assert_eq!(repeats.again(Sent::Reused, true), None);
        for sent in [Sent::Reused, Sent::Fresh] {
            let mut repeats = Repeats::default();
            assert_eq!(repeats.again(sent, false), None);
            assert!(repeats.was_sent);
        }
    }
}
