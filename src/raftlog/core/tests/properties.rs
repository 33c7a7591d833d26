//! Quorum arithmetic and the log view against naive models.

use super::super::log::LogView;
use super::super::quorum;
use super::harness::replica;
use crate::raftlog::message::Configuration;
use crate::segment::{EntryKind, EntryMeta, Epoch, Index, LogId, Offset, ReplicaId};
use proptest::prelude::*;

fn half() -> impl Strategy<Value = Vec<ReplicaId>> {
    proptest::collection::btree_set(1..8i32, 1..7).prop_map(|nodes| nodes.into_iter().map(replica).collect())
}

fn configuration() -> impl Strategy<Value = Configuration> {
    (half(), prop_oneof![Just(Vec::new()), half()]).prop_map(|(voters, old_voters)| Configuration {
        voters,
        old_voters,
        learners: vec![replica(9)],
        retired: Vec::new(),
    })
}

/// The definition: more than half of each half.
fn naive_quorum(configuration: &Configuration, yes: &[bool]) -> bool {
    [&configuration.voters, &configuration.old_voters]
        .iter()
        .filter(|half| !half.is_empty())
        .all(|half| 2 * half.iter().filter(|r| yes[r.node.0 as usize]).count() > half.len())
}

proptest! {
    #[test]
    fn quorum_equals_its_definition(configuration in configuration(), yes in proptest::collection::vec(any::<bool>(), 10)) {
        let says = |r: ReplicaId| yes[r.node.0 as usize];
        prop_assert_eq!(quorum::is_quorum(&configuration, says), naive_quorum(&configuration, &yes));
        let others: Vec<bool> = yes.iter().map(|y| !y).collect();
        prop_assert_eq!(quorum::is_lost(&configuration, says), !naive_quorum(&configuration, &others));
    }

    #[test]
    fn two_quorums_of_one_configuration_always_meet(
        configuration in configuration(),
        a in proptest::collection::vec(any::<bool>(), 10),
        b in proptest::collection::vec(any::<bool>(), 10),
    ) {
        let a_wins = quorum::is_quorum(&configuration, |r| a[r.node.0 as usize]);
        let b_wins = quorum::is_quorum(&configuration, |r| b[r.node.0 as usize]);
        if a_wins && b_wins {
            for half in [&configuration.voters, &configuration.old_voters].into_iter().filter(|h| !h.is_empty()) {
                prop_assert!(half.iter().any(|r| a[r.node.0 as usize] && b[r.node.0 as usize]));
            }
        }
    }

    #[test]
    fn reached_is_the_largest_value_a_quorum_has(configuration in configuration(), values in proptest::collection::vec(0..6u64, 10)) {
        let reached = quorum::reached(&configuration, |r| values[r.node.0 as usize]).expect("it has voters");
        for candidate in 0..8 {
            let has: Vec<bool> = values.iter().map(|v| *v >= candidate).collect();
            prop_assert_eq!(naive_quorum(&configuration, &has), candidate <= reached);
        }
    }
}

/// Members of one step of a sequence of configurations: by node, nobody, learner or voter.
fn members() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(0..3u8, 7)
}

/// Whether a set of nodes (bits) is a quorum.
fn decides(configuration: &Configuration, set: u32) -> bool {
    quorum::is_quorum(configuration, |r| set & (1 << r.node.0) != 0)
}

proptest! {
    /// Raft §6: "it is not possible for Cold and Cnew to make unilateral decisions at the same time": any quorum of a
    /// configuration meets any quorum of the one in force before or after it, through whole sequences of changes.
    #[test]
    fn quorums_of_successive_configurations_always_meet(first in half(), steps in proptest::collection::vec(members(), 1..6)) {
        let mut current = Configuration { voters: first, ..Configuration::default() };
        for step in steps {
            let of = |kind: u8| -> Vec<ReplicaId> {
                (1..8).filter(|node| step[*node as usize - 1] == kind).map(replica).collect()
            };
            let (voters, learners) = (of(2), of(1));
            if voters.is_empty() {
                continue;
            }
            let towards = current.towards(voters.clone(), learners);
            let mut chain = vec![current.clone(), towards.clone()];
            if towards.is_joint() {
                prop_assert_eq!(&towards.old_voters, &current.voters);
                chain.push(towards.without_old());
            }
            for pair in chain.windows(2) {
                for (a, b) in (0..256u32).flat_map(|a| [(a, !a & 0xff)]) {
                    // Disjoint sets: complements are the largest such pairs.
                    prop_assert!(!(decides(&pair[0], a) && decides(&pair[1], b)), "{:?} and {:?}", pair, (a, b));
                }
            }
            let last = chain.pop().expect("never empty");
            for gone in current.members().filter(|r| !last.is_member(*r)) {
                prop_assert!(last.is_retired(gone));
            }
            prop_assert_eq!(&last.voters, &voters);
            current = last;
        }
    }

    #[test]
    fn configuration_survives_its_encoding(configuration in configuration(), gone in half()) {
        let configuration = Configuration { retired: gone, ..configuration };
        prop_assert_eq!(Configuration::decode(&configuration.encode()), Some(configuration));
    }
}

