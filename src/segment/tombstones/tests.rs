//! The rules of decision 0022: one by one, in random worlds, and in the schedules that the decision tells.

pub(crate) mod random;
pub(crate) mod schedules;
mod world;

use super::*;

fn of(clean: i64, dropped: i64) -> Cleaned {
    Cleaned { clean: Offset(clean), dropped: Offset(dropped) }
}

fn file(start: i64, end: i64) -> Range<Offset> {
    Offset(start)..Offset(end)
}

#[test]
fn cut_says_that_what_was_removed_because_of_the_rest_is_missing() {
    let cut = |mut cleaned: Cleaned, end| {
        cleaned.cut(Offset(end));
        cleaned
    };
    assert_eq!(cut(of(40, 10), 50), of(40, 10), "nothing was removed because of what is cut");
    assert_eq!(cut(of(40, 10), 40), of(40, 10));
    assert_eq!(cut(of(40, 10), 30), of(30, 30));
    assert_eq!(cut(of(40, 35), 30), of(30, 30));
    assert_eq!(cut(of(20, 35), 30), of(20, 30), "what was missing behind is no matter of this log any more");
    assert_eq!(Cleaned::starting_at(Offset(7)), of(7, 0));
}

#[test]
fn append_over_what_is_missing_is_taken_only_where_what_was_deleted_cannot_be() {
    let (one, two) = (Epoch::new(0, 1), Epoch::new(0, 2));
    let may = |at, epoch, dropped, brought| may_append(Offset(at), epoch, Offset(dropped), false, brought);
    let after = |before, epoch, at, leader| Some(Brought::after(before, epoch, Offset(at), leader));
    // Nothing is known of the log.
    assert!(may(60, one, 60, None));
    assert!(!may(59, one, 60, None));
    assert!(may_append(Offset(0), one, Offset(60), true, None));
    // It came from one leader, as clean as that.
    let clean = after(None, one, 0, Some(of(80, 60)));
    assert!(may(40, two, 80, clean));
    assert!(!may(40, two, 81, clean));
    // It came from one leader that is not clean, and misses what it did, or more.
    let unclean = after(None, one, 0, Some(of(20, 60)));
    assert!(may(40, one, 60, unclean));
    assert!(!may(40, one, 61, unclean));
    assert!(!may(40, two, 60, unclean));
    // A second one is less clean, or gives from further on.
    let second = after(clean, two, 40, Some(of(50, 10)));
    assert!(may(45, two, 50, second));
    assert!(!may(45, two, 51, second));
    assert!(!may(45, one, 60, second), "not of one leader any more");
    let nothing_said = after(clean, two, 70, None);
    assert_eq!(nothing_said.map(|brought| brought.clean_to(Offset(75))), Some(Offset(70)));
    assert_eq!(
        clean.map(|brought| brought.clean_to(Offset(30))),
        Some(Offset(30)),
        "no further than the log"
    );
    let mut taker = of(10, 0);
    taker.appended(of(30, 60), Offset(50));
    assert_eq!(taker, of(30, 50), "no further than the log");
    taker.appended(of(20, 40), Offset(70));
    assert_eq!(taker, of(30, 50));
}

#[test]
fn repair_takes_what_fits_together() {
    // Nothing is missing anywhere.
    assert!(of(0, 0).may_mend(file(10, 50), of(0, 0)));
    // Tombstones are missing there, and what they deleted may be here; in the file or before it.
    assert!(!of(39, 0).may_mend(file(10, 50), of(90, 40)));
    assert!(of(40, 0).may_mend(file(10, 50), of(90, 40)));
    assert!(of(0, 0).may_mend(file(40, 50), of(90, 40)));
    assert!(of(50, 0).may_mend(file(10, 50), of(90, 80)), "those behind the file are not taken from there");
    // Tombstones are missing here, and what they deleted may come from there.
    assert!(!of(90, 60).may_mend(file(10, 50), of(59, 0)));
    assert!(of(90, 60).may_mend(file(10, 50), of(60, 0)));
    assert!(of(90, 60).may_mend(file(60, 70), of(0, 0)));
    assert_eq!(of(90, 60).needs_of_source(file(10, 50)), Some(Offset(60)));
    assert_eq!(of(90, 60).needs_of_source(file(60, 70)), None);
}

/// `v` of one copy and what is left of `t` of another, both into the same file of a replica that is clean and has dropped nothing.
#[test]
fn repair_takes_no_pieces_of_two_copies_that_do_not_fit_together() {
    let (here, old, new) = (of(100, 0), of(0, 0), of(100, 60));
    assert!(here.may_mend(file(10, 80), old));
    assert!(here.may_mend(file(10, 80), new));
    assert!(!here.may_mend(file(10, 80), old.joined(new)));
    assert!(here.may_mend(file(60, 80), old.joined(new)));
}

/// (c, d) of a copy of another log: a tombstone that was replaced there by a record that is not here may be missing.
#[test]
fn copy_of_another_log_gives_only_what_it_never_cleaned() {
    let other = of(50, 20).of_another_log();
    assert_eq!(other, of(0, 50));
    assert!(!of(0, 0).may_mend(file(30, 80), other));
    assert!(of(0, 0).may_mend(file(50, 80), other));
    assert!(!of(90, 60).may_mend(file(50, 80), other));
}

#[test]
fn mended_file_is_as_clean_as_what_came_into_it() {
    let mended = |mut cleaned: Cleaned, range: Range<Offset>, source| {
        cleaned.mended(range, source);
        cleaned
    };
    assert_eq!(mended(of(100, 0), file(10, 80), of(50, 0)), of(50, 0));
    assert_eq!(mended(of(100, 0), file(60, 80), of(50, 0)), of(60, 0), "before the file nothing has changed");
    assert_eq!(mended(of(40, 0), file(60, 80), of(50, 0)), of(40, 0), "no repair makes clean");
    assert_eq!(mended(of(100, 30), file(10, 80), of(100, 90)), of(100, 80));
}

#[test]
fn pass_raises_what_it_has_done_and_drops_what_everybody_had_cleaned() {
    let mut cleaned = of(40, 10);
    cleaned.cleaned_to(Offset(30));
    cleaned.drops_to(Offset(5));
    assert_eq!(cleaned, of(40, 10));
    cleaned.cleaned_to(Offset(60));
    cleaned.drops_to(Offset(40));
    assert_eq!(cleaned, of(60, 40));
    assert!(may_drop(Offset(40), Offset(40), Offset(40), false));
    assert!(!may_drop(Offset(41), Offset(40), Offset(50), false), "learned in this pass, or half of it");
    assert!(!may_drop(Offset(41), Offset(50), Offset(40), false), "somebody may hold what they deleted");
    assert!(
        !may_drop(Offset(40), Offset(50), Offset(50), true),
        "what they deleted may be in what nobody read"
    );
}
