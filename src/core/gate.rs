//! The gate of a target, by which connections enter and leave without a message: the rules of one
//! 64-bit word.

use std::time::Instant;

/// The state of a gate.
///
/// Bit 0: open. Bit 1: the next change is told. Bits 2 to 32: connections inside. Bits 33 to 63:
/// connections that have ever entered, modulo 2^31.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Word(pub u64);

const OPEN: u64 = 1;
const WATCHED: u64 = 1 << 1;
const INSIDE: u64 = 1 << 2;
const INSIDE_MASK: u64 = 0x7fff_ffff << 2;
const ENTERED: u64 = 1 << 33;

/// What a step makes of the word, and whether the service has to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The word after it.
    pub word: Word,
    /// Whether the service is told.
    pub tells: bool,
}

impl Word {
    /// Whether connections enter without asking.
    pub fn is_open(self) -> bool {
        self.0 & OPEN != 0
    }

    /// How many connections are inside.
    pub fn inside(self) -> usize {
        ((self.0 & INSIDE_MASK) / INSIDE) as usize
    }

    /// How many connections have ever entered, modulo 2^31.
    pub fn entered(self) -> u32 {
        (self.0 / ENTERED) as u32
    }

    /// A connection enters, if the gate is open.
    pub fn enter(self) -> Option<Step> {
        self.is_open().then(|| self.changed(self.admit(true)))
    }

    /// The service lets a connection in, open or not; `counted` unless it was inside before.
    pub fn admit(self, counted: bool) -> Self {
        let entered = if counted { ENTERED } else { 0 };
        Self((self.0 + INSIDE).wrapping_add(entered))
    }

    /// A connection leaves. The last one is told if the gate is closed, or with `tell_last`.
    pub fn leave(self, tell_last: bool) -> Step {
        let left = Self(self.0 - INSIDE);
        let mut step = self.changed(left);
        step.tells |= left.inside() == 0 && (tell_last || !self.is_open());
        step
    }

    /// The gate opens.
    pub fn open(self) -> Self {
        Self(self.0 | OPEN)
    }

    /// The gate closes, with connections inside or not.
    pub fn close(self) -> Self {
        Self(self.0 & !OPEN)
    }

    /// The gate closes unless a connection is inside.
    pub fn close_empty(self) -> Option<Self> {
        (self.inside() == 0).then(|| self.close())
    }

    /// The next connection that enters or leaves is told.
    pub fn watch(self) -> Self {
        Self(self.0 | WATCHED)
    }

    /// The word after a change, of which the service is told once if it watches.
    fn changed(self, to: Self) -> Step {
        Step {
            word: Self(to.0 & !WATCHED),
            tells: self.0 & WATCHED != 0,
        }
    }
}

/// What the gates of all targets of a service say, taken together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Connections inside.
    pub inside: usize,
    /// Connections that have ever entered, modulo 2^31.
    pub entered: u32,
    /// When a connection left last.
    pub left_at: Option<Instant>,
}

impl Occupancy {
    /// The sum of `words`.
    pub fn of(words: impl IntoIterator<Item = Word>, left_at: Option<Instant>) -> Self {
        let none = Self {
            left_at,
            ..Self::default()
        };
        words.into_iter().fold(none, |sum, word| Self {
            inside: sum.inside + word.inside(),
            entered: sum.entered.wrapping_add(word.entered()),
            left_at,
        })
    }
}

#[cfg(test)]
mod tests;
