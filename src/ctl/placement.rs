//! Where the replicas of new partitions go: rack-aware, balanced, deterministic from a seed.
//!
//! Not here: whether a topic may be created (`decide`), moving replicas that exist. Called by `decide`; the result is
//! written into the record, so no node ever places twice. Invariants, for any brokers and racks (property-tested):
//! - replicas of a partition are on distinct brokers, and its racks hold them as evenly as their sizes allow;
//! - within the topic, replicas per broker differ by at most one as far as racks allow, and so do preferred leaders;
//!   ties go to the broker with less in all, so totals that were within one of each other stay so;
//! - same arguments, same answer.
//!
//! How: first how many replicas each broker gets (greedy under the rack bounds, which is optimal for nested bounds),
//! then the replicas are laid out broker by broker, rack by rack, over the partitions in turn (McNaughton's wrap-around
//! rule: a broker with at most as many replicas as there are partitions never meets itself). Random swaps that keep
//! every bound then mix who shares partitions with whom, so that the load of a dead broker spreads over all others.
//! Last, leaders: least loaded replica, mended along augmenting paths.
use super::image::{Image, Topic};
use crate::segment::NodeId;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// A broker that may take replicas, and what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The broker.
    pub node: NodeId,
    /// Its rack. Brokers without one share no failure domain with anybody.
    pub rack: Option<String>,
    /// Replicas it has in all.
    pub replicas: usize,
    /// Partitions it is the preferred leader of.
    pub leaders: usize,
    /// Replicas of the topic in question.
    pub topic_replicas: usize,
    /// Partitions of the topic in question it is the preferred leader of.
    pub topic_leaders: usize,
}

/// More replicas were wanted than there are brokers to hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} replicas need as many brokers, {live} are there")]
pub struct Shortage {
    /// Replicas per partition.
    pub wanted: usize,
    /// Candidates.
    pub live: usize,
}

/// The brokers that may get replicas, with what they hold; `topic` = the one that is being extended.
pub fn candidates(image: &Image, topic: Option<&Topic>) -> Vec<Candidate> {
    let mut found: BTreeMap<NodeId, Candidate> = image
        .live_brokers()
        .filter(|b| image.is_open(b))
        .map(|b| {
            let candidate = Candidate {
                node: b.node,
                rack: b.rack.clone(),
                replicas: 0,
                leaders: 0,
                topic_replicas: 0,
                topic_leaders: 0,
            };
            (b.node, candidate)
        })
        .collect();
    for other in image.topics.values() {
        let same = topic.is_some_and(|t| t.id == other.id);
        for partition in &other.partitions {
            for (at, replica) in partition.target().iter().enumerate() {
                let Some(candidate) = found.get_mut(&replica.node) else { continue };
                candidate.replicas += 1;
                candidate.leaders += usize::from(at == 0);
                candidate.topic_replicas += usize::from(same);
                candidate.topic_leaders += usize::from(same && at == 0);
            }
        }
    }
    found.into_values().collect()
}

/// Places `partitions` new partitions with `factor` replicas each; the first of each list is the preferred leader.
///
/// # Errors
/// There are fewer candidates than `factor`, or `factor` is 0.
pub fn place(
    candidates: &[Candidate],
    partitions: usize,
    factor: usize,
    seed: u64,
) -> Result<Vec<Vec<NodeId>>, Shortage> {
    if factor == 0 || factor > candidates.len() {
        return Err(Shortage { wanted: factor, live: candidates.len() });
    }
    let mut random = SplitMix64::new(seed);
    let racks = Racks::new(candidates, factor);
    let totals = replicas_per_broker(candidates, &racks, partitions, factor, &mut random);
    let mut rows = lay_out(&racks, &totals, partitions, factor, &mut random);
    mix(&mut rows, &racks, &mut random);
    lead(&mut rows, candidates, &mut random);
    Ok(rows.into_iter().map(|row| row.into_iter().map(|b| candidates[b].node).collect()).collect())
}

/// Racks as indices, and how many replicas of one partition each must and may hold.
struct Racks {
    /// Candidates of each rack.
    members: Vec<Vec<usize>>,
    /// Rack of each candidate.
    of: Vec<usize>,
    /// Fewest and most replicas of one partition, by rack: as even as the sizes allow.
    bounds: Vec<(usize, usize)>,
}