/// safety.md F6: an id is never reused, whatever was placed on its node meanwhile.
#[test]
fn former_member_stays_retired_until_placed_anew() {
    let placed = |node: i32, assignment: u64| ReplicaId { assignment, ..replica(node) };
    let mut configuration =
        Configuration { voters: vec![placed(1, 5), placed(2, 5)], ..Configuration::default() };
    configuration = configuration.towards(vec![placed(1, 5)], Vec::new()).without_old();
    assert!(configuration.is_retired(placed(2, 5)) && configuration.is_retired(placed(2, 4)));
    assert!(!configuration.is_retired(placed(2, 6)) && !configuration.is_retired(placed(1, 5)));
    configuration = configuration.towards(vec![placed(1, 5)], vec![placed(2, 9)]);
    configuration = configuration.towards(vec![placed(1, 5)], Vec::new());
    assert!(configuration.is_retired(placed(2, 5)) && configuration.is_retired(placed(2, 9)));
    assert!(!configuration.is_retired(placed(2, 10)));
    assert_eq!(configuration.retired.len(), 1, "one id per node is enough");
    // A wiped directory under the same assignment is another replica, once.
    let wiped = ReplicaId { directory: 7, ..placed(2, 9) };
    assert!(!configuration.is_retired(wiped));
}

#[test]
fn configuration_written_before_ids_were_retired_is_still_read() {
    let bytes = b"\x01{\"voters\":[],\"old_voters\":[],\"learners\":[]}";
    assert_eq!(Configuration::decode(bytes), Some(Configuration::default()));
}

#[test]
fn configuration_without_voters_has_no_quorum() {
    let empty = Configuration::default();
    assert!(!quorum::is_quorum(&empty, |_| true));
    assert_eq!(quorum::reached(&empty, |_| 5u64), None);
}

/// Ten thousand idle groups on a node must not cost more than some megabytes.
#[test]
fn core_of_an_idle_group_stays_below_two_kilobytes() {
    use super::super::leader::Leading;
    use super::super::progress::Progress;
    let fixed = size_of::<super::super::Core>() + size_of::<Leading>();
    let configuration = size_of::<(LogId, Configuration)>() + 3 * size_of::<ReplicaId>();
    let followers = 2 * size_of::<Progress>();
    let runs = 8 * size_of::<(Epoch, Index)>();
    let all = fixed + configuration + followers + runs;
    assert!(all <= 2_048, "{all} bytes");
}

/// A log as a plain list.
#[derive(Default)]
struct Model {
    start: LogId,
    entries: Vec<(EntryMeta, Option<u64>)>,
    base: u64,
    durable: u64,
    commit: u64,
}

impl Model {
    fn last(&self) -> LogId {
        self.entries.last().map_or(self.start, |(meta, _)| meta.id)
    }
    fn id_at(&self, index: Index) -> Option<LogId> {
        let all = std::iter::once(self.start).chain(self.entries.iter().map(|(meta, _)| meta.id));
        all.into_iter().find(|id| id.index == index)
    }
    fn guess(&self, index: Index, epoch: Epoch) -> Option<LogId> {
        if index < self.start.index {
            return None;
        }
        let all = std::iter::once(self.start).chain(self.entries.iter().map(|(meta, _)| meta.id));
        all.into_iter().filter(|id| id.index <= index && id.epoch <= epoch).next_back_by_index()
    }
    fn configuration(&self) -> u64 {
        self.entries.iter().rev().find_map(|(_, tag)| *tag).unwrap_or(self.base)
    }
}

trait NextBack: Iterator<Item = LogId> + Sized {
    fn next_back_by_index(self) -> Option<LogId> {
        self.max_by_key(|id| id.index)
    }
}
impl<I: Iterator<Item = LogId>> NextBack for I {}

/// A configuration that can be told from others.
fn tagged(tag: u64) -> Configuration {
    Configuration { voters: vec![replica(tag as i32)], ..Configuration::default() }
}

#[derive(Clone, Debug)]
enum Step {
    Append { term_step: u64, span: u32, configuration: bool },
    Truncate { back: u64 },
    Durable { back: u64, stale: bool },
    Commit { back: u64 },
    Start { back: u64 },
    Install { ahead: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3u64, 0..4u32, proptest::bool::weighted(0.2))
            .prop_map(|(term_step, span, configuration)| Step::Append { term_step, span, configuration }),
        2 => (0..6u64).prop_map(|back| Step::Truncate { back }),
        2 => (0..4u64, any::<bool>()).prop_map(|(back, stale)| Step::Durable { back, stale }),
        2 => (0..4u64).prop_map(|back| Step::Commit { back }),
        1 => (0..4u64).prop_map(|back| Step::Start { back }),
        1 => (1..9u64).prop_map(|ahead| Step::Install { ahead }),
    ]
}

