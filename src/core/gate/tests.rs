//! The rules of the word.

use super::*;

#[test]
fn an_open_gate_counts_and_a_closed_one_refuses() {
    let closed = Word::default();
    assert_eq!(closed.enter(), None);
    let open = closed.open();
    let one = open.enter().unwrap().word;
    let two = one.enter().unwrap().word;
    assert_eq!((two.inside(), two.entered()), (2, 2));
    assert_eq!(two.close_empty(), None);
    let left = two.leave(false).word.leave(false).word;
    assert_eq!((left.inside(), left.entered()), (0, 2));
    assert!(!left.close_empty().unwrap().is_open());
}

#[test]
fn counts_wrap_without_touching_each_other() {
    let full = Word(!(INSIDE_MASK | WATCHED));
    let word = full.enter().unwrap().word;
    assert_eq!((word.inside(), word.entered()), (1, 0));
    assert!(word.is_open());
    assert_eq!(full.admit(false).entered(), full.entered());
}

#[test]
fn a_watched_gate_tells_once() {
    let open = Word::default().open().watch();
    let step = open.enter().unwrap();
    assert!(step.tells);
    assert!(!step.word.leave(false).tells);
    assert!(step.word.leave(true).tells, "the last one");
    assert!(step.word.close().leave(false).tells, "the last one");
    assert!(step.word.watch().leave(false).tells);
}