impl Racks {
    fn new(candidates: &[Candidate], factor: usize) -> Self {
        // A broker without a rack is a rack of its own: nothing is known to take it down together with another.
        let mut named: BTreeMap<(Option<&str>, NodeId), Vec<usize>> = BTreeMap::new();
        for (at, candidate) in candidates.iter().enumerate() {
            let key = match candidate.rack.as_deref() {
                Some(rack) => (Some(rack), NodeId(0)),
                None => (None, candidate.node),
            };
            named.entry(key).or_default().push(at);
        }
        let members: Vec<Vec<usize>> = named.into_values().collect();
        let mut of = vec![0; candidates.len()];
        for (rack, brokers) in members.iter().enumerate() {
            brokers.iter().for_each(|&b| of[b] = rack);
        }
        // Fill all racks to the same level; what is left over goes one each to racks that have room.
        let filled = |level: usize| members.iter().map(|m| m.len().min(level)).sum::<usize>();
        let mut level = 0;
        while level < factor && filled(level + 1) <= factor {
            level += 1;
        }
        let spare = usize::from(filled(level) < factor);
        let bounds = members.iter().map(|m| (m.len().min(level), m.len().min(level + spare))).collect();
        Self { members, of, bounds }
    }
}

/// How many of the new replicas each candidate takes.
fn replicas_per_broker(
    candidates: &[Candidate],
    racks: &Racks,
    partitions: usize,
    factor: usize,
    random: &mut SplitMix64,
) -> Vec<usize> {
    let ties = random.permutation(candidates.len());
    let mut totals = vec![0; candidates.len()];
    let mut per_rack = vec![0; racks.members.len()];
    let key = |b: usize, taken: usize| {
        let c = &candidates[b];
        Reverse((c.topic_replicas + taken, c.replicas + taken, c.leaders, ties[b], b))
    };
    // What a rack must hold comes first, then the rest goes to whoever has least and whose rack has room.
    for (rack, members) in racks.members.iter().enumerate() {
        let mut heap: BinaryHeap<_> = members.iter().map(|&b| key(b, 0)).collect();
        while per_rack[rack] < racks.bounds[rack].0 * partitions {
            let Some(Reverse((.., b))) = heap.pop() else { break };
            totals[b] += 1;
            per_rack[rack] += 1;
            if totals[b] < partitions {
                heap.push(key(b, totals[b]));
            }
        }
    }
    let mut left = partitions * factor - per_rack.iter().sum::<usize>();
    let mut heap: BinaryHeap<_> = (0..candidates.len()).map(|b| key(b, totals[b])).collect();
    while left > 0 {
        let Reverse((.., b)) =
            heap.pop().expect("the upper bounds of the racks add up to at least the factor");
        let rack = racks.of[b];
        if totals[b] < partitions && per_rack[rack] < racks.bounds[rack].1 * partitions {
            totals[b] += 1;
            per_rack[rack] += 1;
            left -= 1;
            heap.push(key(b, totals[b]));
        }
    }
    totals
}

/// Spreads the replicas over the partitions in turn, rack by rack and broker by broker.
fn lay_out(
    racks: &Racks,
    totals: &[usize],
    partitions: usize,
    factor: usize,
    random: &mut SplitMix64,
) -> Vec<Vec<usize>> {
    let mut rows = vec![Vec::with_capacity(factor); partitions];
    let mut at = 0;
    for rack in random.permutation(racks.members.len()) {
        let members = &racks.members[rack];
        for member in random.permutation(members.len()) {
            for _ in 0..totals[members[member]] {
                rows[at % partitions].push(members[member]);
                at += 1;
            }
        }
    }
    rows
}

/// Swaps replicas between partitions at random wherever no bound minds.
fn mix(rows: &mut [Vec<usize>], racks: &Racks, random: &mut SplitMix64) {
    if rows.len() < 2 {
        return;
    }
    let factor = rows[0].len();
    for _ in 0..2 * rows.len() * factor {
        let (p, q) = (random.below(rows.len()), random.below(rows.len()));
        let (i, j) = (random.below(factor), random.below(factor));
        let (x, y) = (rows[p][i], rows[q][j]);
        if p == q || rows[p].contains(&y) || rows[q].contains(&x) {
            continue;
        }
        let (rx, ry) = (racks.of[x], racks.of[y]);
        let holds = |row: &[usize], rack: usize| row.iter().filter(|&&b| racks.of[b] == rack).count();
        let allowed = rx == ry
            || (holds(&rows[p], rx) > racks.bounds[rx].0
                && holds(&rows[q], ry) > racks.bounds[ry].0
                && holds(&rows[q], rx) < racks.bounds[rx].1
                && holds(&rows[p], ry) < racks.bounds[ry].1);
        if allowed {
            rows[p][i] = y;
            rows[q][j] = x;
        }
    }
}

