//! Command lines of hooks: splitting and quoting are inverse.

use wakeport::config::CommandLine;

pub(super) fn property(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    match text.parse::<CommandLine>() {
        Err(reason) => assert!(super::is_one_line(&reason), "{reason:?}"),
        Ok(command) => {
            let CommandLine { program, arguments } = &command;
            assert!(!program.is_empty());
            let words = [program].into_iter().chain(arguments);
            // No argument of a program can hold a NUL, and neither can a variable.
            if let Ok(quoted) = shlex::try_join(words.map(String::as_str)) {
                assert_eq!(quoted.parse(), Ok(command), "{quoted}");
            }
        }
    }
}
