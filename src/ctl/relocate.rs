//! Which replicas should be on other brokers: the one planner of replacement, decommissioning and rebalancing.
//!
//! In: brokers, and where replicas are. Out: new replica lists of the partitions that change. Pure, deterministic. Not here: new
//! partitions (`placement`), what may be planned for now (`replace`), the moving (`reassign`, `members`). Called by `replace`, and by the
//! commands with what a cluster says of itself. Invariants, for any brokers and racks (property-tested):
//! - [`vacate`] moves replicas of lost brokers only; [`rebalance`] only those on brokers that take replicas, each to such a broker;
//! - no rack holds more of a partition than it must: a moved replica's rack is one with the fewest of the others among all that could
//!   take it;
//! - level: what may move leaves no broker with two replicas, or two preferred leaders, more than another that could have taken one, be
//!   it along a chain of moves;
//! - least movement: where nothing is crowded or uneven nothing moves, and a chain is taken only where no single move would do.
//!
//! How: the places that may move are mended rack by rack, then along augmenting paths from crowded to empty brokers. Each mend lowers
//! the number of pairs that share a rack, each path the sum of squares of what brokers hold, neither raises the other, so it ends.

use super::placement;
use crate::segment::NodeId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Its rack. Brokers without one share no failure domain with anybody.
    pub rack: Option<String>,
    /// It may get replicas and leaderships: it is live, and not drained.
    pub takes: bool,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Number of its topic: where there is a choice, a topic's replicas are spread too.
    pub topic: usize,
    /// Brokers of its replicas, preferred leader first.
    pub nodes: Vec<NodeId>,
    /// It is counted and left alone: it moves already, say.
    pub stays: bool,
}

/// Moves that the best is chosen from: with tens of thousands of partitions all that there are would be too many.
const CHOICE: usize = 256;

/// New replica lists, by the number of the row.
pub type Plan = BTreeMap<usize, Vec<NodeId>>;

/// Replaces the replicas on these brokers in at most so many partitions, those with the fewest others first. What nobody could take
/// stays where it is.
pub fn vacate(sites: &BTreeMap<NodeId, Site>, rows: &[Row], lost: &BTreeSet<NodeId>, limit: usize) -> Plan {
    let mut layout = Layout::new(sites, rows, lost);
    let is_lost: Vec<bool> = layout.ids.iter().map(|node| lost.contains(node)).collect();
    let takers: Vec<usize> = layout.takers().collect();
    let mut due: Vec<(usize, usize)> = Vec::new();
    for (at, line) in layout.lines.iter().enumerate() {
        let left = line.nodes.iter().filter(|node| !is_lost[**node]).count();
        let is_helped = takers.iter().any(|taker| !line.nodes.contains(taker));
        if !line.stays && left < line.nodes.len() && is_helped {
            due.push((left, at));
        }
    }
    due.sort_unstable();
    due.truncate(limit);
    let mut headless = Vec::new();
    for (_, at) in due {
        for place in 0..layout.lines[at].nodes.len() {
            if is_lost[layout.lines[at].nodes[place]] {
                layout.fill(at, place);
            }
        }
        if is_lost[layout.lines[at].origin[0]] {
            headless.push(at);
        }
        layout.mend(at);
    }
    layout.level();
    layout.elect(&headless);
    layout.plan()
}

/// Levels replicas and preferred leaders over all brokers that take any.
pub fn rebalance(sites: &BTreeMap<NodeId, Site>, rows: &[Row]) -> Plan {
    let mut layout = Layout::new(sites, rows, &BTreeSet::new());
    for at in 0..layout.lines.len() {
        if layout.lines[at].stays {
            continue;
        }
        for place in 0..layout.lines[at].nodes.len() {
            layout.free(at, place);
        }
        layout.mend(at);
    }
    layout.level();
    let led: Vec<usize> = (0..layout.lines.len()).filter(|at| !layout.lines[*at].stays).collect();
    layout.elect(&led);
    layout.plan()
}

struct Line {
    topic: usize,
    nodes: Vec<usize>,
    origin: Vec<usize>,
    /// Places that may move.
    free: Vec<bool>,
    stays: bool,
}

/// Everything by index.
struct Layout {
    ids: Vec<NodeId>,
    racks: Vec<usize>,
    takes: Vec<bool>,
    lines: Vec<Line>,
    /// Replicas of each broker.
    held: Vec<usize>,
    /// The same by topic.
    spread: Vec<BTreeMap<usize, usize>>,
    /// Places that may move, by the broker they are on.
    on: Vec<BTreeSet<(usize, usize)>>,
    /// Where the last one that moved from each broker stood: the next is looked for from there.
    next: Vec<(usize, usize)>,
}

