//! The limit on open files: every client costs two, so we take all that we may have. Our
//! children get back what we had, since some still keep their files in sets of 1,024.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The soft limit on open files. `u64::MAX` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// As we found it, and as our children get it.
    pub original: u64,
    /// As it is now.
    pub raised: u64,
}

/// Raises the soft limit on open files to the hard one.
pub fn raise_open_files() -> io::Result<OpenFiles> {
    let limit = getrlimit(Resource::Nofile);
    let (original, raised) = (number(limit.current), number(limit.maximum));
    set_open_files(raised)?;
    Ok(OpenFiles { original, raised })
}

/// Sets the soft limit on open files, as far as the hard one allows.
pub fn set_open_files(soft: u64) -> io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = soft.min(number(maximum));
    let current = (current < u64::MAX).then_some(current);
    Ok(setrlimit(Resource::Nofile, Rlimit { current, maximum })?)
}

fn number(limit: Option<u64>) -> u64 {
    limit.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_reaches_the_hard_one() {
        let before = getrlimit(Resource::Nofile);
        let limits = raise_open_files().expect("raising is always allowed");
        let after = getrlimit(Resource::Nofile);
        assert_eq!(limits.original, number(before.current));
        assert_eq!(
            (limits.raised, after.current),
            (number(before.maximum), before.maximum)
        );
        assert_eq!(after.maximum, before.maximum);
    }
}