fn play(log: &mut LogView, model: &mut Model, term: &mut u64, tag: &mut u64, step: &Step) {
    let last = model.last().index.0;
    match *step {
        Step::Append { term_step, span, configuration } => {
            *term += term_step;
            let before = model.last();
            let meta = EntryMeta {
                id: LogId { epoch: Epoch::new(0, *term), index: before.index.next() },
                prev: before.epoch,
                kind: if configuration { EntryKind::Configuration } else { EntryKind::Records },
                base_offset: log.next_offset(),
                offset_span: span,
                payload_len: 1,
            };
            log.append(&meta);
            if configuration {
                *tag += 1;
                log.activate(meta.id, tagged(*tag));
            }
            model.entries.push((meta, configuration.then_some(*tag)));
        }
        Step::Truncate { back } => {
            let from = last.saturating_sub(back).max(model.commit + 1);
            if from <= last {
                let at = (from - model.start.index.0 - 1) as usize;
                let before = model.configuration();
                let offset = model.entries[at].0.base_offset;
                model.entries.truncate(at);
                model.durable = model.durable.min(from - 1);
                let rolled_back = log.truncate(Index(from), offset);
                assert!(rolled_back || model.configuration() == before);
                // A new leader's entries never reuse an identity.
                *term += 1;
            }
        }
        Step::Durable { back, stale } => {
            let index = last.saturating_sub(back).max(model.start.index.0);
            let mut id = model.id_at(Index(index)).expect("within the log");
            if stale {
                id.epoch.term.0 += 1_000;
                assert!(!log.set_durable(id), "an entry that is not in the log became durable");
            } else {
                log.set_durable(id);
                model.durable = model.durable.max(index);
            }
        }
        Step::Commit { back } => {
            let index = last.saturating_sub(back).max(model.start.index.0);
            log.set_commit(Index(index));
            model.commit = model.commit.max(index);
        }
        Step::Start { back } => {
            let index = model.commit.saturating_sub(back);
            if index > model.start.index.0 {
                let start = model.id_at(Index(index)).expect("committed");
                let at = (index - model.start.index.0) as usize;
                model.base = model.entries[..at].iter().rev().find_map(|(_, tag)| *tag).unwrap_or(model.base);
                model.entries.drain(..at);
                model.start = start;
                log.advance_start(start, (LogId::default(), tagged(model.base)));
            }
        }
        Step::Install { ahead } => {
            *term += 1;
            *tag += 1;
            let start = LogId { epoch: Epoch::new(0, *term), index: Index(last + ahead) };
            *model = Model { start, base: *tag, commit: start.index.0, ..Model::default() };
            log.install(start, Offset(1_000), (LogId::default(), tagged(*tag)));
        }
    }
}

proptest! {
    #[test]
    fn log_view_equals_a_plain_list(steps in proptest::collection::vec(step(), 1..60)) {
        let mut log = LogView::new(LogId::default(), Offset(0), (LogId::default(), tagged(0)));
        let mut model = Model::default();
        let (mut term, mut tag) = (1, 0);
        for step in &steps {
            play(&mut log, &mut model, &mut term, &mut tag, step);
            prop_assert_eq!(log.last(), model.last());
            prop_assert_eq!(log.start(), model.start);
            prop_assert_eq!(log.durable(), Index(model.durable));
            prop_assert_eq!(log.commit(), Index(model.commit));
            prop_assert_eq!(log.configuration().0, &tagged(model.configuration()));
            if let Some((meta, _)) = model.entries.last() {
                prop_assert_eq!(log.next_offset(), meta.next_offset());
            }
            for index in 0..model.last().index.0 + 3 {
                prop_assert_eq!(log.id_at(Index(index)), model.id_at(Index(index)), "at {}", index);
                for asked in [0, term / 2, term, term + 1] {
                    let epoch = Epoch::new(0, asked);
                    prop_assert_eq!(log.guess(Index(index), epoch), model.guess(Index(index), epoch));
                }
            }
        }
    }
}

/// Found by the cluster simulation once members changed: retention moved the log start behind the entry of the configuration in force, and the
/// state kept for the log start still named the one the group was founded with. The replica forgot its voters: nothing was committed any more.
#[test]
fn log_that_begins_behind_a_configuration_keeps_it() {
    let mut log = LogView::new(LogId::default(), Offset(0), (LogId::default(), tagged(0)));
    for index in 1..=6 {
        let id = LogId::new(0, 1, index);
        let meta = EntryMeta {
            id,
            prev: log.last().epoch,
            kind: EntryKind::Configuration,
            base_offset: Offset(0),
            offset_span: 0,
            payload_len: 0,
        };
        log.append(&meta);
        if index % 2 == 0 {
            log.activate(id, tagged(index));
        }
    }
    log.set_commit(Index(6));
    assert_eq!(log.configuration_at(Index(1)), (&tagged(0), LogId::default()));
    assert_eq!(log.configuration_at(Index(5)), (&tagged(4), LogId::new(0, 1, 4)));
    for start in 1..=6 {
        let (configuration, id) = log.configuration_at(Index(start));
        let base = (id, configuration.clone());
        log.advance_start(LogId::new(0, 1, start), base);
        assert_eq!(log.configuration(), (&tagged(6), LogId::new(0, 1, 6)));
    }
}