impl Layout {
    fn new(sites: &BTreeMap<NodeId, Site>, rows: &[Row], lost: &BTreeSet<NodeId>) -> Self {
        let mut all: BTreeSet<NodeId> = sites.keys().copied().collect();
        all.extend(rows.iter().flat_map(|row| &row.nodes));
        let ids: Vec<NodeId> = all.into_iter().collect();
        let at: BTreeMap<NodeId, usize> = ids.iter().enumerate().map(|(at, node)| (*node, at)).collect();
        let mut named: BTreeMap<&str, usize> = BTreeMap::new();
        let mut racks = Vec::with_capacity(ids.len());
        for (own, node) in ids.iter().enumerate() {
            let rack = sites.get(node).and_then(|site| site.rack.as_deref());
            racks.push(rack.map_or(own, |rack| *named.entry(rack).or_insert(own)));
        }
        let takes =
            ids.iter().map(|node| sites.get(node).is_some_and(|s| s.takes) && !lost.contains(node)).collect();
        let mut held = vec![0; ids.len()];
        let mut spread = vec![BTreeMap::new(); ids.len()];
        let mut lines = Vec::with_capacity(rows.len());
        for row in rows {
            let nodes: Vec<usize> = row.nodes.iter().map(|node| at[node]).collect();
            for node in &nodes {
                held[*node] += 1;
                *spread[*node].entry(row.topic).or_insert(0) += 1;
            }
            let free = vec![false; nodes.len()];
            lines.push(Line { topic: row.topic, origin: nodes.clone(), nodes, free, stays: row.stays });
        }
        let on = vec![BTreeSet::new(); ids.len()];
        let next = vec![(0, 0); ids.len()];
        Self { ids, racks, takes, lines, held, spread, on, next }
    }

