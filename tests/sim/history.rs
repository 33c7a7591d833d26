//! Is a history of appends and reads of one key linearizable? By Wing and Gong's search, with Lowe's memory of states already
//! tried; keys are judged one by one, as linearizability is local (Herlihy and Wing).
//!
//! The model is the labs' key-value store reduced to what a log offers: `Append(x)` puts x at the end, `Get` returns everything.

use std::collections::HashSet;

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Puts this at the end.
    Append(u64),
    /// Saw all of it. For a read that got no answer, leave the operation out: it changes nothing.
    Get(Vec<u64>),
}

/// One operation, from the call to the answer.
#[derive(Clone, Debug)]
pub struct Operation {
    pub action: Action,
    pub called: u64,
    /// None: no answer came, so it may have taken effect at any time after, or never.
    pub answered: Option<u64>,
}

/// Whether some order of the operations, each between its call and its answer, explains every answer.
pub fn is_linearizable(history: &[Operation]) -> bool {
    let mut operations: Vec<&Operation> = history.iter().collect();
    operations.sort_by_key(|o| o.called);
    let mut reads: Vec<&Vec<u64>> = Vec::new();
    for operation in &operations {
        if let Action::Get(values) = &operation.action {
            reads.push(values);
        }
    }
    reads.sort_by_key(|values| values.len());
    // What is only ever appended to has one past: each read is the beginning of every longer one. The longest then says
    // which append comes where, so that the search does not try all orders of appends that nobody saw apart.
    if reads.windows(2).any(|pair| !pair[1].starts_with(pair[0])) {
        return false;
    }
    let longest = reads.last().map_or(&[][..], |values| values.as_slice());
    let mut done = vec![false; operations.len()];
    let mut seen = HashSet::new();
    search(&operations, longest, &mut done, &mut Vec::new(), &mut seen)
}

/// Tries every operation that may come next: one called before the first answer still outstanding.
fn search(
    operations: &[&Operation],
    longest: &[u64],
    done: &mut Vec<bool>,
    state: &mut Vec<u64>,
    seen: &mut HashSet<(Vec<u64>, Vec<u64>)>,
) -> bool {
    let open = |done: &[bool]| (0..operations.len()).filter(|i| !done[*i]).collect::<Vec<_>>();
    let left = open(done);
    // What got no answer need not have happened.
    if left.iter().all(|i| operations[*i].answered.is_none()) {
        return true;
    }
    if !seen.insert((words(done), state.clone())) {
        return false;
    }
    let limit = left.iter().filter_map(|i| operations[*i].answered).min().unwrap_or(u64::MAX);
    for i in left {
        if operations[i].called > limit {
            break;
        }
        match &operations[i].action {
            Action::Get(values) if values != state => {}
            Action::Get(_) => {
                done[i] = true;
                if search(operations, longest, done, state, seen) {
                    return true;
                }
                done[i] = false;
            }
            Action::Append(value) if longest.get(state.len()).is_some_and(|next| next != value) => {}
            Action::Append(value) => {
                done[i] = true;
                state.push(*value);
                if search(operations, longest, done, state, seen) {
                    return true;
                }
                state.pop();
                done[i] = false;
            }
        }
    }
    false
}

fn words(done: &[bool]) -> Vec<u64> {
    let pack = |chunk: &[bool]| chunk.iter().enumerate().fold(0, |word, (i, on)| word | u64::from(*on) << i);
    done.chunks(64).map(pack).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(value: u64, called: u64, answered: u64) -> Operation {
        Operation { action: Action::Append(value), called, answered: Some(answered) }
    }
    fn lost(value: u64, called: u64) -> Operation {
        Operation { action: Action::Append(value), called, answered: None }
    }
    fn get(values: &[u64], called: u64, answered: u64) -> Operation {
        Operation { action: Action::Get(values.to_vec()), called, answered: Some(answered) }
    }

    #[test]
    fn orderly_and_overlapping_histories_are_linearizable() {
        assert!(is_linearizable(&[]));
        assert!(is_linearizable(&[append(1, 0, 1), get(&[1], 2, 3), append(2, 4, 5), get(&[1, 2], 6, 7)]));
        // Overlapping appends may come in either order, but in one.
        assert!(is_linearizable(&[append(1, 0, 10), append(2, 0, 10), get(&[2, 1], 11, 12)]));
        // A read beside an append may see it or not.
        assert!(is_linearizable(&[append(1, 0, 10), get(&[], 1, 9)]));
        assert!(is_linearizable(&[append(1, 0, 10), get(&[1], 1, 9)]));
        // What got no answer may have happened, or not, or late.
        assert!(is_linearizable(&[lost(1, 0), get(&[], 5, 6), get(&[1], 7, 8)]));
        assert!(is_linearizable(&[lost(1, 0), get(&[], 5, 6)]));
    }

    #[test]
    fn stale_lost_doubled_and_contradictory_reads_are_not() {
        assert!(!is_linearizable(&[append(1, 0, 1), get(&[], 2, 3)]), "stale");
        assert!(!is_linearizable(&[append(1, 0, 1), get(&[1], 2, 3), get(&[], 4, 5)]), "went back");
        assert!(!is_linearizable(&[append(1, 0, 1), append(2, 2, 3), get(&[2, 1], 4, 5)]), "out of order");
        assert!(!is_linearizable(&[append(1, 0, 1), get(&[1, 1], 2, 3)]), "doubled");
        assert!(!is_linearizable(&[get(&[7], 0, 1)]), "nobody wrote it");
        assert!(!is_linearizable(&[lost(1, 10), get(&[1], 0, 5)]), "read before it was written");
        let two = [append(1, 0, 10), append(2, 0, 10), get(&[1, 2], 11, 12), get(&[2, 1], 13, 14)];
        assert!(!is_linearizable(&two), "two orders");
        assert!(!is_linearizable(&[lost(1, 0), get(&[1], 5, 6), get(&[], 7, 8)]), "took effect and vanished");
    }
}