/// Puts a leader first in every partition, so that leaders are as even as the replicas allow.
fn lead(rows: &mut [Vec<usize>], candidates: &[Candidate], random: &mut SplitMix64) {
    let mut load: Vec<(usize, usize)> = candidates.iter().map(|c| (c.topic_leaders, c.leaders)).collect();
    // Partitions led by each broker.
    let mut led: Vec<Vec<usize>> = vec![Vec::new(); candidates.len()];
    for (partition, row) in rows.iter_mut().enumerate() {
        random.shuffle(row);
        let best = (0..row.len()).min_by_key(|&i| load[row[i]]).expect("a factor of at least 1");
        row.swap(0, best);
        move_leader(&mut load, None, row[0]);
        led[row[0]].push(partition);
    }
    // One hand-over can open a way for a broker that was done, so until a whole round finds none.
    while (0..candidates.len()).any(|from| hand_over(rows, &mut led, &mut load, from)) {}
}

/// Hands one leadership of `from` on, if that evens things out.
fn hand_over(
    rows: &mut [Vec<usize>],
    led: &mut [Vec<usize>],
    load: &mut [(usize, usize)],
    from: usize,
) -> bool {
    let Some(path) = relief(rows, led, load, from) else { return false };
    for &(giver, taker, partition) in &path {
        let row = &mut rows[partition];
        let at = row.iter().position(|&b| b == taker).expect("the path follows replicas");
        row.swap(0, at);
        led[giver].retain(|&p| p != partition);
        led[taker].push(partition);
    }
    move_leader(load, Some(from), path.last().expect("a path has a step").1);
    true
}

/// Levels leaders over rows in which the first leads and any may; `led` = partitions each leads in all, these included.
pub(super) fn level_leaders(rows: &mut [Vec<usize>], led: &[usize]) {
    let mut load: Vec<(usize, usize)> = led.iter().map(|led| (*led, *led)).collect();
    let mut by: Vec<Vec<usize>> = vec![Vec::new(); led.len()];
    for (row, members) in rows.iter().enumerate() {
        by[members[0]].push(row);
    }
    while (0..led.len()).any(|from| hand_over(rows, &mut by, &mut load, from)) {}
}

fn move_leader(load: &mut [(usize, usize)], from: Option<usize>, to: usize) {
    if let Some(from) = from {
        load[from].0 -= 1;
        load[from].1 -= 1;
    }
    load[to].0 += 1;
    load[to].1 += 1;
}

/// A way to hand one leadership from `from` to a broker with clearly less, as (giver, taker, partition) steps.
fn relief(
    rows: &[Vec<usize>],
    led: &[Vec<usize>],
    load: &[(usize, usize)],
    from: usize,
) -> Option<Vec<(usize, usize, usize)>> {
    // Every hand-over lowers the sum of squares (of the topic's leaders, then of all), so this ends.
    let better = |to: usize| {
        load[from].0 >= load[to].0 + 2 || (load[from].0 == load[to].0 + 1 && load[from].1 >= load[to].1 + 2)
    };
    if !(0..load.len()).any(better) {
        return None;
    }
    let mut came: Vec<Option<(usize, usize)>> = vec![None; load.len()];
    let mut queue = std::collections::VecDeque::from([from]);
    while let Some(giver) = queue.pop_front() {
        for &partition in &led[giver] {
            for &taker in &rows[partition][1..] {
                if taker == from || came[taker].is_some() {
                    continue;
                }
                came[taker] = Some((giver, partition));
                if better(taker) {
                    let mut path = Vec::new();
                    let mut at = taker;
                    while let Some((giver, partition)) = came[at] {
                        path.push((giver, at, partition));
                        at = giver;
                    }
                    path.reverse();
                    return Some(path);
                }
                queue.push_back(taker);
            }
        }
    }
    None
}

/// SplitMix64: a small seeded generator whose numbers do not change with a crate's version.
pub(super) struct SplitMix64(u64);

impl SplitMix64 {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; the bias of the multiplication is far below anything that matters here.
    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    fn permutation(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        self.shuffle(&mut order);
        order
    }
}