    fn takers(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.ids.len()).filter(|node| self.takes[*node])
    }

    /// A replica on a broker that takes any may move to another one.
    fn free(&mut self, row: usize, place: usize) {
        let node = self.lines[row].nodes[place];
        if self.takes[node] {
            self.lines[row].free[place] = true;
            self.on[node].insert((row, place));
        }
    }

    /// Gives a place to whom it suits best, if there is anyone.
    fn fill(&mut self, row: usize, place: usize) {
        let line = &self.lines[row];
        let key = |node: &usize| {
            (self.crowd(row, place, *node), self.held[*node], self.of_topic(*node, row), *node)
        };
        let best = self.takers().filter(|node| !line.nodes.contains(node)).min_by_key(key);
        if let Some(best) = best {
            self.put(row, place, best);
            self.free(row, place);
        }
    }

    /// Other replicas of the partition in this broker's rack.
    fn crowd(&self, row: usize, place: usize, node: usize) -> usize {
        let others = self.lines[row].nodes.iter().enumerate().filter(|(at, _)| *at != place);
        others.filter(|(_, other)| self.racks[**other] == self.racks[node]).count()
    }

    fn of_topic(&self, node: usize, row: usize) -> usize {
        self.spread[node].get(&self.lines[row].topic).copied().unwrap_or(0)
    }

    fn put(&mut self, row: usize, place: usize, to: usize) {
        let line = &mut self.lines[row];
        let from = std::mem::replace(&mut line.nodes[place], to);
        self.held[from] -= 1;
        self.held[to] += 1;
        *self.spread[from].entry(line.topic).or_insert(1) -= 1;
        *self.spread[to].entry(line.topic).or_insert(0) += 1;
        if self.on[from].remove(&(row, place)) {
            self.on[to].insert((row, place));
        }
    }

    /// Replicas that this makes move, against before: one is new to a broker, or home again.
    fn cost(&self, row: usize, from: usize, to: usize) -> isize {
        let origin = &self.lines[row].origin;
        isize::from(origin.contains(&from)) - isize::from(origin.contains(&to))
    }

    /// Spreads what may move of a partition over racks.
    fn mend(&mut self, row: usize) {
        loop {
            let line = &self.lines[row];
            let mut best: Option<((usize, usize, usize), usize, usize)> = None;
            for place in (0..line.nodes.len()).filter(|place| line.free[*place]) {
                let from = line.nodes[place];
                let crowd = self.crowd(row, place, from);
                for to in self.takers().filter(|to| crowd > 0 && !line.nodes.contains(to)) {
                    let other = self.crowd(row, place, to);
                    let key = (crowd.saturating_sub(other), self.held[from], usize::MAX - self.held[to]);
                    if other < crowd && best.is_none_or(|(known, ..)| key > known) {
                        best = Some((key, place, to));
                    }
                }
            }
            let Some((_, place, to)) = best else { return };
            self.put(row, place, to);
        }
    }

    /// Levels what brokers hold, from whoever holds most.
    fn level(&mut self) {
        loop {
            let mut order: Vec<usize> = self.takers().collect();
            order.sort_by_key(|node| std::cmp::Reverse(self.held[*node]));
            let path = order.iter().find_map(|from| self.single(*from)).or_else(|| {
                // Only where no single move would do.
                order.iter().find_map(|from| self.chain(*from))
            });
            let Some(path) = path else { return };
            for (row, place, to) in path {
                let from = self.lines[row].nodes[place];
                self.next[from] = (row, place);
                self.put(row, place, to);
            }
        }
    }

    fn may_take(&self, row: usize, place: usize, to: usize) -> bool {
        let line = &self.lines[row];
        !line.nodes.contains(&to) && self.crowd(row, place, to) <= self.crowd(row, place, line.nodes[place])
    }

    fn is_relief(&self, from: usize, to: usize) -> bool {
        self.held[from] >= self.held[to] + 2
    }

    /// One move to a broker with clearly less.
    fn single(&self, from: usize) -> Option<Vec<(usize, usize, usize)>> {
        let empty: Vec<usize> = self.takers().filter(|to| self.is_relief(from, *to)).collect();
        if empty.is_empty() {
            return None;
        }
        let on = &self.on[from];
        let around = on.range(self.next[from]..).chain(on.range(..self.next[from]));
        let moves = around.flat_map(|(row, place)| empty.iter().map(|to| (*row, *place, *to)));
        let key = |(row, place, to): &(usize, usize, usize)| {
            let skew = self.of_topic(*to, *row) as isize - self.of_topic(from, *row) as isize;
            (self.cost(*row, from, *to), self.held[*to], skew, *place, *row, *to)
        };
        let moves = moves.filter(|(row, place, to)| self.may_take(*row, *place, *to)).take(CHOICE);
        moves.min_by_key(key).map(|one| vec![one])
    }

    /// Moves that pass one replica's burden on from broker to broker, to one with clearly less.
    fn chain(&self, from: usize) -> Option<Vec<(usize, usize, usize)>> {
        if !self.takers().any(|to| self.is_relief(from, to)) {
            return None;
        }
        let mut came: Vec<Option<(usize, usize, usize)>> = vec![None; self.ids.len()];
        let mut queue = VecDeque::from([from]);
        while let Some(giver) = queue.pop_front() {
            for &(row, place) in &self.on[giver] {
                // Each row once in a chain: a second step of the same row would meet what the first one changed.
                if self.path(&came, giver).iter().any(|(used, ..)| *used == row) {
                    continue;
                }
                for to in self.takers() {
                    if to == from || came[to].is_some() || !self.may_take(row, place, to) {
                        continue;
                    }
                    came[to] = Some((giver, row, place));
                    if self.is_relief(from, to) {
                        return Some(self.path(&came, to));
                    }
                    queue.push_back(to);
                }
            }
        }
        None
    }

    fn path(&self, came: &[Option<(usize, usize, usize)>], end: usize) -> Vec<(usize, usize, usize)> {
        let mut path = Vec::new();
        let mut at = end;
        while let Some((giver, row, place)) = came[at] {
            path.push((row, place, at));
            at = giver;
        }
        path
    }

    /// Chooses preferred leaders of these rows so that they are level; whoever holds the log already comes first where it is equal.
    fn elect(&mut self, rows: &[usize]) {
        let mut led = vec![0; self.ids.len()];
        for line in &self.lines {
            led[line.nodes[0]] += 1;
        }
        let eligible = |line: &Line| -> Vec<usize> {
            line.nodes.iter().copied().filter(|node| self.takes[*node]).collect()
        };
        let mut choices: Vec<(usize, Vec<usize>)> = Vec::new();
        for at in rows {
            let line = &self.lines[*at];
            let mut members = eligible(line);
            let leader = line.nodes[0];
            let keeps = line.origin[0] == leader && members.contains(&leader);
            // One that cannot lead keeps its place while it is not to leave: it comes back.
            if members.is_empty() || (line.origin[0] == leader && !keeps) {
                continue;
            }
            if !keeps {
                led[leader] -= 1;
                let key = |at: &usize| (led[members[*at]], !line.origin.contains(&members[*at]));
                let best = (0..members.len()).min_by_key(key).expect("it is not empty");
                members.swap(0, best);
                led[members[0]] += 1;
            } else {
                let first = members.iter().position(|node| *node == leader).expect("it is eligible");
                members.swap(0, first);
            }
            choices.push((*at, members));
        }
        let (rows, mut members): (Vec<usize>, Vec<Vec<usize>>) = choices.into_iter().unzip();
        placement::level_leaders(&mut members, &led);
        for (row, members) in rows.into_iter().zip(members) {
            let nodes = &mut self.lines[row].nodes;
            let first = nodes.iter().position(|node| *node == members[0]).expect("one of its own");
            nodes.swap(0, first);
        }
    }

    fn plan(&self) -> Plan {
        let changed = self.lines.iter().enumerate().filter(|(_, line)| line.nodes != line.origin);
        let named = |line: &Line| line.nodes.iter().map(|node| self.ids[*node]).collect();
        changed.map(|(at, line)| (at, named(line))).collect()
    }
}
